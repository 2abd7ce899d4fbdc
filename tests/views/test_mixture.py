"""Image mixture and Un-Mix against the equations, written out for one canvas and one pixel box at a time."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from helpers import EXECUTORS, NO_DATA, PLAIN, UNCHANGED, color, exact_canvas, make_rng, painted, plan_for, textured
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta as beta_distribution
from scipy.stats import kstest
from torch import Tensor

from smalti.errors import UserError
from smalti.losses.info_nce import info_nce_among
from smalti.losses.reduce import weighted_mean
from smalti.methods.method import Progress
from smalti.methods.moco import MoCoConfig
from smalti.models.timm_backbone import TimmBackbone
from smalti.views.crops import Augmentation, Crop
from smalti.views.finish import finish
from smalti.views.mixture import Mixture, MixturePlan, UnMix

SEEDS = st.integers(0, 2**40)
SIZE = 16
CROP = Crop(size=SIZE)
BOTH = Mixture(size=SIZE, global_probability=0.5, region_probability=0.5, global_alpha=0.7, region_beta=2.0)
REGIONS = Mixture(size=SIZE, global_probability=0, region_probability=1, decay=1, augmentation=PLAIN)


def box_of(free: float, u: float, v: float, size: int) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a CutMix box (its appendix A) that leaves a part `free` of the canvas."""
    half, x, y = int(size * np.sqrt(1 - free)) // 2, int(size * u), int(size * v)
    return max(x - half, 0), max(y - half, 0), min(x + half, size), min(y + half, size)


def equation_3(view: Mixture, crops: Tensor, partners: np.ndarray, mixed: np.ndarray, u: np.ndarray) -> Tensor:
    """I_m^{n-1} of every canvas, the own image being I_1 or I_n; partners that are not mixed in are passed over."""
    blends = []
    for own, others in enumerate(partners.tolist()):
        there = [other if here else None for other, here in zip(others, mixed[own].tolist(), strict=True)]
        chain = [own, *there] if view.own_first else [*there, own]
        mixture = None
        for step, image in enumerate(chain):
            if image is None:
                continue
            if mixture is None:
                mixture = crops[image]
            else:
                alpha = float(beta_distribution.ppf(u[own, step - 1], view.global_alpha, view.global_alpha))
                mixture = alpha * crops[image] + (1 - alpha) * mixture
        assert mixture is not None
        blends.append(mixture)
    return torch.stack(blends)


def equations_4_and_5(
    view: Mixture, images: Tensor, own: int, others: list[int], boxes: list[tuple], mixed: list[bool]
) -> Tensor:
    mixture = images[own]  # I_2, the context
    for step, (other, (x0, y0, x1, y1), here) in enumerate(zip(others, boxes, mixed, strict=True)):
        if not here:
            continue
        mask = torch.zeros(SIZE, SIZE, dtype=torch.float64)
        mask[y0:y1, x0:x1] = 1
        mixture = mask * images[other] + (view.decay if step == 0 else 1) * (1 - mask) * mixture
    return mixture


def mixture_by_the_paper(view: Mixture, crops: Tensor, plan: MixturePlan, count: int, block: int, seed: int) -> Tensor:
    rng = make_rng(count, block, seed=seed)

    def draw_mixed(field: str, partners: int, probability: float) -> np.ndarray:
        """(N, partners), drawn for each of them or once for all."""
        drawn = rng.per_canvas(field, count, partners) < probability
        return drawn if view.each_partner else drawn[:, :1].repeat(partners, axis=1)

    steps = view.global_images - 1
    globally = draw_mixed("global", steps, view.global_probability)
    images = equation_3(view, crops, plan.layers[:, :-1], globally, rng.per_canvas("alpha", count, steps))
    steps = view.region_images - 1
    by_regions = draw_mixed("region", steps, view.region_probability)
    u, v, share = (rng.per_canvas(name, count, steps) for name in ("box x", "box y", "free"))
    mixed = images.clone()
    for own in range(count):
        free = beta_distribution.ppf(share[own], view.region_beta, view.region_beta)
        boxes = [box_of(free[step], u[own, step], v[own, step], SIZE) for step in range(steps)]
        mixed[own] = equations_4_and_5(view, images, own, plan.pasted[own].tolist(), boxes, by_regions[own].tolist())
    return mixed


