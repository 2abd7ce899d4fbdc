"""Encoders travel bit for bit, and nothing loads that does not fit."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from smalti.errors import UserError
from smalti.files import atomic
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone
from smalti.models.checkpoints import load_encoder, load_weights
from smalti.models.encoder import Encoder, EncoderInfo, save_encoder
from smalti.models.timm_backbone import TimmBackbone

RESNET = TimmBackbone(name="resnet18", options={"channels": [8, 8, 16, 16]})  # a small file
PIXELS = PixelStatistics(low=0.0, high=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def make_encoder(config: TimmBackbone, image_size: int = 32) -> Encoder:
    torch.manual_seed(1)
    backbone = Backbone(config.build())
    for name, buffer in backbone.named_buffers():  # statistics of their own, so that a lost buffer shows
        if name.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return Encoder(backbone, EncoderInfo(backbone=config, pixels=PIXELS, image_size=image_size)).eval()


@pytest.fixture(scope="module")
def resnet() -> Encoder:
    return make_encoder(RESNET)


def raw_pixels(size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def outputs(encoder: Encoder) -> torch.Tensor:
    with torch.no_grad():
        features = encoder(raw_pixels())
    assert features.std() > 0.01, "features that do not vary would be equal whatever was loaded"
    return features


@pytest.mark.parametrize(
    "config",
    [
        RESNET,
        replace(RESNET, stem="stride8"),
        TimmBackbone(name="vit_tiny_patch16_224", options={"patch_size": 8, "img_size": 32}),
        TimmBackbone(name="convnext_atto"),
    ],
    ids=["resnet", "stride8", "vit", "convnext"],
)
def test_round_trip_is_exact(config: TimmBackbone, tmp_path: Path) -> None:
    encoder = make_encoder(config)
    weights = save_encoder(tmp_path, encoder.backbone, encoder.info)
    for what in (tmp_path, weights, str(tmp_path / "encoder.json")):
        loaded = load_encoder(what)
        assert loaded.info == encoder.info
        assert not loaded.training
        assert torch.equal(outputs(loaded), outputs(encoder))


def test_one_file_travels_alone(resnet: Encoder, tmp_path: Path) -> None:
    weights = save_encoder(tmp_path / "run", resnet.backbone, resnet.info)
    moved = weights.rename(tmp_path / "mine.safetensors")
    assert load_encoder(moved).info == resnet.info


def test_keys_are_those_of_timm(resnet: Encoder, tmp_path: Path) -> None:
    weights = save_encoder(tmp_path, resnet.backbone, resnet.info)
    model = timm.create_model("resnet18", num_classes=0, **RESNET.options)
    model.load_state_dict(load_file(weights), strict=True)


def test_pixels_are_scaled_by_the_range_of_the_images() -> None:
    config = TimmBackbone(name="resnet18", in_channels=1)
    deep = PixelStatistics(low=100.0, high=4095.0, mean=(0.2,), std=(0.1,))
    encoder = Encoder(Backbone(config.build()), EncoderInfo(backbone=config, pixels=deep))
    pixels = torch.tensor([100, 1000, 4095, 65535], dtype=torch.int32).to(torch.uint16).view(1, 1, 2, 2)
    expected = [((value - 100) / 3995 - 0.2) / 0.1 for value in (100, 1000, 4095, 65535)]
    torch.testing.assert_close(encoder.standardize(pixels).flatten(), torch.tensor(expected))


def test_statistics_must_match_the_channels() -> None:
    config = TimmBackbone(name="resnet18", in_channels=1)
    with pytest.raises(UserError, match="means for 3 and deviations for 3 channels; expected 1 of each"):
        Encoder(Backbone(config.build()), EncoderInfo(backbone=config, pixels=PIXELS))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"backbone": {}, "pixels": {"mean": [], "std": [], "x": 1}}'])
def test_spoilt_descriptions_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a description of an encoder"):
        EncoderInfo.from_json(text)


def test_a_description_survives_json(resnet: Encoder) -> None:
    info = replace(resnet.info, network="teacher", extra={"loss": [1, 2.5, None]})
    assert EncoderInfo.from_json(info.to_json()) == info
    assert json.loads(info.to_json())["versions"]["timm"] == timm.__version__


def misspell(state: dict) -> None:
    state["layer4.0.conv1.wieght"] = state.pop("layer4.0.conv1.weight")


def lose(state: dict) -> None:
    del state["layer1.0.bn1.running_mean"]


def widen(state: dict) -> None:
    state["conv1.weight"] = torch.zeros(64, 4, 7, 7)


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (misspell, "1 missing: layer4.0.conv1.weight, 1 unexpected: layer4.0.conv1.wieght"),
        (lose, r"1 missing: layer1.0.bn1.running_mean \(125 of 126 matched\)"),
        (widen, r"1 missing: conv1.weight of shape \(64, 4, 7, 7\) instead of \(64, 3, 7, 7\)"),
    ],
)
def test_what_does_not_fit_is_refused(spoil, complaint: str, resnet: Encoder, tmp_path: Path) -> None:
    weights = save_encoder(tmp_path, resnet.backbone, resnet.info)
    state = load_file(weights)
    spoil(state)
    save_file(state, weights)
    with pytest.raises(UserError, match=complaint):
        load_encoder(tmp_path)


def test_nothing_is_copied_when_something_is_missing(resnet: Encoder) -> None:
    backbone = Backbone(RESNET.build())
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = dict(resnet.backbone.model.state_dict())
    misspell(state)
    with pytest.raises(UserError):
        load_weights(backbone, state)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize("name", ["checkpoint.pth", "encoder.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not a checkpoint at all"])
def test_damaged_files_are_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="cannot be read"):
        load_encoder(tmp_path / name)


def test_a_truncated_file_is_refused(resnet: Encoder, tmp_path: Path) -> None:
    weights = save_encoder(tmp_path, resnet.backbone, resnet.info)
    os.truncate(weights, weights.stat().st_size // 2)
    with pytest.raises(UserError, match="cannot be read"):
        load_encoder(tmp_path)


def test_an_empty_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"without encoder\.safetensors"):
        load_encoder(tmp_path)
    with pytest.raises(UserError, match="where there is no file"):
        load_encoder(tmp_path / "nothing.pth")


def test_an_encoder_of_ours_keeps_its_own_settings(resnet: Encoder, tmp_path: Path) -> None:
    save_encoder(tmp_path, resnet.backbone, resnet.info)
    with pytest.raises(UserError, match=r"got image_size=48 for .*; expected 32 as it was trained"):
        load_encoder(tmp_path, image_size=48)


def test_random_weights_are_the_same_at_every_call_and_leave_the_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = load_encoder("random:resnet18", backbone=TimmBackbone(stem="stride8"))
    assert torch.equal(torch.rand(1), expected)
    assert first.info.image_size == 32
    assert torch.equal(outputs(first), outputs(load_encoder("random:resnet18", backbone=TimmBackbone(stem="stride8"))))


def test_pretrained_weights_come_from_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model
    asked = {}

    def offline(name: str, pretrained: bool = False, **options):
        asked["pretrained"] = asked.get("pretrained", False) or pretrained
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    info = load_encoder("timm:resnet18").info
    assert asked["pretrained"]
    assert (info.image_size, info.crop_fraction, info.recipe) == (224, 0.95, "timm:resnet18")


def test_no_network_is_an_error_that_the_user_can_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    create = timm.create_model

    def unreachable(name: str, pretrained: bool = False, **options):
        if pretrained:
            raise ConnectionError("name resolution failed")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(UserError, match=r"no pretrained weights for resnet18 \(ConnectionError: name resolution"):
        load_encoder("timm:resnet18")


def test_half_a_file_is_never_seen(resnet: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = save_encoder(tmp_path, resnet.backbone, resnet.info)
    before = weights.read_bytes()

    def break_off(state, path: Path, metadata) -> None:
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("smalti.models.encoder.save_file", break_off)
    with pytest.raises(UserError, match="no space left"):
        save_encoder(tmp_path, resnet.backbone, resnet.info)
    assert weights.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_a_new_file_appears_only_when_whole(tmp_path: Path) -> None:
    target = tmp_path / "features.npz"
    with atomic(target) as temporary:
        temporary.write_bytes(b"all of it")
        assert not target.exists()
        assert temporary.suffix == ".npz"
    assert target.read_bytes() == b"all of it"
    assert list(tmp_path.iterdir()) == [target]
