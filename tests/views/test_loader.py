"""What a batch holds depends on the seed and the step, not on who makes it or how."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers import EIGHT_BIT, PLAIN, UNCHANGED, ListSource, color, painted, textured
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from smalti.errors import UserError
from smalti.images.statistics import PixelStatistics
from smalti.views.batch import Batch, canvases
from smalti.views.collate import Collate
from smalti.views.crops import Crop
from smalti.views.loader import BatchOrder, ViewDataset, load_batches
from smalti.views.mosaic import Mosaic
from smalti.views.render_device import render

VIEWS = (
    Crop(size=16),
    Crop(size=8, count=2),
    Mosaic(tile_size=8, max_shift=5),
    Mosaic(tile_size=8, max_shift=5, background="noise"),
)


def make_dataset(images: Sequence[NDArray[Any] | None], batch_size: int = 16, **settings: Any) -> ViewDataset:
    order = BatchOrder(num_images=len(images), batch_size=batch_size, seed=5, block=settings.pop("block", 4))
    settings = {"views": VIEWS, "statistics": EIGHT_BIT} | settings
    return ViewDataset(ListSource(images), order=order, **settings)


def assert_same(batch: Batch, other: Batch) -> None:
    assert (batch.step, batch.bad) == (other.step, other.bad)
    for plan, pixels, other_plan, other_pixels in zip(
        batch.plans, batch.pixels, other.plans, other.pixels, strict=True
    ):
        assert torch.equal(pixels, other_pixels)
        for name in ("source", "boxes", "weight"):
            assert torch.equal(getattr(plan.regions, name), getattr(other_plan.regions, name))
        np.testing.assert_array_equal(plan.noise_key, other_plan.noise_key)


@given(st.integers(1, 60), st.integers(0, 2**40), st.data())
def test_an_epoch_shows_each_image_at_most_once_and_leaves_out_less_than_a_batch(
    images: int, seed: int, data: st.DataObject
) -> None:
    order = BatchOrder(num_images=images, batch_size=data.draw(st.integers(1, images)), seed=seed)
    epoch = data.draw(st.integers(0, 3))
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    shown = np.concatenate([order.indices(step) for step in steps])
    assert len(np.unique(shown)) == len(shown) > images - order.batch_size
    assert set(shown) <= set(range(images))


def test_every_epoch_has_another_order() -> None:
    order = BatchOrder(num_images=50, batch_size=50, seed=0)
    assert (order.indices(0) != order.indices(1)).any()
    assert (order.indices(0) != BatchOrder(num_images=50, batch_size=50, seed=1).indices(0)).any()


@pytest.mark.parametrize(("batch", "block"), [(256, 32), (96, 32), (60, 30), (8, 8), (7, 7), (74, 37), (22, 22)])
def test_the_block_left_to_choose_divides_the_batch(batch: int, block: int) -> None:
    assert BatchOrder(num_images=999, batch_size=batch, seed=0).block_size == block


@pytest.mark.parametrize("ranks", [2, 4])
def test_views_do_not_depend_on_the_number_of_ranks(ranks: int) -> None:
    images = textured(40)
    whole = make_dataset(images)[3]
    shares = [make_dataset(images, rank=rank, world_size=ranks)[3] for rank in range(ranks)]
    for number, plan in enumerate(whole.plans):
        assert torch.equal(torch.cat([share.pixels[number] for share in shares]), whole.pixels[number])
        regions = [share.plans[number].regions for share in shares]
        source = torch.cat([part.source + rank * 16 // ranks for rank, part in enumerate(regions)])
        assert torch.equal(source, plan.regions.source)
        assert torch.equal(torch.cat([part.boxes for part in regions]), plan.regions.boxes)
        assert torch.equal(torch.cat([part.weight for part in regions]), plan.regions.weight)
        if plan.noise_key is not None:
            keys = np.concatenate([share.plans[number].noise_key for share in shares])
            np.testing.assert_array_equal(keys, plan.noise_key)


@pytest.mark.parametrize("workers", [1, 2])
def test_views_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    dataset = make_dataset([None, *textured(39)])
    alone = list(load_batches(dataset, range(1, 5), workers=0, pin_memory=False))
    assert [batch.step for batch in alone] == [1, 2, 3, 4]
    for batch, other in zip(load_batches(dataset, range(1, 5), workers, pin_memory=False), alone, strict=True):
        assert_same(batch, other)


def test_a_run_resumed_at_a_step_sees_what_it_would_have_seen() -> None:
    images = textured(40)
    dataset = make_dataset(images)
    before = [dataset[step] for step in range(5)]
    assert_same(make_dataset(images)[4], before[4])


def test_the_device_executor_gets_the_same_plans_and_whole_images() -> None:
    images = painted(20)
    host, device = make_dataset(images)[2], make_dataset(images, executor="device")[2]
    assert device.pixels == []
    assert device.images is not None
    assert device.images.dtype == torch.uint8
    for plan, pixels in zip(device.plans, host.pixels, strict=True):
        rendered = render(plan, device.images)
        assert (rendered - pixels / 255).abs().mean() < 0.004


def test_regions_show_the_images_of_the_order() -> None:
    dataset = make_dataset(painted(40), views=[Mosaic(tile_size=8, max_shift=0, augmentation=PLAIN)])
    batch = dataset[1]
    indices = BatchOrder(num_images=40, batch_size=16, seed=5, block=4).indices(1)
    regions = batch.plans[0].regions
    for canvas, sources, boxes in zip(batch.pixels[0], regions.source, regions.boxes.int(), strict=True):
        for source, (x, y, _, _) in zip(sources.tolist(), boxes.tolist(), strict=True):
            assert canvas[:, y, x].tolist() == color(int(indices[source])).tolist()
            np.testing.assert_array_equal(dataset.image(1, source)[0, 0], color(int(indices[source])))


def shown_images(batch: Batch) -> list[int]:
    """Of painted images, one on each canvas."""
    colors = {tuple(color(image).tolist()): image for image in range(200)}
    return [colors[tuple(canvas[:, 0, 0].tolist())] for canvas in batch.pixels[0]]


PLAIN_CROP = [Crop(size=8, augmentation=PLAIN)]


@given(st.sets(st.integers(0, 39), min_size=1, max_size=6))
def test_a_bad_image_is_replaced_by_a_good_one_from_outside_the_batch(bad: set[int]) -> None:
    images = [None if i in bad else image for i, image in enumerate(painted(40))]
    batch = make_dataset(images, views=PLAIN_CROP)[0]
    indices = BatchOrder(num_images=40, batch_size=16, seed=5, block=4).indices(0)
    for wanted, shown in zip(indices.tolist(), shown_images(batch), strict=True):
        assert shown == wanted if wanted not in bad else shown not in bad | set(indices.tolist())
    reported = {name for name, _ in batch.bad}
    assert {f"list/{i}" for i in bad & set(indices.tolist())} <= reported <= {f"list/{i}" for i in bad}
    assert all(reason == "torn" for _, reason in batch.bad)


def test_a_bad_image_is_replaced_alike_on_every_rank_and_rerun() -> None:
    images = [image if i % 3 else None for i, image in enumerate(textured(40))]
    whole = make_dataset(images)[0]
    assert_same(make_dataset(images)[0], whole)
    shares = [make_dataset(images, rank=rank, world_size=2)[0] for rank in range(2)]
    assert torch.equal(torch.cat([share.pixels[0] for share in shares]), whole.pixels[0])
    assert shares[0].bad + shares[1].bad == whole.bad


def test_a_bad_image_is_replaced_even_when_the_batch_is_the_whole_set() -> None:
    images = [None, *painted(16)[1:]]
    assert 0 not in shown_images(make_dataset(images, views=PLAIN_CROP)[0])


def test_a_set_of_bad_images_is_an_error_rather_than_a_wait() -> None:
    images = [None] * 15 + painted(1)
    dataset = make_dataset(images, views=PLAIN_CROP)
    dataset._source.images = [None] * 16  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="unusable"):
        dataset[0]


def test_deeper_images_become_floats_between_0_and_1() -> None:
    images = [image.astype(np.uint16) * 257 for image in painted(16)]
    statistics = PixelStatistics(low=0, high=65535, mean=(0.5,) * 3, std=(0.2,) * 3)
    deep = make_dataset(images, statistics=statistics, views=PLAIN_CROP)[0].pixels[0]
    shallow = make_dataset(painted(16), views=PLAIN_CROP)[0].pixels[0]
    assert deep.dtype == torch.float32
    torch.testing.assert_close(deep, shallow / 255, atol=1e-6, rtol=0)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(UserError, match="--batch-size 10 or less"):
        BatchOrder(num_images=10, batch_size=11, seed=0)


def test_a_block_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(UserError, match="divisor"):
        BatchOrder(num_images=100, batch_size=16, seed=0, block=6)


@pytest.mark.parametrize(("ranks", "block"), [(3, 4), (4, 8), (2, 16)])
def test_ranks_that_would_split_a_block_are_refused(ranks: int, block: int) -> None:
    with pytest.raises(UserError, match="whole number of blocks"):
        make_dataset(painted(20), world_size=ranks, block=block)


def test_gradients_cannot_accumulate_over_more_parts_than_an_epoch_has() -> None:
    order = BatchOrder(num_images=40, batch_size=16, seed=0)
    order.check_parts(2)
    with pytest.raises(UserError):
        order.check_parts(3)


def test_moving_a_batch_moves_its_pixels_and_nothing_else() -> None:
    batch = make_dataset(painted(16))[0]
    moved = batch.to(torch.device("meta"))
    pixels: list[Tensor] = moved.pixels
    assert {canvas.device.type for canvas in pixels} == {"meta"}
    assert moved.plans is batch.plans


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_region_knows_the_number_of_its_image_in_the_data_set(ranks: int) -> None:
    """Painted images tell their numbers by their colors, one that replaces a bad one by its own."""
    images: list[NDArray[np.uint8] | None] = [*painted(24)]
    images[3] = None
    for rank in range(ranks):
        dataset = make_dataset(
            images, views=(Crop(size=16, augmentation=PLAIN), *VIEWS[2:3]), batch_size=24, rank=rank, world_size=ranks
        )
        batch = dataset[0]
        standard, mosaic = canvases(batch, dataset._views, UNCHANGED)
        shown = (standard.pixels.mean(dim=(2, 3)) * 255).round().int().tolist()
        index = standard.regions.index
        assert shown == [color(number).tolist() for number in index[:, 0].tolist()]
        assert 3 not in index
        assert torch.equal(mosaic.regions.index, index[:, 0][mosaic.regions.source])


def test_a_collate_knows_numbers_where_all_items_tell_them() -> None:
    items = [{"image": image, "index": np.int64(10 + number)} for number, image in enumerate(textured(4))]
    assert Collate([Crop(size=16)])(items)[0].regions.index.tolist() == [[10], [11], [12], [13]]
    for others in ([*items[:3], {"image": items[3]["image"]}], textured(4), [{**items[0], "index": "a"}]):
        assert Collate([Crop(size=16)])(others)[0].regions.index is None
