"""Load weights of smalti and of other projects into an `Encoder`, strictly: every key is matched or explained.

A checkpoint that half fits gives plausible, wrong accuracies, so nothing is loaded unless every tensor of the
network is found and every tensor left over is known to belong to something else (a classifier, a projector, ...).

Where other projects keep the encoder, once `module.` and `_orig_mod.` are taken out of the keys:

| project                           | entry              | keys begin with                 | other keys             |
|-----------------------------------|--------------------|---------------------------------|------------------------|
| MoCo v1, v2, MosRep, Un-Mix       | state_dict         | encoder_q.                      | encoder_k., queue      |
| CIFAR demos of MoCo and Un-Mix    | state_dict         | encoder_q.net., numbered        | encoder_k., queue      |
| MoCo v3                           | state_dict         | base_encoder.                   | momentum_encoder.      |
| MCL; MoCo, DenseCL in OpenSelfSup | state_dict         | encoder_q.0., again backbone.   | encoder_q.1., head.    |
| BYOL in OpenSelfSup               | state_dict         | online_net.0., again backbone.  | target_net., head.     |
| MMSelfSup 1, solo-learn           | state_dict         | backbone.                       | target_net., momentum_ |
| SwAV, Un-Mix on SwAV              | state_dict         |                                 | prototypes             |
| DINO, iBOT                        | teacher            | backbone.                       | head., masked_embed    |
| Barlow Twins, VICReg              | model              | backbone.                       | projector., bn.        |
| PixPro                            | model              | encoder.                        | encoder_k., projector  |
| MAE                               | model              |                                 | mask_token, decoder_   |
| SimSiam                           | state_dict         | encoder.                        | predictor.             |
| MoCo in the code of CMC           | model              | encoder.                        | model_ema, an entry    |
| CMC                               | model              | encoder. or nothing, l_to_ab.   | ... ab_to_l.           |
| byol-pytorch                      |                    | online_encoder.net., again net. | target_encoder.        |
| PyTorch-BYOL                      | online_network_... | encoder., numbered              | projetion.             |
| lightly                           | state_dict         | [teacher_]backbone., numbered   | projection_head.       |
| SimCLR, converted                 | state_dict         |                                 | fc.                    |
| torchvision, timm, LightlyTrain   | or state_dict      |                                 | fc., head., ...        |

"Numbered" is a ResNet as `nn.Sequential`: 0 and 1 are its first convolution and normalization, the four numbers with
blocks its stages, and what comes after is its classifier.
"""

import argparse
import logging
import pickle
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
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
from smalti.models.split import SplitBackbone
from smalti.models.timm_backbone import TimmBackbone
from smalti.normalize import IMAGENET_MEAN, IMAGENET_STD

State = dict[str, Tensor]

# Entries of a checkpoint that hold weights. The first that is there is taken, the network that its authors evaluate.
WRAPPERS = (
    *("teacher", "state_dict_ema", "state_dict", "model", "model_ema", "network"),
    *("online_network_state_dict", "student"),
)

# What the encoder's keys begin with, and the name of that network. Where two fit equally well, the first is taken.
PREFIXES = {
    "": "",
    "encoder_q.": "query",
    "encoder_q.0.": "query",
    "encoder_q.net.": "query",
    "base_encoder.": "base",
    "online_encoder.net.": "online",
    "online_encoder.": "online",
    "online_net.0.": "online",
    "teacher_backbone.": "teacher",
    "teacher.backbone.": "teacher",
    "backbone.": "",
    "encoder.": "",
    "model.": "",
    "net.": "",
    "lightness.": "lightness",
    "encoder.lightness.": "lightness",
    "color.": "color",
    "encoder.color.": "color",
}

# Beginnings of keys of heads and of what is used in training alone, inside the encoder's module or outside.
HEADS = (
    *("fc.", "head.", "heads.", "head_dist.", "classifier.", "last_linear.", "linear.", "neck.", "mlp."),
    *("projector", "projection", "projetion.", "proj_head", "predictor", "prediction", "prototypes"),
    *("decoder", "mask_token", "masked_embed"),
)

