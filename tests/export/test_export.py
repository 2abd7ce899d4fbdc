"""An export is what its snippet loads, and nothing is left behind when it is not."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from smalti import cli
from smalti.errors import UserError
from smalti.export import to_torchvision as torchvision_module
from smalti.export.formats import FORMATS
from smalti.export.to_timm import to_timm
from smalti.export.to_torchvision import to_torchvision
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone
from smalti.models.checkpoints import load_encoder
from smalti.models.encoder import Encoder, EncoderInfo, save_encoder, write_weights
from smalti.models.timm_backbone import TimmBackbone


def make_encoder(image_size: int = 32, **config) -> Encoder:
    backbone_config = TimmBackbone(**config)
    torch.manual_seed(0)
    backbone = Backbone(backbone_config.build())
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    channels = backbone_config.in_channels
    pixels = PixelStatistics(low=0.0, high=4095.0, mean=(0.5,) * channels, std=(0.25,) * channels)
    return Encoder(backbone, EncoderInfo(backbone=backbone_config, pixels=pixels, image_size=image_size)).eval()


def run_snippet(snippet: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(snippet, names)
    return names["model"].eval()


RESNETS = [
    {"name": "resnet18"},
    {"name": "resnet18", "stem": "stride8"},
    {"name": "resnet18", "stem": "stride16", "in_channels": 1},
    {"name": "resnet18", "in_channels": 5},
]
TIMM_ONLY = [
    {"name": "vit_tiny_patch16_224", "options": {"patch_size": 8, "img_size": 16}},
    {"name": "convnext_atto"},
    {"name": "resnet18", "options": {"channels": [8, 8, 16, 16]}},
    {"name": "resnet50", "width": 0.125},
    {"name": "resnet18", "width": 0.25, "stem": "stride8", "in_channels": 1},
]


@pytest.mark.parametrize(
    ("target", "config"),
    [("timm", config) for config in RESNETS + TIMM_ONLY] + [("torchvision", config) for config in RESNETS],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_the_snippet_gives_the_same_features(
    target: str, config: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(**config)
    path = tmp_path / "new" / {"timm": "model.safetensors", "torchvision": "model.pth"}[target]
    report = FORMATS[target](encoder, path)
    model = run_snippet(report.snippet, path.parent, monkeypatch)
    pixels = torch.rand(2, encoder.info.backbone.in_channels, 32, 32) * 4095
    with torch.no_grad():
        expected = encoder(pixels)
        torch.testing.assert_close(model(encoder.standardize(pixels)), expected, rtol=1e-5, atol=1e-5)
    assert expected.std() > 0.01
    assert report.path == path
    card = json.loads(path.with_suffix(".json").read_text())
    assert "\n".join(card["load"]) == report.snippet.rstrip("\n")
    assert card["pixels"]["high"] == 4095.0
    assert card["max_abs_difference"] == report.max_abs_difference


@pytest.mark.parametrize(("to", "name"), [(to_timm, "model.safetensors"), (to_torchvision, "model.pth")])
def test_an_export_loads_as_an_encoder_again(to, name: str, tmp_path: Path) -> None:
    encoder = make_encoder(name="resnet18")
    to(encoder, tmp_path / name)
    state = load_encoder(tmp_path / name).backbone.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in encoder.backbone.state_dict().items())


def test_an_export_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = torchvision_module._load

    def spoilt(*arguments: Any) -> torch.nn.Module:
        model = load(*arguments)
        model.bn1.weight.data.mul_(1.01)
        return model

    monkeypatch.setattr(torchvision_module, "_load", spoilt)
    with pytest.raises(RuntimeError, match="differs from the encoder by"):
        to_torchvision(make_encoder(name="resnet18"), tmp_path / "model.pth")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config", [{"name": "convnext_atto"}, {"name": "resnet18", "options": {"channels": [8, 8, 16, 16]}}]
)
def test_torchvision_takes_only_what_it_has(config: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="for torchvision; expected one of resnet18, resnet34"):
        to_torchvision(make_encoder(**config), tmp_path / "model.pth")


def test_names_must_say_what_a_file_is(tmp_path: Path) -> None:
    encoder = make_encoder(name="resnet18")
    with pytest.raises(UserError, match=r"ends in \.pth"):
        to_torchvision(encoder, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        to_timm(encoder, tmp_path / "model.bin")


def test_the_callers_generator_is_left_alone(tmp_path: Path) -> None:
    encoder = make_encoder(name="resnet18")
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    to_timm(encoder, tmp_path / "model.safetensors")
    assert torch.equal(torch.rand(1), expected)


HOSTILE = [
    {"x=__import__('pathlib').Path('TOUCHED').touch() or None,y": None},
    {"channels=[8]*4, **__import__('pathlib').Path('TOUCHED').touch() or {}, z": None},
    {"no_such_option": None},
    {"pretrained": True},
    {"checkpoint_path": "weights.pth"},
    {"pretrained_cfg": {"url": "https://example.com/weights.pth"}},
    {"features_only": True},
    {"num_classes": 10},
    {"norm_layer": {"class": "os.system"}},
    {"": None},
]


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("options", HOSTILE, ids=lambda options: next(iter(options))[:16])
def test_nothing_that_a_file_says_is_run_opened_or_asked_for(
    options: dict[str, Any], alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In encoder.json, and in the metadata of weights that travel alone."""
    monkeypatch.chdir(tmp_path)
    encoder = make_encoder(name="resnet18")
    described = json.loads(encoder.info.to_json())
    described["backbone"]["options"] = options
    text = json.dumps(described)
    if alone:
        write_weights(tmp_path / "given.safetensors", encoder.backbone.model, {"smalti": text})
        given = tmp_path / "given.safetensors"
    else:
        given = save_encoder(tmp_path / "given", encoder.backbone, encoder.info).parent
        (given / "encoder.json").write_text(text)
    arguments = ["export", str(given), "--to", "timm", "--out", str(tmp_path / "out.safetensors")]
    assert cli.main(arguments) == 2
    assert not (tmp_path / "TOUCHED").exists()
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("image_size",), "large"),
        (("image_size",), [32]),
        (("pixels", "mean"), 5),
        (("pixels", "mean"), ["a", "b", "c"]),
        (("pixels",), None),
        (("backbone", "stem"), "stride9"),
        (("backbone", "width"), "1"),
        (("backbone", "name"), 7),
        (("backbone", "options"), []),
        (("backbone", "extra"), 1),
        (("backbone", "class"), ["TimmBackbone"]),
        (("versions",), "new"),
    ],
)
def test_a_description_of_the_wrong_types_is_refused_in_one_line(
    where: tuple[str, ...], value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = make_encoder(name="resnet18")
    given = save_encoder(tmp_path / "given", encoder.backbone, encoder.info).parent
    described = json.loads((given / "encoder.json").read_text())
    target = described
    for key in where[:-1]:
        target = target[key]
    target[where[-1]] = value
    (given / "encoder.json").write_text(json.dumps(described))
    assert cli.main(["export", str(given), "--to", "timm", "--out", str(tmp_path / "out.safetensors")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("smalti: got ")
