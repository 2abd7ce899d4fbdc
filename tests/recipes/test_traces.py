"""No recipe's loss changes unnoticed: where one is meant to, write its trace again (see traces.py)."""

import pytest
import torch
import traces

from smalti.recipes import all_recipes, get_recipe


@pytest.mark.parametrize("name", all_recipes())
def test_the_first_losses_are_those_on_file(name: str) -> None:
    expected = [float(line) for line in traces.path_of(name).read_text().splitlines()]
    assert list(traces.trace(get_recipe(name))) == pytest.approx(expected, rel=1e-5)


def test_no_trace_is_left_over() -> None:
    assert {path.stem for path in traces.FOLDER.glob("*.txt")} == set(all_recipes())


def test_traces_tell_recipes_apart() -> None:
    losses = [tuple(traces.path_of(name).read_text().split()) for name in all_recipes()]
    assert len(set(losses)) == len(losses)
    assert torch.tensor([[float(loss) for loss in trace] for trace in losses]).isfinite().all()
