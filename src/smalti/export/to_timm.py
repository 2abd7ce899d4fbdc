"""Export to timm: safetensors under timm's own names."""

from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch import nn

from smalti.errors import UserError
from smalti.export.snippets import layer_lines, put_layers, stem_layers
from smalti.export.verify import ExportReport, timm_backbone, write_verified
from smalti.models.encoder import Encoder, write_weights


def to_timm(encoder: Encoder, path: str | Path) -> ExportReport:
    """Write weights that a model of `timm.create_model` takes with `strict=True`, and a `.json` that says how.

    Args:
        encoder: what to export.
        path: of the weights, ending in ".safetensors".

    Returns:
        Where it went, how far the outputs differ, and the Python that loads it.

    Raises:
        UserError: the encoder is no network of timm's, the path ends otherwise.
        RuntimeError: timm's network gives other features than the encoder; then nothing is written.
    """
    path = Path(path)
    timm_backbone(encoder)
    if path.suffix != ".safetensors":
        raise UserError(f"{path}", "a file that ends in .safetensors", f"write to {path.with_suffix('.safetensors')}")
    return write_verified(
        encoder,
        path,
        write=lambda target: write_weights(target, encoder.backbone.model),
        load=lambda weights: _load(encoder, weights),
        snippet=lambda weights: _snippet(encoder, weights),
    )


def _options(encoder: Encoder) -> dict[str, Any]:
    config = timm_backbone(encoder)
    return {"num_classes": 0, "in_chans": config.in_channels, **_size_options(encoder), **config.timm_options()}


def _load(encoder: Encoder, weights: Path) -> nn.Module:
    """What the snippet says."""
    model = timm.create_model(timm_backbone(encoder).name, **_options(encoder))
    put_layers(model, stem_layers(encoder)).load_state_dict(load_file(weights), strict=True)
    return model


def _snippet(encoder: Encoder, weights: Path) -> str:
    config = timm_backbone(encoder)
    arguments = ", ".join(f"{name}={value!r}" for name, value in _options(encoder).items())
    stem = layer_lines(stem_layers(encoder))
    return "\n".join(
        [
            "import timm",
            "from safetensors.torch import load_file",
            *(["from torch import nn"] if stem else []),
            "",
            f"model = timm.create_model({config.name!r}, {arguments})",
            *stem,
            f"model.load_state_dict(load_file({str(weights)!r}), strict=True)",
            "",
        ]
    )


def _size_options(encoder: Encoder) -> dict[str, Any]:
    """What lets a transformer take the image sizes that the encoder takes."""
    model = encoder.backbone.model
    if getattr(model, "dynamic_img_size", False):
        return {"dynamic_img_size": True}
    if getattr(getattr(model, "patch_embed", None), "strict_img_size", True):
        return {}
    return {"strict_img_size": False}
