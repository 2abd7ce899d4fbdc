"""Affinity distillation against Eq. 10 as the paper prints it, written out as sums."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_teacher
import torch
import torch.nn.functional as F
from helpers import PLAIN, exact_canvas, textured
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from smalti.errors import UserError
from smalti.losses.affinity import affinity_loss
from smalti.methods.affinity import AffinityConfig, AffinityDistillation
from smalti.methods.method import DataInfo, Progress
from smalti.models.heads import ProjectorConfig
from smalti.models.teacher import load_teacher
from smalti.models.timm_backbone import TimmBackbone
from smalti.normalize import Normalize
from smalti.views.canvas import Canvas
from smalti.views.crops import Crop
from smalti.views.mixture import UnMix
from smalti.views.mosaic import Mosaic
from smalti.views.plan import Composition

BACKBONE = TimmBackbone(
    name="resnet18",
    stem="stride8",
    options={"layers": [1, 1, 1, 1], "channels": [4, 4, 8, 8], "zero_init_last": False},
)
TEACHER = tiny_teacher.__file__
NORMALIZE = Normalize((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
DATA = DataInfo(NORMALIZE, ("cat", "dog", "fork"))
LABELS = torch.tensor([0, 2, 1, 1, 0, 2, 2, 1])
STANDARD = Crop(size=32, augmentation=PLAIN)
COMPOSED: dict[str, list[Composition]] = {
    "one view": [STANDARD],
    "two crops": [STANDARD, STANDARD],
    "multi-crop": [STANDARD, STANDARD, Crop(size=16, count=2, augmentation=PLAIN)],
    "mosaic": [STANDARD, STANDARD, Mosaic(tile_size=16, max_shift=20, augmentation=PLAIN)],
    "unmix": [STANDARD, STANDARD, UnMix(size=32, augmentation=PLAIN)],
}
IMAGES = textured(8)
START = Progress(step=0, total_steps=10, steps_per_epoch=5)


def make_canvases(views: Sequence[Composition]) -> list[Canvas]:
    canvases = [exact_canvas(view, IMAGES, view=number) for number, view in enumerate(views)]
    return [Canvas(pixels=NORMALIZE(canvas.pixels), regions=canvas.regions.labeled(LABELS)) for canvas in canvases]


def make_method(projector: str = "mlp", **settings: Any) -> AffinityDistillation:
    torch.manual_seed(0)
    settings = {"student_temperature": 0.2, "teacher_temperature": 0.1, "region_size": 3} | settings
    config = AffinityConfig(teacher=TEACHER, projector=ProjectorConfig(kind=projector, dim=99), **settings)
    method = config.build(BACKBONE.build(), DATA).double()
    method.texts = F.normalize(tiny_teacher.teacher().encode_text(["a photo of a " + n for n in DATA.class_names]))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return method


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def cross_entropy(s: Tensor, t: Tensor, columns: Tensor, student: float, teacher: float) -> float:
    """One row of one of the two sums of Eq. 10."""
    target = softmax([float(t @ c) / teacher for c in columns])
    found = softmax([float(s @ c) / student for c in columns])
    return -sum(p * math.log(q) for p, q in zip(target, found, strict=True))


def equation_10(method: AffinityDistillation, canvases: Sequence[Canvas]) -> float:
    clip = tiny_teacher.teacher()
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in (clip.mean, clip.std))
    rgb = exact_canvas(STANDARD, IMAGES).pixels
    images = F.normalize(clip.encode_image((rgb - mean) / std))
    texts = F.normalize(clip.encode_text([f"a photo of a {DATA.class_names[label]}" for label in LABELS]))
    taus = method.config.student_temperature, method.config.teacher_temperature
    loss = 0.0
    for canvas in canvases:
        z = F.normalize(method.student(canvas), dim=-1)
        for n, k in torch.cartesian_prod(*map(torch.arange, canvas.regions.source.shape)).tolist():
            j = int(canvas.regions.source[n, k])
            row = cross_entropy(z[n, k], images[j], texts, *taus) + cross_entropy(z[n, k], texts[j], images, *taus)
            loss += float(canvas.regions.weight[n, k]) * row / len(canvas.pixels)
    return loss


@pytest.mark.parametrize("views", COMPOSED.values(), ids=COMPOSED)
def test_the_loss_is_equation_10(views: list[Composition]) -> None:
    method, canvases = make_method(), make_canvases(views)
    with torch.no_grad():
        expected = equation_10(method, canvases)
        step = method(canvases, START)
    assert step.loss.dtype == torch.float64
    assert float(step.loss) == pytest.approx(expected, abs=1e-6)
    assert set(step.logs) == {"z_std", *(f"loss_view_{number}" for number in range(len(views)))}


UNIT = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))


@given(UNIT, st.floats(0.05, 2), st.floats(0.05, 2))
def test_the_affinity_loss_is_a_cross_entropy(shape: tuple[int, ...], student: float, teacher: float) -> None:
    rows, count, dim, seed = shape
    torch.manual_seed(seed)
    s, t, columns = (F.normalize(torch.randn(n, dim, dtype=torch.float64)) for n in (rows, rows, count))
    expected = [cross_entropy(a, b, columns, student, teacher) for a, b in zip(s, t, strict=True)]
    assert affinity_loss(s, t, columns, student, teacher).tolist() == pytest.approx(expected, abs=1e-6)


def test_gradients_reach_the_student_alone() -> None:
    torch.manual_seed(0)
    s, t, columns = (F.normalize(torch.randn(4, 3, dtype=torch.float64)).requires_grad_() for _ in range(3))
    assert torch.autograd.gradcheck(lambda x: affinity_loss(x, t.detach(), columns.detach(), 0.2, 0.1), (s,))
    affinity_loss(s, t, columns, 0.2, 0.1).sum().backward()
    assert s.grad is not None
    assert t.grad is None
    assert columns.grad is None


def test_autocast_does_not_round_similarities() -> None:
    torch.manual_seed(0)
    s, t, columns = (F.normalize(torch.randn(5, 16), dim=1) for _ in range(3))
    expected = affinity_loss(s, t, columns, 0.01, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(affinity_loss(s, t, columns, 0.01, 0.01), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("projector", ["mlp", "conv"])
def test_all_of_the_student_learns_and_none_of_the_teacher(projector: str) -> None:
    method = make_method(projector)
    method(make_canvases(COMPOSED["mosaic"]), START).loss.backward()
    for name, parameter in method.named_parameters():
        assert name.startswith("student.")
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert all(parameter.grad is None for parameter in method._teacher[0].parameters())


def test_the_teacher_is_no_part_of_what_is_saved() -> None:
    method = make_method()
    assert all(key.startswith("student.") for key in method.state_dict())
    other = make_method(region_size=3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(method.state_dict())
        canvases = make_canvases(COMPOSED["mosaic"])
        assert torch.equal(other(canvases, START).loss, method(canvases, START).loss)
    assert method.momentum_pairs(START) == []
    assert method.encoder() is method.student.backbone


def test_the_loss_tells_one_images_class_and_content_from_anothers() -> None:
    method, (first, second) = make_method(), make_canvases(COMPOSED["two crops"])
    with torch.no_grad():
        loss = method([first, second], START).loss
        relabeled = replace(first, regions=first.regions.labeled(LABELS.roll(1)))
        shuffled = replace(second, regions=replace(second.regions, source=second.regions.source.roll(1, dims=0)))
        for views in ([relabeled, second], [first, shuffled]):
            assert abs(float(method(views, START).loss - loss)) > 1e-4


def test_images_without_classes_are_refused() -> None:
    with pytest.raises(UserError, match="without classes"):
        AffinityConfig(teacher=TEACHER).build(BACKBONE.build(), DataInfo(NORMALIZE))
    (canvas,) = make_canvases([STANDARD])
    with pytest.raises(UserError, match="without labels"):
        make_method()([replace(canvas, regions=replace(canvas.regions, label=None))], START)


def test_a_teacher_must_be_given_and_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no teacher"):
        AffinityConfig().build(BACKBONE.build(), DATA)
    with pytest.raises(UserError, match="check the path"):
        load_teacher(str(tmp_path / "absent.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UserError, match="def teacher"):
        load_teacher(str(tmp_path / "empty.py"))


def test_open_clip_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"smalti\[clip\]"):
        load_teacher("open_clip:ViT-B-32/openai")


@pytest.fixture
def tiny_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model of open_clip's, `tiny`, for images of 16 px, and a file of its weights."""
    open_clip = pytest.importorskip("open_clip")
    vision = {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    (tmp_path / "tiny.json").write_text(json.dumps({"embed_dim": 8, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny.json")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("tiny", pretrained=None).state_dict(), tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_open_clips_models_are_teachers(tiny_clip: Path) -> None:
    import open_clip

    teacher: Any = load_teacher(f"open_clip:tiny/{tiny_clip}")
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    torch.manual_seed(1)
    pixels = torch.rand(2, 3, 16, 16)
    model = open_clip.create_model("tiny", pretrained=str(tiny_clip)).eval()
    with torch.no_grad():
        torch.testing.assert_close(teacher.encode_image(pixels), model.encode_image(pixels))
        large = torch.ones(2, 3, 32, 32) * torch.tensor([0.1, 0.5, 0.9])[:, None, None]
        torch.testing.assert_close(
            teacher.encode_image(large), model.encode_image(large[..., :16, :16]), atol=1e-4, rtol=1e-4
        )
        texts = model.encode_text(open_clip.get_tokenizer("tiny")(["a cat", "a horse"]))
        torch.testing.assert_close(teacher.encode_text(["a cat", "a horse"]), texts)
    assert (teacher.mean, teacher.std) == (model.visual.image_mean, model.visual.image_std)


def test_open_clips_models_need_weights(tiny_clip: Path) -> None:
    for name in ("tiny", "tiny/", f"tiny/{tiny_clip}.absent"):
        with pytest.raises(UserError, match=r"open_clip:tiny.*use e\.g\."):
            load_teacher(f"open_clip:{name}")


def test_the_first_view_must_be_a_standard_one() -> None:
    for views in ([], [Mosaic(), STANDARD], [Crop(count=2)]):
        with pytest.raises(UserError, match="the view that the teacher sees"):
            AffinityConfig().check(views)
    AffinityConfig().check([STANDARD])


@pytest.mark.parametrize(
    "settings", [{"template": "cat"}, {"student_temperature": 0}, {"teacher_temperature": -1}, {"region_size": 0}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        AffinityConfig(**settings)