@pytest.mark.parametrize("images", [2, 3, 5])
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("probabilities", [(0.5, 0.5), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize(("own_first", "each_partner"), [(False, False), (True, False), (False, True), (True, True)])
def test_the_view_equals_the_papers(
    images: int, decay: float, probabilities: tuple[float, float], own_first: bool, each_partner: bool
) -> None:
    view = replace(
        BOTH,
        own_first=own_first,
        each_partner=each_partner,
        global_probability=probabilities[0],
        region_probability=probabilities[1],
        global_images=images,
        region_images=7 - images,
        decay=decay,
    )
    photos, seed = textured(12), 3
    plan = plan_for(view, photos, block=6, seed=seed)
    crops = exact_canvas(CROP, photos, block=6, seed=seed).pixels
    expected = mixture_by_the_paper(view, crops, plan, 12, 6, seed)
    pixels = exact_canvas(view, photos, block=6, seed=seed).pixels
    assert pixels.dtype == torch.float64
    torch.testing.assert_close(pixels, expected, atol=1e-6, rtol=0)
    assert (pixels != crops).any()


@given(SEEDS, st.sampled_from([6, 7, 12]))
def test_partners_are_different_images_of_the_same_block(seed: int, block: int) -> None:
    plan = plan_for(BOTH, painted(2 * block), block=block, seed=seed)
    for partners in (plan.layers[:, :-1], plan.pasted):
        for canvas, others in enumerate(partners.tolist()):
            assert len({*others, canvas}) == len(others) + 1
            assert {other // block for other in others} == {canvas // block}
    np.testing.assert_array_equal(plan.layers[:, -1], np.arange(2 * block))


@given(SEEDS, st.booleans(), st.booleans())
def test_a_blend_is_made_of_parts_that_add_up_to_one(seed: int, own_first: bool, each_partner: bool) -> None:
    view = replace(BOTH, own_first=own_first, each_partner=each_partner)
    weights = plan_for(view, painted(8), seed=seed).weights
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


def test_the_last_image_dominates() -> None:
    view = Mixture(size=8, global_probability=1)
    weights = view.plan(np.tile([40, 30], (3000, 1)), make_rng(3000, 6)).weights
    # alpha_k is uniform: the parts of I_1 ... I_4 are 1/8, 1/8, 1/4, 1/2 on average.
    np.testing.assert_allclose(weights.mean(axis=0), [1 / 8, 1 / 8, 1 / 4, 1 / 2], atol=0.02)
    assert kstest(weights[:, -1], "uniform").pvalue > 0.01


def test_the_released_code_mixes_more_images_and_leaves_less_of_the_own() -> None:
    """Of three partners, each with probability 1/2: none in 1/8 of images; of the own image (1/2)^k beside k."""
    view = Mixture(size=8, own_first=True, each_partner=True)
    own = view.plan(np.tile([40, 30], (6000, 1)), make_rng(6000, 6)).weights[:, -1]
    assert (own < 1).mean() == pytest.approx(0.875, abs=0.015)
    assert own[own < 1].mean() == pytest.approx(((3 / 4) ** 3 - 1 / 8) / (7 / 8), abs=0.015)  # 0.34
    text = replace(view, own_first=False, each_partner=False)
    own = text.plan(np.tile([40, 30], (6000, 1)), make_rng(6000, 6)).weights[:, -1]
    assert (own < 1).mean() == pytest.approx(0.5, abs=0.025)
    assert own[own < 1].mean() == pytest.approx(0.5, abs=0.025)


def test_the_released_code_draws_for_every_box_and_decays_with_the_first() -> None:
    view = replace(BOTH, region_probability=0.3, region_images=4, each_partner=True)
    plan = view.plan(np.tile([40, 30], (6000, 1)), make_rng(6000, 6))
    pasted = plan.boxes.any(axis=2)  # but for boxes that chance made empty
    assert pasted.mean(axis=0) == pytest.approx(np.full(3, 0.3), abs=0.04)
    assert abs(np.corrcoef(pasted[:, 0], pasted[:, 1])[0, 1]) < 0.05
    decayed = plan.context < 1
    assert decayed.mean() == pytest.approx(0.3, abs=0.02)
    assert decayed[pasted[:, 0]].all()
    assert not decayed[~pasted[:, 0] & pasted[:, 1]].all()


@pytest.mark.parametrize("executor", EXECUTORS)
@given(seed=SEEDS)
def test_regions_have_the_colors_of_their_images(executor: str, seed: int) -> None:
    images = painted(8)
    plan = plan_for(REGIONS, images, seed=seed)
    pixels = finish(REGIONS, plan, EXECUTORS[executor](plan, images), UNCHANGED).pixels * 255
    for canvas in range(8):
        expected = torch.from_numpy(color(canvas)).float()[:, None, None].repeat(1, SIZE, SIZE)
        for other, (x0, y0, x1, y1) in zip(plan.pasted[canvas], plan.boxes[canvas], strict=True):
            expected[:, y0:y1, x0:x1] = torch.from_numpy(color(other))[:, None, None]
        torch.testing.assert_close(pixels[canvas], expected, atol=1e-3, rtol=0)


def test_the_context_decays_and_the_boxes_do_not() -> None:
    images = painted(8)
    view = replace(REGIONS, decay=0.25, region_images=2)
    plan = plan_for(view, images)
    pixels = finish(view, plan, EXECUTORS["device"](plan, images), UNCHANGED).pixels * 255
    corners = 0
    for canvas, (x0, y0, x1, y1) in enumerate(plan.boxes[:, 0].tolist()):
        if x1 > x0 > 0 and y1 > y0:
            corners += 1
            assert pixels[canvas, :, 0, 0].tolist() == pytest.approx((color(canvas) / 4).tolist(), abs=1e-3)
            pasted = color(int(plan.pasted[canvas, 0])).tolist()
            assert pixels[canvas, :, y0, x0].tolist() == pytest.approx(pasted, abs=1e-3)
    assert corners


def test_probability_0_is_the_crop_and_1_always_mixes() -> None:
    images = textured(10)
    never = replace(BOTH, global_probability=0, region_probability=0, decay=0)
    assert torch.equal(exact_canvas(never, images).pixels, exact_canvas(CROP, images).pixels)
    always = plan_for(replace(BOTH, global_probability=1, region_probability=1), images)
    assert (always.weights[:, -1] < 1).all()
    assert (always.context == BOTH.decay).all()


def test_mixtures_happen_as_often_as_they_should() -> None:
    view = replace(BOTH, global_probability=0.3, region_probability=0.1)
    plan = view.plan(np.tile([40, 30], (4000, 1)), make_rng(4000, 8))
    globally, by_regions = plan.weights[:, -1] < 1, plan.context < 1
    assert globally.mean() == pytest.approx(0.3, abs=0.03)
    assert by_regions.mean() == pytest.approx(0.1, abs=0.02)
    assert (globally & by_regions).mean() == pytest.approx(0.03, abs=0.01)


def test_query_and_key_are_mixed_alike_out_of_different_crops() -> None:
    images = textured(8)
    query, key = (plan_for(BOTH, images, view=view) for view in (0, 1))
    for name in ("layers", "weights", "context", "pasted", "boxes"):
        np.testing.assert_array_equal(getattr(query, name), getattr(key, name))
    assert (query.tiles.crop != key.tiles.crop).any()
    assert (query.weights != plan_for(BOTH, images, step=1).weights).any()


def test_a_mixture_is_a_standard_view_of_its_own_images() -> None:
    assert BOTH.standard
    regions = plan_for(BOTH, painted(8)).regions
    assert regions.whole
    assert regions.source.tolist() == [[image] for image in range(8)]
    assert (regions.weight == 1).all()


@pytest.mark.parametrize("view", [BOTH, UnMix(size=SIZE)], ids=["mixture", "unmix"])
def test_both_executors_agree(view: Mixture | UnMix) -> None:
    images = textured(8)
    plan = plan_for(view, images)
    host, device = (finish(view, plan, run(plan, images), UNCHANGED).pixels for run in EXECUTORS.values())
    assert (host - device).abs().mean() < 0.004
    assert (host - device).abs().max() < 0.08


@pytest.mark.parametrize(
    "view",
    [BOTH, replace(BOTH, own_first=True, each_partner=True), UnMix(size=SIZE), UnMix(size=SIZE, per_batch=True)],
    ids=["mixture", "released mixture", "unmix", "released unmix"],
)
@pytest.mark.parametrize("ranks", [2, 4])
def test_views_are_the_same_for_any_number_of_ranks(view: Mixture | UnMix, ranks: int) -> None:
    images, share = textured(24), 24 // ranks
    whole = exact_canvas(view, images, block=6)
    for rank in range(ranks):
        part = exact_canvas(view, images[rank * share : (rank + 1) * share], block=6, first=rank * share)
        torch.testing.assert_close(part.pixels, whole.pixels[rank * share : (rank + 1) * share], atol=1e-9, rtol=0)
        expected = whole.regions.source[rank * share : (rank + 1) * share] - rank * share
        assert torch.equal(part.regions.source, expected)


def test_the_order_of_memory_is_kept() -> None:
    images = textured(8)
    plan = plan_for(BOTH, images)
    pixels = EXECUTORS["device"](plan, images).contiguous(memory_format=torch.channels_last)
    assert finish(BOTH, plan, pixels, UNCHANGED).pixels.is_contiguous(memory_format=torch.channels_last)


# Un-Mix


def unmix_by_the_code(crops: Tensor, own: int, other: int, rng: np.ndarray, blended: bool) -> tuple[Tensor, float]:
    """The mixed canvas and lambda, as the released demonstration describes them; draws of lambda, box x and box y."""
    alpha, free, u, v = rng.tolist()
    if blended:
        return alpha * crops[own] + (1 - alpha) * crops[other], alpha
    x0, y0, x1, y1 = box_of(free, u, v, SIZE)
    mixed = crops[own].clone()
    mixed[:, y0:y1, x0:x1] = crops[other][:, y0:y1, x0:x1]
    return mixed, 1 - (x1 - x0) * (y1 - y0) / SIZE**2


@pytest.mark.parametrize("of", [0, 1])
@pytest.mark.parametrize("block", [4, 6, 12])
@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_unmix_mixes_the_very_crops_of_another_view(probability: float, block: int, of: int) -> None:
    view, images = UnMix(size=SIZE, of=of, global_probability=probability), textured(12)
    canvas = exact_canvas(view, images, block=block, view=2)
    crops = exact_canvas(CROP, images, block=block, view=of).pixels
    rng = make_rng(12, block, view=2)
    blended = rng.per_canvas("global", 12)[:, 0] < probability
    numbers = np.hstack([rng.per_canvas(name, 12) for name in ("alpha", "free", "box x", "box y")])
    for own in range(12):
        other = own // block * block + (block - 1 - own % block)
        expected, part = unmix_by_the_code(crops, own, other, numbers[own], bool(blended[own]))
        torch.testing.assert_close(canvas.pixels[own], expected, atol=1e-6, rtol=0)
        assert canvas.regions.source[own].tolist() == [own, other]
        assert canvas.regions.weight[own].tolist() == pytest.approx([part, 1 - part], abs=1e-6)


@pytest.mark.parametrize("step", range(8))
def test_a_batch_has_one_lambda_and_one_box_where_asked(step: int) -> None:
    """As in the released scripts: one choice between the two, one lambda, one box, whatever the block or rank."""
    view, images = UnMix(size=SIZE, per_batch=True), textured(12)
    canvas = exact_canvas(view, images, block=4, view=2, step=step)
    crops = exact_canvas(CROP, images, block=4, view=0, step=step).pixels
    rng = make_rng(12, 4, view=2, step=step)
    numbers = np.array([rng.per_batch(name)[0] for name in ("alpha", "free", "box x", "box y")])
    blended = bool(rng.per_batch("global")[0] < 0.5)
    for own in range(12):
        expected, part = unmix_by_the_code(crops, own, own // 4 * 4 + (3 - own % 4), numbers, blended)
        torch.testing.assert_close(canvas.pixels[own], expected, atol=1e-6, rtol=0)
        assert canvas.regions.weight[own].tolist() == pytest.approx([part, 1 - part], abs=1e-6)
    assert len(canvas.regions.weight.unique(dim=0)) == 1


def test_batches_draw_anew() -> None:
    view, images = UnMix(size=SIZE, per_batch=True), painted(4)
    weights = [plan_for(view, images, step=step).regions.weight[0, 0] for step in range(400)]
    plans = [plan_for(view, images, step=step) for step in range(400)]
    assert np.mean([plan.weights[0, 1] < 1 for plan in plans]) == pytest.approx(0.5, abs=0.08)
    assert kstest([plan.weights[0, 1] for plan in plans if plan.weights[0, 1] < 1], "uniform").pvalue > 0.01
    assert len({float(weight) for weight in weights}) > 200


@given(SEEDS, st.sampled_from([2, 3, 8]))
def test_the_reverse_of_the_reverse_is_the_image_itself(seed: int, block: int) -> None:
    plan = plan_for(UnMix(size=8), painted(2 * block), block=block, seed=seed)
    own, partner = plan.regions.source.T
    assert torch.equal(partner[partner], own)
    assert torch.equal(own // block, partner // block)


def test_unmix_has_two_whole_regions_whose_weights_add_up_to_one() -> None:
    view = UnMix(size=SIZE)
    regions = plan_for(view, painted(10)).regions
    assert not view.standard
    assert regions.whole
    assert regions.boxes.tolist() == [[[0, 0, SIZE, SIZE]] * 2] * 10
    torch.testing.assert_close(regions.weight.sum(dim=1), torch.ones(10))


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
def test_lambda_follows_its_beta_distribution(beta: float) -> None:
    view = UnMix(size=SIZE, global_probability=1, beta=beta)
    part = view.plan(np.tile([40, 30], (3000, 1)), make_rng(3000, 8)).regions.weight[:, 0]
    assert kstest(part.numpy(), beta_distribution(beta, beta).cdf).pvalue > 0.01


def test_the_loss_of_unmix_is_lambda_times_the_loss_of_either_order() -> None:
    torch.manual_seed(0)
    images = textured(8)
    views = [CROP, CROP, UnMix(size=SIZE)]
    first, second, mixed = (exact_canvas(view, images, view=number) for number, view in enumerate(views))
    backbone = TimmBackbone(name="resnet18", stem="stride8", options={"layers": [1] * 4, "channels": [8] * 4})
    method = MoCoConfig(queue=16, shuffle_bn_group=0).build(backbone.build(), NO_DATA).double()
    negatives = method.queue.keys.clone()
    normalize = torch.nn.functional.normalize
    with torch.no_grad():
        found = method([first, second, mixed], Progress(step=0, total_steps=1, steps_per_epoch=1))
        key = normalize(method.key_network(second)[:, 0], dim=-1)
        z = normalize(method.query_network(mixed)[:, 0], dim=-1)
        part = mixed.regions.weight[:, 0].double()
        same = info_nce_among(z, key, torch.arange(8), negatives, 0.2)
        reverse = info_nce_among(z.flip(0), key, torch.arange(8), negatives, 0.2)  # one block: reversed order
    expected = (part * same).mean() + ((1 - part).flip(0) * reverse).mean()
    assert float(found.logs["loss_composed_0"]) == pytest.approx(float(expected), abs=1e-6)
    assert float(weighted_mean(torch.ones(8, 2), mixed.regions.weight)) == pytest.approx(1)


@pytest.mark.parametrize(
    "settings",
    [
        {"global_probability": 1.1},
        {"region_probability": -0.1},
        {"decay": 1.5},
        {"global_images": 1},
        {"region_images": 1},
        {"global_alpha": 0},
        {"region_beta": -1},
        {"size": 4},
        {"scale": (0.5, 0.2)},
    ],
)
def test_impossible_mixtures_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        Mixture(**settings)


@pytest.mark.parametrize("settings", [{"of": -1}, {"global_probability": 2}, {"beta": 0}, {"size": 4}])
def test_impossible_unmixes_are_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        UnMix(**settings)


@pytest.mark.parametrize(("view", "block"), [(Mixture(size=8), 4), (UnMix(size=8), 1)])
def test_a_block_without_enough_partners_is_refused(view: Mixture | UnMix, block: int) -> None:
    with pytest.raises(UserError, match="different ones"):
        plan_for(view, painted(block))


def test_a_resized_mixture_keeps_everything_else() -> None:
    for view in (BOTH, UnMix(size=SIZE, of=1), Mixture(size=SIZE, augmentation=Augmentation(blur=0))):
        twice = view.resized(2)
        assert {f.name for f in fields(view) if getattr(view, f.name) != getattr(twice, f.name)} == {"size"}
        assert twice.canvas_size == 2 * SIZE
