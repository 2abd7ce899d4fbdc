"""Two networks on lightness and color: the colors are those of other libraries, the contract is a backbone's."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2lab, rgb2ycbcr
from torch import Tensor

from smalti.errors import UserError
from smalti.export.formats import FORMATS
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone
from smalti.models.checkpoints import load_encoder
from smalti.models.color_spaces import rgb_to_lab, rgb_to_ycbcr, scaled_lab, scaled_ycbcr
from smalti.models.encoder import Encoder, EncoderInfo, save_encoder
from smalti.models.split import SplitBackbone, SplitModel
from smalti.models.timm_backbone import TimmBackbone

RESNET = SplitBackbone(
    color_space="lab",
    half=TimmBackbone(name="resnet18", stem="stride8", options={"channels": [4, 4, 8, 8], "zero_init_last": False}),
)
VIT = SplitBackbone(
    color_space="ycbcr",
    half=TimmBackbone(
        name="vit_tiny_patch16_224",
        options={"patch_size": 8, "img_size": 32, "depth": 2, "embed_dim": 24, "num_heads": 3},
    ),
)
SWIN = SplitBackbone(
    color_space="lab",
    half=TimmBackbone(
        name="swin_tiny_patch4_window7_224",
        options={"img_size": 32, "embed_dim": 12, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "window_size": 4},
    ),
)
CONFIGS = {"resnet": RESNET, "vit": VIT, "channels last": SWIN}
PIXELS = PixelStatistics(low=0.0, high=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def colors(step: int = 15) -> np.ndarray:
    """(1, M, 3) uint8 colors from all over the cube, its corners included."""
    levels = np.arange(0, 256, step, dtype=np.uint8)
    return np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)


def as_pixels(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image / 255.0).permute(2, 0, 1)[None]


def test_lab_is_that_of_scikit_image() -> None:
    found = rgb_to_lab(as_pixels(colors()))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, rgb2lab(colors()), atol=1e-6)


def test_ycbcr_is_that_of_scikit_image() -> None:
    found = rgb_to_ycbcr(as_pixels(colors()))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, rgb2ycbcr(colors()), atol=1e-10)


RELEASED = {
    "lab": (scaled_lab, rgb2lab, (50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675)),
    "ycbcr": (scaled_ycbcr, rgb2ycbcr, (116.151, 121.080, 132.342), (109.500, 111.855, 111.964)),
}


@pytest.mark.parametrize("space", RELEASED)
def test_networks_see_what_those_of_the_released_code_see(space: str) -> None:
    """`train_CMC.py`: scikit-image's space of 8-bit pixels, then a mean and a deviation for each channel."""
    scaled, convert, mean, std = RELEASED[space]
    found = scaled(as_pixels(colors()))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(found, (convert(colors()) - mean) / std, atol=1e-6)


def test_every_channel_of_lab_fills_the_range_from_minus_1_to_1() -> None:
    space = scaled_lab(as_pixels(colors(5))).flatten(2)[0]
    torch.testing.assert_close(space.amin(dim=1), -torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(space.amax(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-4, rtol=0)


@given(st.lists(st.floats(0.05, 0.95), min_size=3, max_size=3), st.lists(st.floats(0.05, 1), min_size=3, max_size=3))
def test_the_split_undoes_the_normalization(mean: list[float], std: list[float]) -> None:
    model = SplitModel(lambda _: SimpleNamespace(num_features=1, feature_info=[], pretrained_cfg={}), "lab").double()
    model.set_statistics(mean, std)
    rgb = as_pixels(colors(51))
    normalized = (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    lightness, color = model.split(normalized)
    torch.testing.assert_close(torch.cat([lightness, color], dim=1), scaled_lab(rgb), atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_split_backbone_keeps_the_contract_of_a_backbone(config: SplitBackbone) -> None:
    torch.manual_seed(0)
    split, whole = Backbone(config.build()).eval(), Backbone(config.half.build()).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, expected = split(images), whole(images)
        maps, plain = split.pyramid(images), whole.pyramid(images)
    assert (split.dim, split.stride, split.in_channels) == (2 * whole.dim, whole.stride, 3)
    assert found.map.shape == (2, 2 * expected.map.shape[1], *expected.map.shape[2:])
    assert found.pooled.shape == (2, split.dim)
    assert [tuple(m.shape) for m in maps] == [(2, 2 * m.shape[1], *m.shape[2:]) for m in plain]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_either_half_of_the_features_comes_from_its_own_colors(config: SplitBackbone) -> None:
    torch.manual_seed(0)
    backbone = Backbone(config.build()).eval()
    images = torch.rand(2, 3, 32, 32)
    convert = scaled_lab if config.color_space == "lab" else scaled_ycbcr
    space = convert(images)
    model = backbone.model
    with torch.no_grad():
        found = backbone(images)
        halves = found.map.chunk(2, dim=1), found.pooled.chunk(2, dim=1)
        for number, (network, channels) in enumerate([(model.lightness, space[:, :1]), (model.color, space[:, 1:])]):
            features = network.forward_features(channels)
            pooled = network.forward_head(features, pre_logits=True)
            torch.testing.assert_close(halves[1][number], pooled, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(halves[0][number], backbone._as_map(features, images), atol=1e-5, rtol=1e-5)
    assert halves[1][0].std() > 0.001


def test_pixels_beyond_the_range_of_colors_give_finite_features() -> None:
    backbone = Backbone(RESNET.build()).eval()
    assert backbone(torch.randn(2, 3, 32, 32) * 10).pooled.isfinite().all()


def test_autocast_does_not_round_colors() -> None:
    model = Backbone(RESNET.build()).model
    images = torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lightness, color = model.split(images)
    torch.testing.assert_close(torch.cat([lightness, color], dim=1), scaled_lab(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize("config", [RESNET, VIT], ids=["resnet", "vit"])
def test_an_encoder_of_two_networks_travels_bit_for_bit(config: SplitBackbone, tmp_path: Path) -> None:
    torch.manual_seed(1)
    encoder = Encoder(Backbone(config.build()), EncoderInfo(backbone=config, pixels=PIXELS, image_size=32)).eval()
    save_encoder(tmp_path, encoder.backbone, encoder.info)
    loaded = load_encoder(tmp_path)
    assert loaded.info == encoder.info
    assert EncoderInfo.from_json(encoder.info.to_json()) == encoder.info
    assert loaded.backbone.model.mean.flatten().tolist() == pytest.approx(PIXELS.mean)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(loaded(pixels), encoder(pixels))
        assert encoder(pixels).std() > 0.001


@pytest.mark.parametrize("target", ["timm", "torchvision"])
def test_an_export_to_one_network_is_refused(target: str, tmp_path: Path) -> None:
    encoder = Encoder(Backbone(RESNET.build()), EncoderInfo(backbone=RESNET, pixels=PIXELS, image_size=32))
    with pytest.raises(UserError, match="timm architecture"):
        FORMATS[target](encoder, tmp_path / {"timm": "a.safetensors", "torchvision": "a.pth"}[target])


def test_only_colors_can_be_split() -> None:
    with pytest.raises(UserError, match="RGB"):
        replace(RESNET, in_channels=1)
