"""The formats that an encoder can be exported to, by the name that users give."""

from collections.abc import Callable
from pathlib import Path

from smalti.export.to_timm import to_timm
from smalti.export.to_torchvision import to_torchvision
from smalti.export.verify import ExportReport
from smalti.models.encoder import Encoder

FORMATS: dict[str, Callable[[Encoder, str | Path], ExportReport]] = {
    "timm": to_timm,
    "torchvision": to_torchvision,
}
