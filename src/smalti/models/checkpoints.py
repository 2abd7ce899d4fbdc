"""Weights of ours and of others into an `Encoder`, strictly: every key is matched or its absence explained.

A checkpoint that half fits gives plausible, wrong accuracies, so nothing is loaded unless every tensor of the
network is found and every tensor left over is known to belong to something else (a classifier, a projector, ...).
"""

import argparse
import logging
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smalti.errors import UserError
from smalti.images.statistics import PixelStatistics
from smalti.models.backbone import Backbone, BackboneConfig
from smalti.models.encoder import INFO_NAME, WEIGHTS_NAME, Encoder, EncoderInfo
from smalti.normalize import IMAGENET_MEAN, IMAGENET_STD

State = dict[str, Tensor]

# Where other projects keep the weights inside a checkpoint, the network that they evaluate first.
WRAPPERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model", "network", "student")

# What the encoder's keys begin with, and the name of that network.
PREFIXES = {
    "": "",
    "encoder_q.": "query",  # MoCo v1 and v2, MosRep, DenseCL
    "base_encoder.": "base",  # MoCo v3
    "backbone.": "",  # DINO, solo-learn
    "online_encoder.net.": "online",
    "online_encoder.": "online",
    "encoder.": "",  # SimSiam
    "model.": "",
}

# Beginnings of keys that belong to no encoder: heads, and the other networks and queues of a method.
LEFTOVERS = (
    *("fc.", "head.", "heads.", "head_dist.", "classifier.", "last_linear."),
    *("projector", "projection", "proj_head", "predictor", "prediction", "mlp."),
    *("queue", "encoder_k.", "momentum_", "target_", "teacher.", "student."),
)

