"""Every export is tried out before it is handed over: it is loaded again, and the outputs are compared."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from smalti.errors import UserError
from smalti.files import atomic
from smalti.models.encoder import Encoder, installed_versions
from smalti.models.timm_backbone import TimmBackbone

# Largest difference of the outputs over their largest value; equal programs differ by less in float32.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ExportReport:
    """What was written and how far it was checked.

    Attributes:
        path: the weights; the same name with `.json` beside it holds the snippet and how to feed the network.
        max_abs_difference: between the encoder's features and those of the network that the snippet builds.
        snippet: Python that builds `model`, ready for standardized pixels (N, C, H, W) -> (N, dim).
    """

    path: Path
    max_abs_difference: float
    snippet: str


def timm_backbone(encoder: Encoder) -> TimmBackbone:
    """The settings of an encoder that is one network of timm's; UserError for any other."""
    backbone = encoder.info.backbone
    if not isinstance(backbone, TimmBackbone):
        raise UserError(f"an encoder of a {type(backbone).__name__}", "a timm architecture", "use smalti.load_encoder")
    return backbone


def write_verified(
    encoder: Encoder,
    path: Path,
    write: Callable[[Path], None],
    load: Callable[[Path], nn.Module],
    snippet: Callable[[Path], str],
) -> ExportReport:
    """Write the weights, load them again, and put them in place only if the outputs agree.

    The snippet is text for the user and is never run here, since names in it may come from a file.

    Args:
        encoder: what is exported.
        path: where the weights go; its folder is made if absent.
        write: writes the weights to a path.
        load: reads them from a path into the other library's network.
        snippet: the Python text that does the same and calls it `model`.

    Raises:
        RuntimeError: that network gives other features than the encoder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary:
        write(temporary)
        difference = _difference(encoder, load, temporary)
    report = ExportReport(path, difference, snippet(Path(path.name)))
    with atomic(path.with_suffix(".json")) as temporary:
        temporary.write_text(_card(encoder, report), encoding="utf-8")
    return report


def _difference(encoder: Encoder, load: Callable[[Path], nn.Module], weights: Path) -> float:
    """Largest absolute difference of the features on a random batch, both on the CPU."""
    backbone = copy.deepcopy(encoder.backbone).cpu().eval()
    size = encoder.info.image_size
    pixels = torch.randn(2, encoder.info.backbone.in_channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone(pixels).pooled
        with torch.random.fork_rng(devices=[]):
            given = load(weights).eval()(pixels)
    if given.shape != expected.shape:
        raise RuntimeError(f"the exported network gives {tuple(given.shape)}, the encoder {tuple(expected.shape)}")
    difference = float((given - expected).abs().max())
    if not difference <= TOLERANCE * float(expected.abs().max()):
        raise RuntimeError(f"the exported network differs from the encoder by {difference:.2g}; nothing was written")
    return difference


def _card(encoder: Encoder, report: ExportReport) -> str:
    info = encoder.info
    card = {
        "weights": report.path.name,
        "load": report.snippet.splitlines(),
        "pixels": {"formula": "((pixel - low) / (high - low) - mean) / std", **asdict(info.pixels)},
        "image_size": info.image_size,
        "features": encoder.dim,
        "architecture": asdict(info.backbone),
        "network": info.network,
        "recipe": info.recipe,
        "versions": {"trained": info.versions, "exported": installed_versions()},
        "max_abs_difference": report.max_abs_difference,
    }
    return json.dumps(card, indent=2) + "\n"