# Beginnings of keys of the other networks of a method, its queues and its loss: never inside the encoder.
OTHERS = (
    *("encoder_q.1.", "encoder_q.2.", "encoder_k.", "online_net.1.", "online_predictor.", "online_classifier."),
    *("momentum_", "backbone_momentum.", "target_", "teacher", "student"),
    *("lightness.", "encoder.lightness.", "color.", "encoder.color."),
    *("queue", "value_transform.", "bn.", "criterion.", "dino_loss_func."),
)

# Ends of keys that may be absent: step counters, and the statistics that an `Encoder` sets in a split network.
OPTIONAL = re.compile(r".*num_batches_tracked|mean|std")

# What DataParallel and torch.compile put into keys.
_WRAPPED = re.compile(r"\b(module|_orig_mod)\.")

# How others name parts of a ResNet, and timm or `SplitModel`.
_SPELLINGS = {r"\bl_to_ab\.": "lightness.", r"\bab_to_l\.": "color.", r"\.shortcut\.": ".downsample."}
_NUMBERED_STAGE = re.compile(r"((?:.*\.)?)(\d+)\.\d+\.conv1\.weight")
_RESNET_STAGE = "layer1.0.conv1.weight"

# Architectures that are recognized by the shapes of their tensors.
CANDIDATES = (
    *("resnet18", "resnet34", "resnet50", "resnet101"),
    *("vit_small_patch16_224", "vit_base_patch16_224", "vit_small_patch8_224", "vit_base_patch8_224"),
)

_REMEDY = (
    "if the checkpoint is of another architecture, give it as backbone=TimmBackbone(name=..., stem=..., width=..., "
    'in_channels=..., options=...), with stem="stride8" for a ResNet made for CIFAR; if not, get the file again, or '
    "remove the tensors that are not of the encoder"
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """How every key was matched.

    Attributes:
        matched: keys of the network that were loaded.
        missing: keys of the network that the file lacks, or has in another shape.
        unexpected: keys of the file that belong to nothing known.
        dropped: keys of the file that belong to heads, queues and other networks.
        prefix: what the keys of the network begin with in the file, a key of `PREFIXES`.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...]
    prefix: str

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
    """Load an encoder, on the CPU and in evaluation mode.

    Args:
        what: a run folder; an `encoder.safetensors` or `encoder.json`; a checkpoint of one of the projects in the table
            above (.pth, .pt, .pth.tar, .ckpt, .safetensors); "timm:NAME" for timm's pretrained weights;
            "random:NAME" for untrained ones, the same at every call.
        backbone: the architecture of a foreign checkpoint. ResNet-18/34/50/101 of any width with a 7x7 convolution
            first, CMC's pairs of them, and ViT-S/B (patch 8 or 16, 224 px) are recognized without it. One half of a
            CMC checkpoint is selected by in_channels, 1 for lightness and 2 for color, and takes values in [-1, 1]
            (`smalti.models.color_spaces.scaled_lab`), so give `pixels` with it. CMC's narrow halves have a stem of full
            width: options={"channels": [32, 64, 128, 256]}. With "timm:" and "random:", stem, channels and options.
        pixels: for foreign weights, how pixel values are standardized; ImageNet's on 8 bits unless given (timm's
            own for "timm:"). Encoders of smalti have their own.
        image_size: side in pixels of the images that foreign weights were trained on. Unless given: timm's for the
            architecture, 32 for the stem "stride8" and 64 for "stride16".

    Returns:
        The encoder; `info.extra["loaded"]` has the counts of matched and dropped keys.

    Raises:
        UserError: no such file, not safe to read, of an unknown or another architecture, or a key unexplained.

    Example:
        >>> load_encoder("random:resnet18").dim
        512
    """
    kind, colon, name = str(what).partition(":")
    if colon and kind in ("random", "timm"):
        config = replace(backbone if isinstance(backbone, TimmBackbone) else TimmBackbone(), name=name)
        encoder = _random(config) if kind == "random" else _pretrained(config)
        return _adjusted(encoder, pixels, image_size).eval()
    path = _file_of(what)
    info = _own_info(path, backbone)
    if info is None:
        return _adjusted(_foreign(path, backbone), pixels, image_size).eval()
    asked: dict[str, Any] = {"pixels": pixels, "image_size": image_size}
    if isinstance(backbone, TimmBackbone | SplitBackbone):  # of a network of the user's own the file needs the class
        asked["backbone"] = backbone
    for field, value in asked.items():
        if value not in (None, getattr(info, field)):
            raise UserError(
                f"{field}={value} for {path}", f"{getattr(info, field)} as it was trained", f"leave {field}= out"
            )
    return _own(path, info).eval()


def load_initial(what: str | Path, config: BackboneConfig) -> Encoder:
    """Weights to begin a run from, strictly, in the network of its recipe; in training mode.

    Args:
        what: see `load_encoder`.
        config: the recipe's network, which every tensor has to fit.

    Raises:
        UserError: see `load_encoder`; also for the weights of another network.
    """
    if str(what).startswith(("timm:", "random:")):
        return load_encoder(what, backbone=config).train()
    path = _file_of(what)
    info = _own_info(path, config)
    return (_foreign(path, config) if info is None else _own(path, replace(info, backbone=config))).train()


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
            f"every tensor of {type(backbone.model).__name__}, and no unexplained one",
            _REMEDY,
        )
    # Of the tensors that may be absent, those of the fresh network stay.
    backbone.model.load_state_dict({**wanted, **found})
    _log.info("%s: %s", type(backbone.model).__name__, report)
    return report


def read_checkpoint(path: Path) -> tuple[State, str]:
    """Read the tensors of a checkpoint file without running any code in it.

    Returns:
        (state, wrapper): tensors by key, and the entry that held them ("" for the top level).

    Raises:
        UserError: the file is damaged, holds code, or holds no tensors.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path), ""
    content = _read_pickle(path)
    _refuse_run_checkpoint(content, path)
    return _unwrap(content, path)


