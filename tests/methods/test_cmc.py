"""CMC's step against softmax cross-entropy between the halves, written out one region and one key at a time.

"queue" is MoCo's way to keys, "bank" the paper's.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import PLAIN, UNCHANGED, exact_canvas, textured
from torch import Tensor, nn
from torchvision.ops import roi_align

from smalti.errors import UserError
from smalti.methods.cmc import CMCConfig, QueueCMC
from smalti.methods.method import DataInfo, Progress
from smalti.models.color_spaces import scaled_lab
from smalti.models.heads import ProjectorConfig
from smalti.models.momentum import update_targets
from smalti.models.network import Network
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.mixture import Mixture, UnMix
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition
from smalti.views.rng import field_key, mix

BACKBONE = SplitBackbone(
    half=TimmBackbone(
        name="resnet18",
        stem="stride8",
        options={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "zero_init_last": False},
    )
)
STANDARD = Crop(size=32, augmentation=PLAIN)
MIXED = Mixture(size=32, region_probability=0.5, augmentation=PLAIN)
COMPOSED: dict[str, list[Composition]] = {
    "nothing": [],
    "a second crop": [STANDARD],
    "multi-crop": [Crop(size=16, count=2, augmentation=PLAIN)],
    "mosaic": [Mosaic(tile_size=16, tiles=4, max_shift=20, augmentation=PLAIN)],
    "unmix": [UnMix(size=32, augmentation=PLAIN)],
    "two compositions": [Mosaic(tile_size=16, max_shift=20), UnMix(size=32)],
}
IMAGES = textured(8)
START = Progress(step=0, total_steps=10, steps_per_epoch=5)
NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


NUM_IMAGES = 13  # of the data set, of which the batch has those numbered here
INDICES = torch.tensor([5, 0, 12, 7, 3, 1, 9, 10])
DATA = DataInfo(NORMALIZE, num_images=NUM_IMAGES)


def make_canvases(composed: Sequence[Composition] = (), standard: Composition = STANDARD) -> list[Canvas]:
    views = [standard, *composed]
    canvases = [exact_canvas(view, IMAGES, view=number) for number, view in enumerate(views)]
    return [Canvas(pixels=NORMALIZE(canvas.pixels), regions=canvas.regions.numbered(INDICES)) for canvas in canvases]


def make_method(projector: str = "mlp", negatives: str = "queue", **settings: Any) -> Any:
    torch.manual_seed(0)
    defaults = {"projector": ProjectorConfig(kind=projector, dim=16), "num_negatives": 24, "region_size": 3}
    config = CMCConfig(negatives=negatives, **defaults | settings)
    method = config.build(BACKBONE.build(), DATA).double()
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def embed(network: Network, canvas: Canvas, half: str) -> list[tuple[int, float, Tensor]]:
    """Of every region: its image, its weight and the embedding of one half; with a queue centered over all of them."""
    mean, std = (torch.tensor(value, dtype=torch.float64)[:, None, None] for value in vars(NORMALIZE).values())
    space = scaled_lab((canvas.pixels * std + mean).clamp(0, 1))
    channels = space[:, :1] if half == "lightness" else space[:, 1:]
    maps = getattr(network.backbone.model, half).forward_features(channels)
    projector = getattr(network.projector, half)
    centered = isinstance(projector, nn.Sequential)
    layers = projector[0].layers if centered else projector.layers
    images, weights, rows = [], [], []
    for n, k in torch.cartesian_prod(*map(torch.arange, canvas.regions.source.shape)).tolist():
        feature = maps[n].mean(dim=(1, 2))
        if not canvas.regions.whole:
            box = canvas.regions.boxes[n, k].double()
            scale = maps.shape[-1] / canvas.pixels.shape[-1]
            cells = roi_align(maps[n : n + 1], [box[None]], 3, scale, sampling_ratio=-1, aligned=True)
            feature = cells[0].mean(dim=(1, 2))
        images.append(int(canvas.regions.source[n, k]))
        weights.append(float(canvas.regions.weight[n, k]))
        rows.append(layers(feature[None])[0])
    mean = sum(rows) / len(rows)
    variance = sum((row - mean) ** 2 for row in rows) / len(rows)
    z = [(row - mean) / (variance + 1e-5).sqrt() for row in rows] if centered else rows
    return [(*region, row / row.norm()) for *region, row in zip(images, weights, z, strict=True)]


def expected_loss(method: QueueCMC, standard: Canvas, composed: Sequence[Canvas]) -> float:
    tau = method.config.temperature
    loss = 0.0
    for half, other in (("lightness", "color"), ("color", "lightness")):
        negatives = getattr(method, f"{other}_queue").keys
        keys = {image: z for image, _, z in embed(method.key_network, standard, other)}
        for number, canvas in enumerate([standard, *composed]):
            regions = embed(method.query_network, canvas, half)
            for image, weight, z in regions:
                others = [k for i, k in keys.items() if i != image] if number else []
                below = sum(math.exp(float(z @ n) / tau) for n in [keys[image], *others, *negatives])
                loss -= weight * math.log(math.exp(float(z @ keys[image]) / tau) / below) / len(canvas.pixels)
    return loss


@pytest.mark.parametrize("standard", [STANDARD, MIXED], ids=["crop", "mixture"])
@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
def test_the_loss_with_a_queue_is_cross_entropy_with_keys(composed: list[Composition], standard: Composition) -> None:
    method = make_method()
    first, *rest = make_canvases(composed, standard)
    with torch.no_grad():
        expected = expected_loss(method, first, rest)
        step = method([first, *rest], START)
    assert step.loss.dtype == torch.float64
    assert float(step.loss) == pytest.approx(expected, abs=1e-6)
    assert len(step.logs) == 2 + len(composed)


def drawn_for(position: int, step: int, count: int = 24) -> list[int]:
    """Images of the data set for one image of the batch, hashed one at a time."""
    return [int(mix(0, field_key("negatives"), step, position, number)) % NUM_IMAGES for number in range(count)]


@pytest.mark.parametrize("standard", [STANDARD, MIXED], ids=["crop", "mixture"])
@pytest.mark.parametrize("composed", COMPOSED.values(), ids=COMPOSED)
def test_the_loss_with_a_bank_is_cross_entropy_with_stored_halves(
    composed: list[Composition], standard: Composition
) -> None:
    """`NCEAverage` and `NCESoftmaxLoss` of the released code, two steps long, so that the second meets a moved bank."""
    method = make_method(negatives="bank")
    canvases, tau = make_canvases(composed, standard), method.config.temperature
    banks = {half: [*getattr(method, f"{half}_bank").entries.clone()] for half in ("lightness", "color")}
    for step in range(2):
        expected, seen = 0.0, {}
        for half, other in (("lightness", "color"), ("color", "lightness")):
            for number, canvas in enumerate(canvases):
                with torch.no_grad():
                    regions = embed(method.query_network, canvas, half)
                for position, weight, z in regions:
                    image = int(INDICES[position])
                    scores = [float(z @ banks[other][i]) / tau for i in [image, *drawn_for(position, step)]]
                    expected -= weight * (scores[0] - math.log(sum(map(math.exp, scores)))) / len(canvas.pixels)
                    if not number:
                        seen[half, image] = z
        with torch.no_grad():
            loss = method(canvases, replace(START, step=step)).loss
        assert loss.dtype == torch.float64
        assert float(loss) == pytest.approx(expected, abs=1e-6)
        for (half, image), z in seen.items():
            moved = 0.5 * banks[half][image] + 0.5 * z
            banks[half][image] = moved / moved.norm()
        for half, entries in banks.items():
            torch.testing.assert_close(getattr(method, f"{half}_bank").entries, torch.stack(entries), atol=1e-6, rtol=0)


def test_negatives_are_drawn_anew_for_every_image_and_step() -> None:
    draws = [tuple(drawn_for(position, step)) for position in range(8) for step in range(4)]
    assert len(set(draws)) == len(draws)


def test_a_bank_needs_the_number_of_images_and_of_each_its_own() -> None:
    with pytest.raises(UserError, match="num_images"):
        CMCConfig().build(BACKBONE.build(), DataInfo(NORMALIZE))
    canvas = make_canvases()[0]
    with pytest.raises(UserError, match="index"):
        make_method(negatives="bank")([replace(canvas, regions=replace(canvas.regions, index=None))], START)


def test_nothing_follows_the_networks_but_the_bank() -> None:
    method = make_method(negatives="bank")
    assert method.momentum_pairs(START) == []
    assert method.encoder() is method.query_network.backbone


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_what_a_bank_keeps_of_itself(momentum: float) -> None:
    method = make_method(negatives="bank", bank_momentum=momentum)
    before = F.normalize(method.color_bank.entries[INDICES], dim=1)
    (standard,) = make_canvases()
    with torch.no_grad():
        z = torch.stack([z for _, _, z in embed(method.query_network, standard, "color")])
        method([standard], START)
    expected = before if momentum else z
    torch.testing.assert_close(method.color_bank.entries[INDICES], expected, atol=1e-6, rtol=0)


def test_the_loss_tells_one_images_key_from_anothers() -> None:
    method = make_method()
    standard, mosaic = make_canvases(COMPOSED["mosaic"])
    wrong = Canvas(pixels=standard.pixels.roll(1, dims=0), regions=standard.regions)
    with torch.no_grad():
        terms = [copy.deepcopy(method)([keys, mosaic], START).logs["loss_composed_0"] for keys in (standard, wrong)]
    assert abs(terms[0] - terms[1]) > 1e-4


@pytest.mark.parametrize("negatives", ["bank", "queue"])
@pytest.mark.parametrize("projector", ["mlp", "conv"])
def test_all_of_both_query_networks_learns_and_none_of_the_key_networks(projector: str, negatives: str) -> None:
    method = make_method(projector, negatives)
    method(make_canvases(COMPOSED["mosaic"]), START).loss.backward()
    for name, parameter in method.query_network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    if negatives == "queue":
        assert all(parameter.grad is None for parameter in method.key_network.parameters())


def test_either_queue_afterwards_holds_the_keys_of_its_half() -> None:
    method = make_method()
    (standard,) = make_canvases()
    with torch.no_grad():
        method([standard], START)
        for half in ("lightness", "color"):
            keys = torch.stack([z for _, _, z in embed(method.key_network, standard, half)])
            held = getattr(method, f"{half}_queue").keys[: len(keys)]
            torch.testing.assert_close(held, keys, atol=1e-6, rtol=0)


def test_the_statistics_of_the_data_are_part_of_the_networks() -> None:
    method = make_method()
    for network in (method.query_network, method.key_network):
        assert network.backbone.model.mean.flatten().tolist() == pytest.approx(NORMALIZE.mean)
        assert network.backbone.model.std.flatten().tolist() == pytest.approx(NORMALIZE.std)


@pytest.mark.parametrize("negatives", ["bank", "queue"])
def test_a_state_dict_restores_everything(negatives: str) -> None:
    method = make_method(negatives=negatives)
    with torch.no_grad():
        method(make_canvases(), START)
    other = replace(method.config).build(BACKBONE.build(), DataInfo(UNCHANGED, num_images=NUM_IMAGES)).double()
    other.load_state_dict(method.state_dict())
    canvases = make_canvases(COMPOSED["mosaic"])
    with torch.no_grad():
        assert torch.equal(other(canvases, START).loss, method(canvases, START).loss)


@pytest.mark.parametrize("negatives", ["bank", "queue"])
def test_the_loss_keeps_32_bits_under_autocast(negatives: str) -> None:
    method = make_method(negatives=negatives, temperature=0.01).float()
    canvases = [Canvas(pixels=canvas.pixels.float(), regions=canvas.regions) for canvas in make_canvases()]
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert method(canvases, START).loss.dtype == torch.float32


def test_the_key_network_follows_the_query_network() -> None:
    method = make_method(ema_momentum=0.97)
    (pair,) = method.momentum_pairs(START)
    assert pair == (method.query_network, method.key_network, 0.97)
    assert method.encoder() is method.query_network.backbone


def test_a_backbone_that_splits_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="lightness and color"):
        CMCConfig().build(TimmBackbone(name="resnet18").build(), DATA)


@pytest.mark.parametrize("views", [[], [Mosaic(), STANDARD], [UnMix(), STANDARD]])
def test_views_that_cmc_cannot_learn_from_are_refused(views: list[Composition]) -> None:
    with pytest.raises(UserError, match="keys are made"):
        CMCConfig().check(views)


@pytest.mark.parametrize(
    "settings", [{"ema_momentum": 1.1}, {"temperature": 0}, {"num_negatives": 0}, {"bank_momentum": 2}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        CMCConfig(**settings)


def test_images_keep_apart_though_the_halves_begin_far_from_each_other() -> None:
    """Without centering, embeddings draw together within this many steps, and stay there."""
    torch.manual_seed(0)
    config = CMCConfig(
        projector=ProjectorConfig(dim=16),
        negatives="queue",
        num_negatives=512,
        temperature=0.1,
        ema_momentum=0.98,
        region_size=3,
    )
    method = config.build(BACKBONE.build(), DATA)
    optimizer = torch.optim.SGD(method.query_network.parameters(), lr=0.05, momentum=0.9)
    images = textured(16)
    for step in range(30):
        view = exact_canvas(STANDARD, images, view=0, step=step, seed=step)
        progress = Progress(step=step, total_steps=60, steps_per_epoch=5)
        canvas = Canvas(pixels=NORMALIZE(view.pixels).float(), regions=view.regions)
        loss, logs = method([canvas], progress)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        update_targets(method.momentum_pairs(progress))
    assert logs["z_std"] > 0.7
