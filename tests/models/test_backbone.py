"""Backbones say what they are, and are timm's own networks."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.models.backbone import Backbone, Features
from smalti.models.timm_backbone import TimmBackbone

VIT = "vit_tiny_patch16_224"


def make_backbone(name: str, **settings: Any) -> Backbone:
    torch.manual_seed(0)
    return Backbone(TimmBackbone(name=name, **settings).build()).eval()


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


@pytest.mark.parametrize(("zero_init_last", "weight"), [(None, 0), (True, 0), (False, 1)])
@pytest.mark.parametrize(("name", "last"), [("resnet18", "bn2"), ("resnet50", "bn3")])
def test_residual_blocks_begin_as_the_identity_or_not(
    name: str, last: str, zero_init_last: bool | None, weight: int
) -> None:
    model: Any = TimmBackbone(name=name, stem="stride8", width=0.25, zero_init_last=zero_init_last).build()
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        assert all((getattr(block, last).weight == weight).all() for block in stage)


@pytest.mark.parametrize("zero_init_last", [True, False])
@pytest.mark.parametrize("name", [VIT, "convnext_atto"])
def test_a_network_without_such_blocks_takes_none_alone(name: str, zero_init_last: bool) -> None:
    TimmBackbone(name=name).build()
    with pytest.raises(UserError, match="zero-init-last None"):
        TimmBackbone(name=name, zero_init_last=zero_init_last).build()


def test_zero_init_last_is_said_once() -> None:
    with pytest.raises(UserError, match="one of the two"):
        TimmBackbone(zero_init_last=True, options={"zero_init_last": False})


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
    vit = Backbone(TimmBackbone(name="vit_tiny_patch16_224", options={"depth": 1}).build())
    vit.check_size(96)
    with pytest.raises(UserError, match=r"views of 55 px .* use views of 48 px"):
        vit.check_size(55)
    for name in ("resnet18", "swin_tiny_patch4_window7_224"):
        Backbone(TimmBackbone(name=name).build()).check_size(55)


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
    with pytest.raises(UserError, match="MobileNetV3"):
        Backbone(TimmBackbone(name="mobilenetv3_small_100").build())


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
        TimmBackbone(**settings)


class Own(nn.Module):
    """A network of a user's, which ends in what `ends_in` makes of its map."""

    def __init__(self, ends_in: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.last = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.ends_in = ends_in

    def forward(self, images: Tensor) -> Any:
        return self.ends_in(self.last(self.first(images)))


OWN: dict[str, Callable[[Tensor], Any]] = {
    "a map": lambda maps: maps,
    "a vector": lambda maps: maps.mean(dim=(2, 3)),
    "features": lambda maps: Features(maps, maps.mean(dim=(2, 3))),
    "tokens": lambda maps: maps.flatten(2).transpose(1, 2),
}


@pytest.mark.parametrize("ends_in", OWN)
def test_any_network_is_read_as_its_map_and_the_mean_of_it(ends_in: str) -> None:
    network = Own(OWN[ends_in])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    backbone = Backbone(network)
    assert torch.equal(torch.get_rng_state(), state)  # the dry run leaves no trace
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert (backbone.dim, backbone.stride, backbone.in_channels) == (8, 4, 3)
    images = torch.randn(2, 3, 32, 64)
    copied = copy.deepcopy(backbone)
    for each in (backbone.eval(), copied.eval()):
        features = each(images)
        expected = network.last(network.first(images))
        torch.testing.assert_close(features.map, expected)
        torch.testing.assert_close(features.pooled, expected.mean(dim=(2, 3)))


def test_the_pyramid_of_any_network_has_its_last_map_of_each_size() -> None:
    network = Own(OWN["a vector"]).eval()
    backbone = Backbone(network)
    assert backbone.stages() == [(6, 2), (8, 4)]
    images = torch.randn(1, 3, 32, 32)
    finer, last = backbone.pyramid(images)
    torch.testing.assert_close(finer, network.first(images))
    torch.testing.assert_close(last, network.last(network.first(images)))


@pytest.mark.parametrize(
    ("name", "dim", "stride"),
    [
        ("resnet18", 512, 32),
        ("convnext_tiny", 768, 32),
        ("efficientnet_b0", 1280, 32),
        ("vit_b_16", 768, 16),
        ("swin_t", 768, 32),
    ],
)
def test_torchvisions_networks_are_read(name: str, dim: int, stride: int) -> None:
    backbone = Backbone(getattr(torchvision.models, name)()).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 224, 224))
    assert (backbone.dim, backbone.stride) == (dim, stride)
    assert features.map.shape == (1, dim, 224 // stride, 224 // stride)
    assert features.pooled.shape == (1, dim)


def test_the_map_of_torchvisions_resnet_is_timms() -> None:
    theirs = torchvision.models.resnet18()
    ours = make_backbone("resnet18")
    ours.model.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        found, expected = Backbone(theirs).eval()(images), ours(images)
        pyramids = Backbone(theirs).eval().pyramid(images), ours.pyramid(images)
    torch.testing.assert_close(found.map, expected.map, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.pooled, expected.pooled, atol=1e-5, rtol=1e-5)
    for one, other in zip(*pyramids, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prefix", [1, 5])
def test_an_output_of_hugging_faces_kind_is_read(prefix: int) -> None:
    """Their outputs are mappings with `last_hidden_state`; a class token and registers stand before the patches."""

    class Transformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, stride=4)
            self.tokens = nn.Parameter(torch.randn(1, prefix, 8))

        def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> dict[str, Any]:
            assert interpolate_pos_encoding
            patches = self.patches(pixel_values).flatten(2).transpose(1, 2)
            return {"last_hidden_state": torch.cat([self.tokens.expand(len(patches), -1, -1), patches], dim=1)}

    network = Transformer()
    backbone = Backbone(network)
    images = torch.randn(2, 3, 16, 32)
    features = backbone(images)
    torch.testing.assert_close(features.map, network.patches(images))
    torch.testing.assert_close(features.pooled, network.tokens[:, 0].expand(2, -1))


def test_a_classifier_of_a_users_own_is_named() -> None:
    with pytest.raises(UserError, match="10 channels follows no map"):
        Backbone(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)))
    with pytest.raises(UserError, match="output is of list"):
        Backbone(Own(lambda maps: [maps]))