def _file_of(what: str | Path) -> Path:
    path = Path(what)
    if path.is_dir() or path.name == INFO_NAME:
        path = _weights_of(path)
    if not path.is_file():
        raise UserError(
            f"{what}, where there is no file",
            'a run folder, a checkpoint, "timm:NAME" or "random:NAME"',
            "check the path",
        )
    return path


def _refuse_run_checkpoint(content: Any, path: Path) -> None:
    """A run's own checkpoint holds several networks, and no description of any."""
    if isinstance(content, dict) and {"next_step", "method", "optimizer"} <= content.keys():
        raise UserError(
            f"{path}, which is a run's checkpoint", "its encoder", f"give the run folder, {path.parent.parent}"
        )


def _own(path: Path, info: EncoderInfo) -> Encoder:
    backbone = Backbone(info.backbone.build())
    load_weights(backbone, _read_safetensors(path))
    return Encoder(backbone, info)


def _foreign(path: Path, config: BackboneConfig | None) -> Encoder:
    state, wrapper = read_checkpoint(path)
    config = config or _recognize(state, path)
    backbone = Backbone(config.build())
    report = load_weights(backbone, state)
    info = EncoderInfo(
        backbone=config,
        pixels=_imagenet_pixels(config.in_channels),
        image_size=_native_size(backbone, config),
        recipe=path.name,
        network=PREFIXES[report.prefix] or (wrapper if wrapper in ("teacher", "student") else ""),
        extra={"loaded": {"matched": len(report.matched), "dropped": len(report.dropped)}},
    )
    return Encoder(backbone, info)


def _random(config: TimmBackbone) -> Encoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = Backbone(config.build())
    pixels, size = _imagenet_pixels(config.in_channels), _native_size(backbone, config)
    return Encoder(backbone, EncoderInfo(backbone=config, pixels=pixels, image_size=size, recipe="random"))


