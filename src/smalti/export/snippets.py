"""What another stem than timm's and torchvision's adds to the recipe for loading a ResNet, as layers and as text."""

import copy

from torch import nn

from smalti.export.verify import timm_backbone
from smalti.models.encoder import Encoder


def stem_layers(encoder: Encoder) -> dict[str, nn.Module]:
    """The layers, by name, in which the encoder's stem differs from the usual one: in width, or for small images."""
    config, ours = timm_backbone(encoder), encoder.backbone.model
    names = ["conv1"] if config.width != 1 or config.stem != "standard" else []
    if config.width != 1:
        names += ["bn1", "layer1.0.conv1", "layer1.0.downsample"]
    if config.stem != "standard":
        names += ["maxpool"]
    return {name: _layer(ours, name) for name in names}


def put_layers(model: nn.Module, layers: dict[str, nn.Module]) -> nn.Module:
    """The model with copies of the layers in place of its own."""
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, copy.deepcopy(layer))
    return model


def layer_lines(layers: dict[str, nn.Module]) -> list[str]:
    """Python lines that do the same to `model`."""
    return [f"model.{name.replace('.0.', '[0].')} = {_text(layer)}" for name, layer in layers.items()]


def _layer(model: nn.Module, name: str) -> nn.Module:
    parent, _, child = name.rpartition(".")
    return getattr(model.get_submodule(parent), child)  # which may be None


def _text(layer: nn.Module | None) -> str:
    if isinstance(layer, nn.Conv2d):
        return (
            f"nn.Conv2d({layer.in_channels}, {layer.out_channels}, kernel_size={layer.kernel_size}, "
            f"stride={layer.stride}, padding={layer.padding}, bias=False)"
        )
    if isinstance(layer, nn.BatchNorm2d):
        return f"nn.BatchNorm2d({layer.num_features})"
    if isinstance(layer, nn.Sequential):
        return f"nn.Sequential({', '.join(_text(each) for each in layer)})"
    return "None" if layer is None else "nn.Identity()"
