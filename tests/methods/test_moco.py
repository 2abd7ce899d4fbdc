"""MoCo's step against MosRep's Eq. 9, written as the sums that the paper prints."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import NO_DATA, PLAIN, exact_canvas, textured
from torch import Tensor
from torchvision.ops import roi_align

from smalti.errors import UserError
from smalti.methods import moco
from smalti.methods.method import Progress
from smalti.methods.moco import MoCo, MoCoConfig
from smalti.models.heads import ProjectorConfig
from smalti.models.network import Network
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition
from smalti.views.rng import field_key, permutation

BACKBONES = {
    "resnet": TimmBackbone(name="resnet18", stem="stride8", options={"channels": [8, 8, 16, 16]}),
    "vit": TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 4, "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3},
    ),
}
COMPOSED: dict[str, list[Composition]] = {
    "two crops": [],
    "multi-crop": [Crop(size=16, count=4, augmentation=PLAIN)],
    "one tile": [Mosaic(tile_size=32, tiles=1, max_shift=20, augmentation=PLAIN)],
    "four tiles": [Mosaic(tile_size=16, tiles=4, max_shift=20, augmentation=PLAIN)],
    "nine tiles": [Mosaic(tile_size=12, tiles=9, max_shift=20, augmentation=PLAIN)],
    "noise": [Mosaic(tile_size=16, tiles=4, max_shift=20, background="noise", augmentation=PLAIN)],
    "two compositions": [
        Mosaic(tile_size=16, tiles=4, max_shift=20, augmentation=PLAIN),
        Crop(size=16, count=2, augmentation=PLAIN),
    ],
}
STANDARD = Crop(size=32, augmentation=PLAIN)
IMAGES = textured(10)
START = Progress(step=0, total_steps=10, steps_per_epoch=5)


def make_canvases(composed: Sequence[Composition] = ()) -> list[Canvas]:
    return [exact_canvas(view, IMAGES, view=number) for number, view in enumerate([STANDARD, STANDARD, *composed])]


def make_method(backbone: str = "resnet", **settings: Any) -> MoCo:
    """In float64, with weights large enough that embeddings differ, and a key network of its own."""
    torch.manual_seed(0)
    config = MoCoConfig(**{"queue": 24, "shuffle_bn_group": 0, "region_size": 3, "temperature": 0.1} | settings)
    method = config.build(BACKBONES[backbone].build(), NO_DATA).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def embed(network: Network, canvas: Canvas) -> list[tuple[int, float, Tensor]]:
    """Of every region: its image, its area in pixels and its embedding, one region at a time."""
    features = network.backbone(canvas.pixels)
    scale = features.map.shape[-1] / canvas.pixels.shape[-1]
    found = []
    for n, k in torch.cartesian_prod(*map(torch.arange, canvas.regions.source.shape)).tolist():
        x0, y0, x1, y1 = box = canvas.regions.boxes[n, k].double()
        feature = features.pooled[n]
        if not canvas.regions.whole:
            cells = roi_align(features.map[n : n + 1], [box[None]], 3, scale, sampling_ratio=-1, aligned=True)
            feature = cells[0].mean(dim=(1, 2))
        z = network.projector.layers(feature[None])[0]
        found.append((int(canvas.regions.source[n, k]), float((x1 - x0) * (y1 - y0)), z / z.norm()))
    return found


def equation_9(
    method: MoCo, query: Canvas, key: Canvas, composed: Sequence[Canvas], views: Sequence[Composition]
) -> float:
    tau, negatives, count = method.config.temperature, method.queue.keys, len(IMAGES)

    def similarity(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b) / tau)

    z_key = {image: z for image, _, z in embed(method.key_network, key)}
    loss = 0.0
    for image, _, z in embed(method.query_network, query):
        found = similarity(z, z_key[image])
        loss -= math.log(found / (found + sum(similarity(z, n) for n in negatives))) / count
    for canvas, view in zip(composed, views, strict=True):
        regions = embed(method.query_network, canvas)
        crops = len(regions) // count  # M
        whole = (view.tile_size if isinstance(view, Mosaic) else view.canvas_size) ** 2
        for image in range(count):
            own = [(area, z) for source, area, z in regions if source == image]
            assert len(own) == crops
            for area, z in own:
                candidates = z_key.values() if method.config.batch_negatives else [z_key[image]]
                below = sum(similarity(z, n) for n in [*candidates, *negatives])
                loss -= math.sqrt(area / whole) * math.log(similarity(z, z_key[image]) / below) / crops / count
    return loss


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_is_equation_9(backbone: str, composed: list[Composition], symmetric: bool) -> None:
    method = make_method(backbone, symmetric=symmetric)
    first, second, *rest = make_canvases(composed)
    with torch.no_grad():
        expected = equation_9(method, first, second, rest, composed)
        if symmetric:
            expected += equation_9(method, second, first, rest, composed)
        loss = method([first, second, *rest], START).loss
    assert loss.dtype == torch.float64
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_negatives_may_be_the_queue_alone() -> None:
    """As in Un-Mix."""
    method = make_method(batch_negatives=False)
    first, second, *rest = make_canvases(COMPOSED["four tiles"])
    with torch.no_grad():
        expected = equation_9(method, first, second, rest, COMPOSED["four tiles"])
        assert float(method([first, second, *rest], START).loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_loss_tells_one_images_key_from_anothers(backbone: str) -> None:
    method = make_method(backbone)
    first, second, mosaic = make_canvases(COMPOSED["four tiles"])
    dealt_wrongly = Canvas(pixels=second.pixels.roll(1, dims=0), regions=second.regions)
    with torch.no_grad():
        terms = [copy.deepcopy(method)([first, key, mosaic], START).logs for key in (second, dealt_wrongly)]
    for name in ("loss_standard", "loss_composed_0"):
        assert abs(terms[0][name] - terms[1][name]) > 1e-4


@pytest.mark.parametrize("projector", ["mlp", "conv"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_of_the_query_network_learns_and_none_of_the_key_network(backbone: str, projector: Any) -> None:
    method = make_method(backbone, projector=ProjectorConfig(kind=projector, dim=16))
    method(make_canvases(COMPOSED["four tiles"]), START).loss.backward()
    for name, parameter in method.query_network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in method.key_network.parameters())


def test_a_region_out_of_sight_has_no_part_in_the_loss() -> None:
    method = make_method()
    *standard, mosaic = make_canvases([Mosaic(tile_size=16, tiles=4, max_shift=32, alpha=0.3, augmentation=PLAIN)])
    hidden = mosaic.regions.weight == 0
    assert hidden.any()
    source = torch.where(hidden, mosaic.regions.source.roll(1), mosaic.regions.source)  # the key of another image
    other = replace(mosaic, regions=replace(mosaic.regions, source=source))
    losses = [copy.deepcopy(method)([*standard, canvas], START).loss.item() for canvas in (mosaic, other)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_queue_afterwards_holds_the_keys_of_the_step(symmetric: bool) -> None:
    method = make_method(symmetric=symmetric)
    before = method.queue.keys.clone()
    first, second = make_canvases()
    with torch.no_grad():
        method([first, second], START)
        keys = [
            z
            for canvas in ([second, first] if symmetric else [second])
            for _, _, z in embed(method.key_network, canvas)
        ]
    torch.testing.assert_close(method.queue.keys[: len(keys)], torch.stack(keys), atol=1e-9, rtol=0)
    assert torch.equal(method.queue.keys[len(keys) :], before[len(keys) :])


def test_the_candidates_of_a_composed_region_hold_every_key_of_the_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, ...]] = []

    def record(query: Tensor, *rest: Any) -> Tensor:
        seen.append(rest)
        return query.sum(dim=1)

    monkeypatch.setattr(moco, "info_nce_among", record)
    method = make_method()
    before = method.queue.keys.clone()
    canvases = make_canvases(COMPOSED["four tiles"])
    method(canvases, START)
    keys, index, negatives, _ = seen[0]
    own = torch.stack([z for _, _, z in embed(method.key_network, canvases[1])])
    torch.testing.assert_close(keys, own, atol=1e-9, rtol=0)  # in the order of the images
    assert torch.equal(index, canvases[2].regions.source.flatten())
    assert torch.equal(negatives, before)


def keys_of(method: MoCo, step: int = 0) -> Tensor:
    """(B, D) keys of the second view, read from the queue of a copy after a step."""
    method = copy.deepcopy(method)
    with torch.no_grad():
        method(make_canvases(), Progress(step=step, total_steps=10, steps_per_epoch=5, seed=7))
    return method.queue.keys[: len(IMAGES)]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_shuffled_keys_come_back_in_the_order_of_the_images(step: int) -> None:
    method = make_method(shuffle_bn_group=4).eval()  # no batch statistics: the order is all that shuffling could change
    expected = torch.nn.functional.normalize(method.key_network(make_canvases()[1])[:, 0], dim=1)
    torch.testing.assert_close(keys_of(method, step), expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("step", [0, 1])
def test_keys_share_statistics_within_shuffled_groups(step: int) -> None:
    method, plain = make_method(shuffle_bn_group=4), make_method(shuffle_bn_group=0)
    canvas = make_canvases()[1]
    expected = torch.empty(len(IMAGES), 128, dtype=torch.float64)
    for group in torch.from_numpy(permutation(len(IMAGES), 7, field_key("shuffle"), step)).split(4):
        with torch.no_grad():
            together = Canvas(pixels=canvas.pixels[group], regions=canvas.regions)
            features = plain.key_network.backbone(together.pixels)
            expected[group] = torch.nn.functional.normalize(plain.key_network.projector(features), dim=1)
    torch.testing.assert_close(keys_of(method, step), expected, atol=1e-9, rtol=0)


def test_groups_are_shuffled_anew_at_every_step() -> None:
    method = make_method(shuffle_bn_group=4)
    torch.testing.assert_close(keys_of(method, 0), keys_of(method, 0), atol=0, rtol=0)
    assert (keys_of(method, 0) - keys_of(method, 1)).abs().max() > 1e-3


def test_a_group_as_large_as_the_batch_is_the_whole_batch() -> None:
    torch.testing.assert_close(
        keys_of(make_method(shuffle_bn_group=16)), keys_of(make_method(shuffle_bn_group=0)), atol=1e-9, rtol=0
    )


def test_the_key_network_follows_the_query_network() -> None:
    method = make_method(ema_momentum=0.97)
    (pair,) = method.momentum_pairs(START)
    assert pair == (method.query_network, method.key_network, 0.97)
    assert method.encoder() is method.query_network.backbone


def test_a_new_method_starts_with_equal_networks() -> None:
    method = MoCoConfig().build(BACKBONES["resnet"].build(), NO_DATA)
    for ours, theirs in zip(method.query_network.parameters(), method.key_network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("views", [[STANDARD], [STANDARD, Crop(count=2)], [Mosaic(), STANDARD], [STANDARD, Mosaic()]])
def test_views_that_moco_cannot_learn_from_are_refused(views: list[Composition]) -> None:
    with pytest.raises(UserError, match="query and a key"):
        MoCoConfig().check(views)


@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
def test_any_further_composition_is_accepted(composed: list[Composition]) -> None:
    MoCoConfig().check([STANDARD, STANDARD, *composed])


@pytest.mark.parametrize(
    "settings",
    [
        {"ema_momentum": 1.1},
        {"ema_momentum": -0.1},
        {"temperature": 0},
        {"queue": 0},
        {"region_size": 0},
        {"shuffle_bn_group": 1},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        MoCoConfig(**settings)