def _pretrained(config: TimmBackbone) -> Encoder:
    backbone = Backbone(config.build())
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
        image_size=_native_size(backbone, config),
        crop_fraction=source.get("crop_pct") or 224 / 256,
        recipe=f"timm:{name}",
    )
    return Encoder(backbone, info)


def _adjusted(encoder: Encoder, pixels: PixelStatistics | None, image_size: int | None) -> Encoder:
    info = encoder.info
    info = replace(info, pixels=pixels or info.pixels, image_size=image_size or info.image_size)
    return Encoder(encoder.backbone, info)


def _native_size(backbone: Backbone, config: BackboneConfig) -> int:
    """Side in pixels of the images that an architecture is meant for."""
    return {"stride8": 32, "stride16": 64}.get(getattr(config, "stem", "standard"), backbone.native_size)


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


def _own_info(path: Path, backbone: BackboneConfig | None) -> EncoderInfo | None:
    """The description next to our weights, else the copy inside them; None for a foreign file."""
    description = path.with_name(INFO_NAME)
    if path.name == WEIGHTS_NAME and description.is_file():
        return EncoderInfo.from_json(description.read_text(encoding="utf-8"), description, backbone)
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("smalti")
    except SafetensorError as error:
        raise _damaged(path, error) from None
    return None if text is None else EncoderInfo.from_json(text, path, backbone)


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


def _renamed(state: State, rename: Callable[[str], str]) -> State:
    """Tensors under other keys. One whose new key is taken keeps its own, and so is refused later, not lost."""
    renamed: State = {}
    for key, value in state.items():
        name = rename(key)
        renamed[key if name in renamed else name] = value
    return renamed


def _bare(state: State) -> State:
    """Keys without what DataParallel and torch.compile put into them."""
    return _renamed(state, lambda key: _WRAPPED.sub("", key))


def _resnet_names(state: State) -> State:
    """Keys of ResNets as timm and `SplitModel` name them, whatever stands in front; others as they are."""
    stages: dict[str, set[int]] = defaultdict(set)
    for key in state:
        if match := _NUMBERED_STAGE.fullmatch(key):
            stages[match[1]].add(int(match[2]))
    layers = {
        prefix: {0: "conv1", 1: "bn1"} | {number: f"layer{i}" for i, number in enumerate(sorted(numbers), start=1)}
        for prefix, numbers in stages.items()
        if len(numbers) == 4 and min(numbers) > 1  # HRNet numbers its branches from 0
    }

    def rename(key: str) -> str:
        for prefix, names in layers.items():
            number, _, rest = key.removeprefix(prefix).partition(".")
            if key.startswith(prefix) and number.isdecimal():
                after = f"fc.{number}" if int(number) > max(names) else number
                key = f"{prefix}{names.get(int(number), after)}.{rest}"
        for theirs, ours in _SPELLINGS.items():
            key = re.sub(theirs, ours, key)
        return key

    return _renamed(state, rename)


def _shapes(state: State) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}


def _match(shapes: dict[str, torch.Size], state: State) -> tuple[State, LoadReport]:
    """Sort every key of the network and of the file; the tensors found come under the network's names."""
    state = _bare(state)
    if any(key.endswith(_RESNET_STAGE) for key in shapes):
        state = _resnet_names(state)

    def fitting(prefix: str) -> State:
        stored = ((key, state.get(prefix + key)) for key in shapes)
        return {key: tensor for key, tensor in stored if tensor is not None and tensor.shape == shapes[key]}

    first = next(iter(shapes))  # a convolution of the image in ResNets, which tells the halves of CMC apart
    prefix = max(PREFIXES, key=lambda prefix: (first in fitting(prefix), len(fitting(prefix))))
    found = fitting(prefix)
    missing = [key for key in shapes if key not in found and not OPTIONAL.fullmatch(key)]
    rest = [key for key in state if not (key.startswith(prefix) and key.removeprefix(prefix) in shapes)]
    unexpected = [key for key in rest if not _explained(key, prefix, shapes, state)]
    return found, LoadReport(
        matched=tuple(found),
        missing=tuple(_describe(key, shapes[key], state.get(prefix + key)) for key in missing),
        unexpected=tuple(unexpected),
        dropped=tuple(key for key in rest if key not in set(unexpected)),
        prefix=prefix,
    )


