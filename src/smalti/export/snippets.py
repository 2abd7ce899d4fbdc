"""The lines that another stem than timm's and torchvision's adds to the recipe for loading a ResNet."""

from torch import nn

from smalti.export.verify import timm_backbone
from smalti.models.encoder import Encoder


def stem_lines(encoder: Encoder) -> list[str]:
    """Python lines that give `model` the encoder's stem, of another width or for small images; none for the usual."""
    config, ours = timm_backbone(encoder), encoder.backbone.model
    lines = {"conv1": _conv(ours.conv1)} if config.width != 1 or config.stem != "standard" else {}
    if config.width != 1:
        first = ours.layer1[0]
        lines |= {"bn1": f"nn.BatchNorm2d({ours.conv1.out_channels})", "layer1[0].conv1": _conv(first.conv1)}
        shortcut = first.downsample
        lines["layer1[0].downsample"] = str(
            shortcut and f"nn.Sequential({_conv(shortcut[0])}, nn.BatchNorm2d({shortcut[0].out_channels}))"
        )
    if config.stem != "standard":
        lines["maxpool"] = "nn.Identity()"
    return [f"model.{name} = {value}" for name, value in lines.items()]


def _conv(conv: nn.Conv2d) -> str:
    return (
        f"nn.Conv2d({conv.in_channels}, {conv.out_channels}, kernel_size={conv.kernel_size}, "
        f"stride={conv.stride}, padding={conv.padding}, bias=False)"
    )
