"""Backbones say what they are, and are timm's own networks."""

from typing import Any

import pytest
import timm
import torch

from smalti.errors import UserError
from smalti.models.backbone import Backbone, BackboneConfig

VIT = "vit_tiny_patch16_224"


def make_backbone(name: str, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(BackboneConfig(name=name, **settings)).eval()


@pytest.mark.parametrize(
    ("name", "settings", "stride", "dim"),
    [
        ("resnet18", {}, 32, 512),
        ("resnet18", {"stem": "stride16"}, 16, 512),
        ("resnet18", {"stem": "stride8"}, 8, 512),
        ("resnet18", {"stem": "stride8", "width": 0.5}, 8, 256),
        ("resnet50", {"width": 0.25}, 32, 512),
        (VIT, {}, 16, 192),
        (VIT, {"options": {"patch_size": 8}}, 8, 192),
        ("swin_tiny_patch4_window7_224", {}, 32, 768),
        ("convnext_atto", {}, 32, 320),
        ("mobilevit_xxs", {}, 32, 320),  # a hybrid that is not to be taken for a vision transformer
    ],
)
def test_map_and_pooled_have_the_shapes_that_dim_and_stride_say(
    name: str, settings: dict[str, Any], stride: int, dim: int
) -> None:
    backbone = make_backbone(name, **settings)
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, 64, 128))
    assert (backbone.stride, backbone.dim) == (stride, dim)
    assert features.map.shape == (2, dim, 64 // stride, 128 // stride)
    assert features.pooled.shape == (2, dim)


@pytest.mark.parametrize("name", ["resnet18", VIT, "swin_tiny_patch4_window7_224", "convnext_atto"])
def test_pooled_is_plain_timms_output(name: str) -> None:
    backbone = make_backbone(name)
    plain = timm.create_model(name, num_classes=0).eval()
    plain.load_state_dict(backbone.model.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image).pooled, plain(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", VIT, "convnext_atto"])
def test_the_map_keeps_the_places_of_the_image(name: str) -> None:
    backbone = make_backbone(name)
    image = torch.randn(1, 3, 256, 256, requires_grad=True)
    features = backbone(image).map
    row, column = features.shape[-2] * 3 // 4, features.shape[-1] // 4  # bottom left
    (gradient,) = torch.autograd.grad(features[0, :, row, column].square().sum(), image)
    strength = gradient[0].abs().sum(dim=0)
    y, x = divmod(int(strength.view(8, 32, 8, 32).sum(dim=(1, 3)).argmax()), 8)
    assert (y, x) in {(5, 1), (5, 2), (6, 1), (6, 2)}


def test_the_last_map_of_the_pyramid_is_the_coarsest() -> None:
    backbone = make_backbone("resnet18")
    maps = backbone.pyramid(torch.randn(1, 3, 64, 64))
    assert [tuple(each.shape[1:]) for each in maps] == [
        (64, 32, 32),
        (64, 16, 16),
        (128, 8, 8),
        (256, 4, 4),
        (512, 2, 2),
    ]


@pytest.mark.parametrize("stem", ["standard", "stride8"])
@pytest.mark.parametrize("channels", [1, 5])
def test_any_number_of_channels(stem: str, channels: int) -> None:
    backbone = make_backbone("resnet18", stem=stem, in_channels=channels)
    assert backbone(torch.randn(1, channels, 32, 32)).pooled.shape == (1, 512)


def test_a_view_that_a_vit_cannot_cut_into_patches_is_refused() -> None:
    vit = Backbone(BackboneConfig(name="vit_tiny_patch16_224", options={"depth": 1}))
    vit.check_size(96)
    with pytest.raises(UserError, match=r"views of 55 px .* use views of 48 px"):
        vit.check_size(55)
    for name in ("resnet18", "swin_tiny_patch4_window7_224"):
        Backbone(BackboneConfig(name=name)).check_size(55)


def test_an_unknown_name_suggests_close_ones() -> None:
    with pytest.raises(UserError, match="resnet50"):
        make_backbone("resnet5O")


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(UserError, match="color"):
        make_backbone("resnet18", options={"color": 3})


@pytest.mark.parametrize("name", [VIT, "convnext_atto"])
def test_a_small_stem_is_refused_for_all_but_resnets(name: str) -> None:
    with pytest.raises(UserError, match="patch_size"):
        make_backbone(name, stem="stride8")


def test_a_pooled_feature_of_another_width_is_refused() -> None:
    with pytest.raises(UserError, match="mobilenetv3_small_100"):
        Backbone(BackboneConfig(name="mobilenetv3_small_100"))


def test_the_double_width_has_the_published_number_of_weights() -> None:
    """94 M (arXiv:2003.05438, Table 6), counted here for R50w2x as in CMC's code: the stem is wider too."""

    def conv(inputs: int, outputs: int, side: int) -> int:
        return inputs * outputs * side**2 + 2 * outputs  # and its normalization

    width, weights = 128, conv(3, 128, 7)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = 128 * 2**stage
        for block in range(blocks):
            weights += conv(width, inner, 1) + conv(inner, inner, 3) + conv(inner, 4 * inner, 1)
            if block == 0:
                weights += conv(width, 4 * inner, 1)
            width = 4 * inner
    backbone = make_backbone("resnet50", width=2.0)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == weights
    assert 93.5e6 < weights < 94.5e6
    assert backbone.model.feature_info[0]["num_chs"] == 128


@pytest.mark.parametrize("name", [VIT, "convnext_atto", "resnet18d"])
def test_a_width_is_refused_for_all_but_plain_resnets(name: str) -> None:
    with pytest.raises(UserError, match="plain 7x7 stem"):
        make_backbone(name, width=2.0)


@pytest.mark.parametrize(
    "settings", [{"width": 0.0}, {"in_channels": 0}, {"width": 2, "options": {"channels": [8] * 4}}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        BackboneConfig(**settings)