# Architectures told apart by the shapes of their tensors.
CANDIDATES = (
    *("resnet18", "resnet34", "resnet50", "resnet101"),
    *("vit_small_patch16_224", "vit_base_patch16_224", "vit_small_patch8_224", "vit_base_patch8_224"),
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What became of every key.

    Attributes:
        matched: keys of the network that were loaded.
        missing: keys of the network that the file has not, or has in another shape.
        unexpected: keys of the file that nothing explains.
        dropped: keys of the file that belong to heads, queues and other networks.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        parts = (f"{len(self.matched)} tensors matched", f"{len(self.dropped)} of heads and the like dropped")
        return ", ".join((*parts, *_problems(self)))


def load_encoder(
    what: str | Path,
    *,
    backbone: BackboneConfig | None = None,
    pixels: PixelStatistics | None = None,
    image_size: int | None = None,
) -> Encoder:
    """Load an encoder from wherever it is, on the CPU and in evaluation mode.

    Args:
        what: a run folder; an `encoder.safetensors` or `encoder.json`; a checkpoint of timm, torchvision, MoCo
            (v1 to v3), MosRep, DINO or a relative of theirs (.pth, .pt, .pth.tar, .ckpt, .safetensors);
            "timm:NAME" for timm's pretrained weights; "random:NAME" for untrained ones, the same at every call.
        backbone: the architecture of a foreign checkpoint. Plain ResNet-18/34/50/101 and ViT-S/B (patch 8 or 16,
            224 px) are recognized without it. With "timm:" and "random:", stem, channels and options.
        pixels: for foreign weights, how pixel values are standardized; ImageNet's on 8 bits unless given (timm's
            own for "timm:"). Encoders of smalti bring theirs.
        image_size: side in pixels of the images that foreign weights were trained on. Unless given: timm's for the
            architecture, 32 for the stem "stride8" and 64 for "stride16".

    Returns:
        The encoder; `info.extra["loaded"]` has the counts of matched and dropped keys.

    Raises:
        UserError: nothing there, not safe to read, of an unknown or another architecture, or a key unexplained.

    Example:
        >>> load_encoder("random:resnet18").dim
        512
    """
    kind, colon, name = str(what).partition(":")
    if colon and kind in ("random", "timm"):
        config = replace(backbone or BackboneConfig(), name=name)
        encoder = _random(config) if kind == "random" else _pretrained(config)
        return _adjusted(encoder, pixels, image_size).eval()
    path = Path(what)
    if path.is_dir() or path.name == INFO_NAME:
        path = _weights_of(path)
    if not path.is_file():
        raise UserError(
            f"{what}, where there is no file",
            'a run folder, a checkpoint, "timm:NAME" or "random:NAME"',
            "check the path",
        )
    info = _own_info(path)
    if info is None:
        return _adjusted(_foreign(path, backbone), pixels, image_size).eval()
    asked = {"backbone": backbone, "pixels": pixels, "image_size": image_size}
    return _own(path, info, asked).eval()


def load_weights(backbone: Backbone, state: State) -> LoadReport:
    """Copy a state dict into a backbone, all of it or nothing.

    Args:
        backbone: receives the weights.
        state: tensors by key, as the foreign project named them; prefixes such as `module.encoder_q.` are found.

    Returns:
        What was matched and dropped; `missing` and `unexpected` are empty.

    Raises:
        UserError: a tensor is missing, has another shape, or cannot be explained.
    """
    wanted = backbone.model.state_dict()
    found, report = _match(_shapes(wanted), state)
    if report.missing or report.unexpected:
        raise UserError(
            f"{', '.join(_problems(report))} ({len(report.matched)} of {len(wanted)} matched)",
            f"every tensor of {backbone.config.name}",
            "give the architecture of the checkpoint as backbone=, with its stem and options",
        )
    # Only step counters may be absent, and those of the fresh network stay.
    backbone.model.load_state_dict({**wanted, **found})
    _log.info("%s: %s", backbone.config.name, report)
    return report


def read_checkpoint(path: Path) -> tuple[State, str]:
    """Read the tensors of a checkpoint file without running any code in it.

    Returns:
        (state, wrapper): tensors by key, and the entry that they stood under ("" when at the top).

    Raises:
        UserError: the file is damaged, holds code, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path), ""
    return _unwrap(_read_pickle(path), path)


def _own(path: Path, info: EncoderInfo, asked: dict[str, Any]) -> Encoder:
    for name, value in asked.items():
        if value not in (None, getattr(info, name)):
            raise UserError(
                f"{name}={value} for {path}", f"{getattr(info, name)} as it was trained", f"leave {name}= out"
            )
    backbone = Backbone(info.backbone)
    load_weights(backbone, _read_safetensors(path))
    return Encoder(backbone, info)


def _foreign(path: Path, config: BackboneConfig | None) -> Encoder:
    state, wrapper = read_checkpoint(path)
    config = config or _recognize(state, path)
    backbone = Backbone(config)
    report = load_weights(backbone, state)
    prefix = _best_prefix(_shapes(backbone.model.state_dict()), _bare(state))
    info = EncoderInfo(
        backbone=config,
        pixels=_imagenet_pixels(config.in_channels),
        image_size=_native_size(backbone),
        recipe=path.name,
        network=PREFIXES[prefix] or (wrapper if wrapper in ("teacher", "student") else ""),
        extra={"loaded": {"matched": len(report.matched), "dropped": len(report.dropped)}},
    )
    return Encoder(backbone, info)


def _random(config: BackboneConfig) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone(config)
    pixels, size = _imagenet_pixels(config.in_channels), _native_size(backbone)
    return Encoder(backbone, EncoderInfo(backbone=config, pixels=pixels, image_size=size, recipe="random"))


def _pretrained(config: BackboneConfig) -> Encoder:
    backbone = Backbone(config)
    name, channels = config.name, config.in_channels
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0, in_chans=channels, **config.options)
    except Exception as error:  # downloads fail in as many ways as there are clients; all mean the same here
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"no pretrained weights for {name} ({type(error).__name__}: {reason})",
            "weights that timm can download",
            "check the network, or download them elsewhere and pass the file",
        ) from error
    load_weights(backbone, model.state_dict())
    source: Any = model.pretrained_cfg
    pixels = _imagenet_pixels(channels)
    if channels == len(source["mean"]):
        pixels = replace(pixels, mean=tuple(source["mean"]), std=tuple(source["std"]))
    info = EncoderInfo(
        backbone=config,
        pixels=pixels,
        image_size=_native_size(backbone),
        crop_fraction=source.get("crop_pct") or 224 / 256,
        recipe=f"timm:{name}",
    )
    return Encoder(backbone, info)


def _adjusted(encoder: Encoder, pixels: PixelStatistics | None, image_size: int | None) -> Encoder:
    info = encoder.info
    info = replace(info, pixels=pixels or info.pixels, image_size=image_size or info.image_size)
    return Encoder(encoder.backbone, info)


def _native_size(backbone: Backbone) -> int:
    """Side in pixels of the images that an architecture is meant for."""
    config = backbone.config
    if config.stem != "standard":
        return {"stride8": 32, "stride16": 64}[config.stem]
    cfg: Any = backbone.model.pretrained_cfg
    return int(config.options.get("img_size") or cfg["input_size"][-1])


def _imagenet_pixels(channels: int) -> PixelStatistics:
    """ImageNet's statistics on 8 bits; for other channel counts the average over the three colors."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if channels != 3:
        mean, std = (sum(mean) / 3,) * channels, (sum(std) / 3,) * channels
    return PixelStatistics(low=0.0, high=255.0, mean=mean, std=std)


def _weights_of(path: Path) -> Path:
    folder = path if path.is_dir() else path.parent
    weights = folder / WEIGHTS_NAME
    if not weights.is_file():
        raise UserError(
            f"{path} without {WEIGHTS_NAME}", "the folder of a finished run", "wait for the run, or name a file"
        )
    return weights


def _own_info(path: Path) -> EncoderInfo | None:
    """The description beside our weights, else the copy inside them; None for a foreign file."""
    beside = path.with_name(INFO_NAME)
    if path.name == WEIGHTS_NAME and beside.is_file():
        return EncoderInfo.from_json(beside.read_text(encoding="utf-8"), beside)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("smalti")
    except SafetensorError as error:
        raise _damaged(path, error) from None
    return None if text is None else EncoderInfo.from_json(text, path)


def _read_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise _damaged(path, error) from None


def _read_pickle(path: Path) -> Any:
    try:
        # DINO and timm keep their command line in the checkpoint; a Namespace only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error):
            raise _damaged(path, error) from None
        raise UserError(
            f"{path}, which holds more than tensors and plain values",
            "a checkpoint that can be read without running code in it",
            "if you trust it, torch.load it with weights_only=False and torch.save its state dict alone",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path}, which cannot be read ({reason})", "a whole checkpoint file", "copy it again")


def _unwrap(content: Any, path: Path) -> tuple[State, str]:
    """Walk down the wrappers to the first level that holds tensors."""
    name = ""
    while isinstance(content, dict):
        inner = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
            if state:
                return state, name
            break
        name, content = inner, content[inner]
    raise UserError(
        f"{path} without a state dict", f"tensors at the top or under {', '.join(WRAPPERS)}", "extract it first"
    )


def _bare(state: State) -> State:
    """Keys without what DataParallel and torch.compile put in front of them."""
    bare = {}
    for key, value in state.items():
        while key.startswith(("module.", "_orig_mod.")):
            key = key.partition(".")[2]
        bare[key] = value
    return bare


def _shapes(state: State) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _best_prefix(shapes: dict[str, torch.Size], state: State) -> str:
    """The prefix under which most of the network's tensors stand."""

    def matched(prefix: str) -> int:
        return sum(prefix + key in state and state[prefix + key].shape == shapes[key] for key in shapes)

    return max(PREFIXES, key=matched)


def _match(shapes: dict[str, torch.Size], state: State) -> tuple[State, LoadReport]:
    """Sort every key of the network and of the file; the tensors found come under the network's names."""
    state = _bare(state)
    prefix = _best_prefix(shapes, state)
    found = {
        key: state[prefix + key]
        for key, shape in shapes.items()
        if prefix + key in state and state[prefix + key].shape == shape
    }
    missing = [_describe(key, shapes[key], state.get(prefix + key)) for key in shapes if key not in found]
    rest = [key for key in state if not (key.startswith(prefix) and key.removeprefix(prefix) in shapes)]
    dropped = [key for key in rest if _explained(key, prefix)]
    return found, LoadReport(
        matched=tuple(found),
        missing=tuple(key for key in missing if not key.endswith("num_batches_tracked")),
        unexpected=tuple(key for key in rest if key not in set(dropped)),
        dropped=tuple(dropped),
    )


def _describe(key: str, shape: torch.Size, tensor: Tensor | None) -> str:
    return key if tensor is None else f"{key} of shape {tuple(tensor.shape)} instead of {tuple(shape)}"


def _explained(key: str, prefix: str) -> bool:
    inside = key.removeprefix(prefix)
    return inside.startswith(LEFTOVERS) or key.startswith(LEFTOVERS) or key.endswith("num_batches_tracked")


def _problems(report: LoadReport) -> Iterator[str]:
    for name, keys in (("missing", report.missing), ("unexpected", report.unexpected)):
        if keys:
            more = ", ..." if len(keys) > 3 else ""
            yield f"{len(keys)} {name}: {', '.join(keys[:3])}{more}"


def _recognize(state: State, path: Path) -> BackboneConfig:
    """The candidate whose every tensor is in the file."""
    bare = _bare(state)
    stems = [value for key, value in bare.items() if key.endswith(("conv1.weight", "patch_embed.proj.weight"))]
    in_channels = stems[0].shape[1] if stems and stems[0].ndim == 4 else 3
    for name in CANDIDATES:
        config = BackboneConfig(name=name, in_channels=in_channels)
        shapes = _candidate_shapes(config)
        _, report = _match(shapes, state)
        if not (report.missing or report.unexpected):
            if name == "vit_small_patch16_224" and _best_prefix(shapes, bare) == "base_encoder.":
                # MoCo v3 gives its ViT-S 12 heads where all others have 6, and no shape tells.
                return replace(config, options={"num_heads": 12})
            return config
    raise UserError(
        f"{path}, whose tensors fit none of {', '.join(CANDIDATES)}",
        "one of these, or the architecture named",
        "give it as backbone=BackboneConfig(name=..., stem=..., in_channels=...)",
    )


def _candidate_shapes(config: BackboneConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes only, no weights drawn
        return _shapes(Backbone(config).model.state_dict())
