"""A trained backbone with the statistics of its pixels, and the two files that it is saved in.

`encoder.safetensors` has the weights under timm's own names; `encoder.json` describes the network.
"""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dacite
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.files import atomic
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone

WEIGHTS_NAME = "encoder.safetensors"
INFO_NAME = "encoder.json"
# Only these are found by the name in a file; the class of a network of the user's own has to be given.
_BACKBONES: dict[str, type[BackboneConfig]] = {each.__name__: each for each in (TimmBackbone, SplitBackbone)}


def installed_versions() -> dict[str, str]:
    """The versions of the packages that weights depend on: {"smalti": ..., "timm": ..., "torch": ...}."""
    return {package: version(package) for package in ("smalti", "timm", "torch")}


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """The content of `encoder.json`: what it takes to build the network again and to prepare its input.

    Attributes:
        backbone: the architecture.
        pixels: how pixel values become what the network was trained on.
        image_size: side in pixels of the images it was trained on, the default for evaluation.
        crop_fraction: side of the center crop over the shorter side that it is cut from; 224 / 256 in the papers.
        recipe: name of the recipe that trained it, or the source of foreign weights.
        network: which of a method's networks this is: "query", "online", "teacher", ...
        versions: of the packages that wrote it.
        extra: anything else to keep, of JSON types.

    Example:
        >>> from smalti import load_encoder
        >>> info = load_encoder("random:resnet18").info
        >>> info.backbone.name, info.image_size
        ('resnet18', 224)
    """

    backbone: BackboneConfig
    pixels: PixelStatistics
    image_size: int = 224
    crop_fraction: float = 224 / 256
    recipe: str = ""
    network: str = ""
    versions: dict[str, str] = field(default_factory=installed_versions)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Text for `encoder.json`; `from_json` reads it back as an equal object."""
        backbone = {"class": type(self.backbone).__name__, **asdict(self)["backbone"]}
        return json.dumps(asdict(self) | {"backbone": backbone}, indent=2) + "\n"

    @classmethod
    def from_json(
        cls, text: str, where: str | Path = INFO_NAME, backbone: BackboneConfig | None = None
    ) -> "EncoderInfo":
        """Read what `to_json` wrote.

        Args:
            text: the JSON.
            where: the file that it came from, for the error.
            backbone: any settings of the network, where it is none of the package's: its class is taken.

        Raises:
            UserError: it is not JSON, a field is missing or unknown, or the network is the user's and not given.
        """
        try:
            fields = json.loads(text)
            described = fields.pop("backbone")
            kind = described.pop("class", TimmBackbone.__name__)
            known = _BACKBONES | ({} if backbone is None else {type(backbone).__name__: type(backbone)})
            if kind not in known:
                raise UserError(
                    f"{where} of a {kind}, which is not a network of smalti's",
                    "its class",
                    "give settings of it as backbone=, or the recipe file that brings it as --backbone FILE.py",
                )
            strict = dacite.Config(strict=True, cast=[tuple], type_hooks={float: _number})
            fields["backbone"] = dacite.from_dict(known[kind], described, strict)
            return dacite.from_dict(cls, fields, strict)
        except UserError:
            raise
        except (dacite.DaciteError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{where}, which is not a description of an encoder ({type(error).__name__}: {error})",
                "the JSON that smalti writes next to its weights",
                "write it again with save_encoder, or pass the weights alone with backbone=",
            ) from None


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


class Encoder(nn.Module):
    """Raw pixels in, one feature vector an image out: `x -> pooled(((x - low) / (high - low) - mean) / std)`.

    Args:
        backbone: the network.
        info: what it is and how it takes pixels; `info.backbone` should have built it.

    Raises:
        UserError: mean or std has another number of channels than the network.

    Example:
        >>> pixels = PixelStatistics(low=0, high=255, mean=(0.5,) * 3, std=(0.25,) * 3)
        >>> config = TimmBackbone(name="resnet18", stem="stride8")
        >>> encoder = Encoder(Backbone(config.build()), EncoderInfo(backbone=config, pixels=pixels, image_size=32))
        >>> tuple(encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape), encoder.dim
        ((2, 512), 512)
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, backbone: Backbone, info: EncoderInfo) -> None:
        super().__init__()
        self.backbone = backbone
        self.info = info
        self.dim: int = backbone.dim
        pixels, channels = info.pixels, backbone.in_channels
        if not len(pixels.mean) == len(pixels.std) == channels:
            raise UserError(
                f"means for {len(pixels.mean)} and deviations for {len(pixels.std)} channels",
                f"{channels} of each, as the backbone has input channels",
                "measure the statistics on the images that the encoder is for, or change backbone.in_channels",
            )
        scale, shift = pixels.normalize.affine(pixels.low, pixels.high)
        backbone.set_statistics(pixels.normalize)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) of any number type, in the images' own range -> (N, dim) pooled features."""
        return self.backbone(self.standardize(pixels)).pooled

    def standardize(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W) in the images' own range -> the same in float32, as the network takes it."""
        return torch.addcmul(self.shift, pixels.to(torch.float32), self.scale)


def save_encoder(folder: str | Path, backbone: Backbone, info: EncoderInfo) -> Path:
    """Write `encoder.safetensors` and `encoder.json` into a folder; a reader never sees half a file.

    The keys are those of the timm model, so that `timm.create_model(...).load_state_dict(load_file(path))` takes
    them as they are. The file of weights contains a copy of the description, so it can be used without the other.

    Args:
        folder: made if absent.
        backbone: whose weights to write; on any device.
        info: the description to write.

    Returns:
        The path of the weights.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from smalti import load_encoder
        >>> from smalti.models import save_encoder
        >>> encoder = load_encoder("random:resnet18")
        >>> with TemporaryDirectory() as folder:
        ...     path = save_encoder(folder, encoder.backbone, encoder.info)
        ...     torch.equal(load_encoder(path)(torch.zeros(1, 3, 64, 64)), encoder(torch.zeros(1, 3, 64, 64)))
        True
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_NAME
    text = info.to_json()
    with atomic(weights) as temporary:
        write_weights(temporary, backbone.model, {"smalti": text})
    with atomic(folder / INFO_NAME) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return weights


def write_weights(path: Path, model: nn.Module, metadata: dict[str, str] | None = None) -> None:
    """Write a module's state as safetensors, bit for bit, with the marker that timm and hubs look for."""
    # A clone each: safetensors refuses tensors that share memory or are laid out otherwise.
    state = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in model.state_dict().items()
    }
    try:
        save_file(state, path, metadata={"format": "pt", **(metadata or {})})
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise OSError(str(error)) from error
