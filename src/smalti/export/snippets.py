"""The lines that a small stem or another number of channels adds to the recipe for loading a ResNet."""

from smalti.models.backbone import SMALL_STEM_STRIDE, BackboneConfig
from smalti.models.encoder import Encoder


def small_stem_lines(encoder: Encoder) -> list[str]:
    """Python lines that turn the 7x7 stem of `model` into the encoder's 3x3 one; none for the standard stem."""
    config: BackboneConfig = encoder.info.backbone
    if config.stem == "standard":
        return []
    width = encoder.backbone.model.conv1.out_channels
    return [
        f"model.conv1 = nn.Conv2d({config.in_channels}, {width}, kernel_size=3, "
        f"stride={SMALL_STEM_STRIDE[config.stem]}, padding=1, bias=False)",
        "model.maxpool = nn.Identity()",
    ]
