"""Export to torchvision, for the ResNets that it and timm have in common."""

from pathlib import Path

import torch
from torch import nn
from torchvision import models

from smalti.errors import UserError
from smalti.export.snippets import layer_lines, put_layers, stem_layers
from smalti.export.verify import ExportReport, timm_backbone, write_verified
from smalti.models.encoder import Encoder

# Architectures that both libraries build alike, under one name and with the same keys.
SHARED = (
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"),
)


def to_torchvision(encoder: Encoder, path: str | Path) -> ExportReport:
    """Write a state dict that a torchvision ResNet without its classifier takes with `strict=True`.

    Args:
        encoder: what to export; an architecture of `SHARED`, of any stem and number of channels.
        path: of the weights, ending in ".pth"; a `.json` beside it says how to load them.

    Returns:
        Where it went, how far the outputs differ, and the Python that loads it.

    Raises:
        UserError: the encoder is no network of timm's, torchvision has no such network, or the path ends otherwise.
        RuntimeError: torchvision's network gives other features than the encoder; then nothing is written.
    """
    path = Path(path)
    if path.suffix != ".pth":
        raise UserError(f"{path}", "a file that ends in .pth", f"write to {path.with_suffix('.pth')}")
    config = timm_backbone(encoder)
    options = config.timm_options()
    if _architecture(encoder) not in SHARED or options:
        changes = f" with options {options}" if options else ""
        raise UserError(f"{config.name}{changes} for torchvision", f"one of {', '.join(SHARED)}", "export to timm")
    state = {key: value.detach().cpu() for key, value in encoder.backbone.model.state_dict().items()}
    return write_verified(
        encoder,
        path,
        write=lambda target: torch.save(state, target),
        load=lambda weights: _load(encoder, weights),
        snippet=lambda weights: _snippet(encoder, weights),
    )


def _architecture(encoder: Encoder) -> str:
    """The name without timm's tag for a set of weights, as in "resnet50.a1_in1k"."""
    return timm_backbone(encoder).name.partition(".")[0]


def _layers(encoder: Encoder) -> dict[str, nn.Module]:
    """Those of the stem; torchvision's own takes three channels, so another number needs another."""
    layers = stem_layers(encoder)
    return layers if layers or encoder.backbone.in_channels == 3 else {"conv1": encoder.backbone.model.conv1}


def _load(encoder: Encoder, weights: Path) -> nn.Module:
    """What the snippet says."""
    model = models.get_model(_architecture(encoder))
    put_layers(model, {**_layers(encoder), "fc": nn.Identity()})
    model.load_state_dict(torch.load(weights, weights_only=True), strict=True)
    return model


def _snippet(encoder: Encoder, weights: Path) -> str:
    return "\n".join(
        [
            "import torch",
            "from torch import nn",
            "from torchvision import models",
            "",
            f"model = models.{_architecture(encoder)}()",
            *layer_lines(_layers(encoder)),
            "model.fc = nn.Identity()",
            f"model.load_state_dict(torch.load({str(weights)!r}, weights_only=True), strict=True)",
            "",
        ]
    )
