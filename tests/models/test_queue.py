"""The queue against a list kept by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.models.queue import Queue


@given(st.integers(1, 12), st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_the_queue_holds_the_last_keys(size: int, batches: list[int]) -> None:
    queue = Queue(size, dim=1)
    expected = queue.keys[:, 0].tolist()  # oldest first
    for number, batch in enumerate(batches, start=1):
        keys = [100.0 * number + i for i in range(batch)]
        queue.enqueue(torch.tensor(keys)[:, None])
        expected = (expected + keys)[-size:]
        start = int(queue.position)
        assert queue.keys[:, 0].roll(-start).tolist() == expected


def test_the_queue_starts_with_random_keys_of_length_1() -> None:
    keys = Queue(50, dim=8).keys
    torch.testing.assert_close(keys.norm(dim=1), torch.ones(50))
    assert len(keys.unique(dim=0)) == 50


def test_keys_and_position_travel_in_the_state_dictionary() -> None:
    queue, other = Queue(5, dim=2), Queue(5, dim=2)
    queue.enqueue(torch.randn(3, 2))
    other.load_state_dict(queue.state_dict())
    for each in (queue, other):
        each.enqueue(torch.ones(4, 2))
    assert torch.equal(other.keys, queue.keys)
    assert set(queue.state_dict()) == {"keys", "position"}


def test_keys_in_the_queue_carry_no_gradient() -> None:
    queue = Queue(5, dim=2)
    queue.enqueue(torch.randn(3, 2, requires_grad=True))
    assert not queue.keys.requires_grad