def _describe(key: str, shape: torch.Size, tensor: Tensor | None) -> str:
    return key if tensor is None else f"{key} of shape {tuple(tensor.shape)} instead of {tuple(shape)}"


def _explained(key: str, prefix: str, shapes: dict[str, torch.Size], state: State) -> bool:
    """Whether a key not of the network is known to be of a head, of another network, or a tensor's second name."""
    for begin in PREFIXES:
        inside = key.removeprefix(begin)
        again = begin != prefix and prefix + inside in state and torch.equal(state[key], state[prefix + inside])
        if key.startswith(begin) and (again or inside.startswith(HEADS)):
            return True
    parts = {name.partition(".")[0] for name in shapes}
    within = key.startswith(prefix) if prefix else key.partition(".")[0] in parts
    return key.endswith("num_batches_tracked") or (key.startswith(OTHERS) and not within)


def _problems(report: LoadReport) -> Iterator[str]:
    for name, keys in (("missing", report.missing), ("unexpected", report.unexpected)):
        if keys:
            more = ", ..." if len(keys) > 3 else ""
            yield f"{len(keys)} {name}: {', '.join(keys[:3])}{more}"


def _recognize(state: State, path: Path) -> BackboneConfig:
    """The candidate whose every tensor is in the file."""
    nearest, fewest = "", float("inf")
    for config in _candidates(_resnet_names(_bare(state))):
        shapes = _candidate_shapes(config)
        _, report = _match(shapes, state)
        problems = len(report.missing) + len(report.unexpected)
        if not problems:
            if config == TimmBackbone(name="vit_small_patch16_224") and report.prefix == "base_encoder.":
                # MoCo v3 gives its ViT-S 12 heads where all others have 6, which no shape shows.
                return replace(config, options={"num_heads": 12})
            return config
        if problems < fewest:
            described = ", ".join((f"{len(report.matched)} of {len(shapes)} tensors matched", *_problems(report)))
            nearest, fewest = f"{config.name} with {described}", problems
    raise UserError(
        f"{path}, which fits no known architecture exactly; the nearest is {nearest}",
        f"every tensor of one of {', '.join(CANDIDATES)}, and no unexplained one",
        _REMEDY,
    )


def _candidates(state: State) -> Iterator[BackboneConfig]:
    """The architectures to try, with the channels and width that the shapes of the first layers imply."""
    first = _first(state, "conv1.weight", "patch_embed.proj.weight")
    stage = _first(state, _RESNET_STAGE)
    in_channels = first[1] if len(first) == 4 else 3
    split = any("color." in key for key in state)
    width: dict[str, Any] = {}
    if stage and stage[0] != 64:
        same = stage[0] == first[0]  # CMC widens or narrows the stages and leaves the stem
        width = {"width": stage[0] / 64} if same else {"options": {"channels": [stage[0] * 2**i for i in range(4)]}}
    for name in CANDIDATES:
        narrow = width if name.startswith("resnet") else {}
        half = TimmBackbone(name=name, in_channels=3 if split else in_channels, **narrow)
        yield SplitBackbone(half=half, color_space="lab") if split else half


def _first(state: State, *ends: str) -> torch.Size:
    """Shape of the first tensor whose key has one of these endings; empty if there is none."""
    return next((value.shape for key, value in state.items() if key.endswith(ends)), torch.Size())


def _candidate_shapes(config: BackboneConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes only, no weights drawn
        return _shapes(config.build().state_dict())
