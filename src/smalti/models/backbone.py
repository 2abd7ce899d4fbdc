"""Any image network as a backbone: one dry run finds its map, pooled feature, channels and stride.

Legend: N images, C channels of the last map, h x w its size, T tokens, P stages of a pyramid.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from smalti.errors import UserError
from smalti.normalize import Normalize

_DRY_RUN_SIZE = 224  # pixels, for networks that do not declare their own
_CLASSIFIERS = ("fc", "classifier", "heads", "head")  # torchvision's names
_POOLING = ("head", "fc_norm", "pooler")  # layers after the last map, by timm's and Hugging Face's names


class Features(NamedTuple):
    """The output of a backbone for N images: the last feature map (N, C, h, w) and the pooled feature (N, C).

    A vision transformer's map is made of its patch tokens; its pooled feature is its class token where it has one.

    Example:
        >>> maps = torch.ones(2, 8, 7, 7)
        >>> tuple(Features(maps, maps.mean(dim=(2, 3))).pooled.shape)
        (2, 8)
    """

    map: Tensor
    pooled: Tensor


class Stage(NamedTuple):
    """Channels and stride (pixels of the image for one cell) of one map of a pyramid."""

    channels: int
    stride: int


@dataclass(frozen=True)
class BackboneConfig(ABC):
    """Settings of a network: subclass it as a frozen dataclass with a field `in_channels`, channels of the images.

    Example:
        >>> from dataclasses import dataclass
        >>> from smalti.models import Backbone, BackboneConfig
        >>> @dataclass(frozen=True, kw_only=True)
        ... class Patches(BackboneConfig):
        ...     in_channels: int = 3
        ...     width: int = 32
        ...
        ...     def build(self):
        ...         return torch.nn.Conv2d(self.in_channels, self.width, 8, stride=8)
        >>> backbone = Backbone(Patches().build())
        >>> backbone.dim, backbone.stride
        (32, 8)
    """

    in_channels: int

    @property
    def name(self) -> str:
        """Name of the network in messages."""
        return type(self).__name__

    @abstractmethod
    def build(self) -> nn.Module:
        """The network, untrained; see `Backbone` for what it may be."""


class Backbone(nn.Module):
    """A network of timm, torchvision, Hugging Face or the user's own, read as `Features`.

    The user's own network maps images (N, in_channels, H, W) to one of: a map (N, C, h, w); tokens (N, T, C), of which
    the last h * w are patches; a vector (N, C) that follows a map of C channels somewhere inside; or `Features`. The
    dry run finds out which. `self.model` is the network itself, so weights travel under its own names; the classifier
    of a torchvision network is removed from it.

    Args:
        model: the network.
        image_size: side of the image for the dry run, pixels; 0 for the network's own, or 224.
        in_channels: of the images; 0 to read it off the first convolution.

    Attributes:
        dim: C.
        stride: side of a cell of the map, pixels of the image.
        in_channels: channels of the images.
        native_size: side of the images that the network is made for, where it declares one, pixels.

    Raises:
        UserError: the output is none of the above, or the pooled feature is wider or narrower than the map.

    Example:
        >>> backbone = Backbone(nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU()))
        >>> backbone.dim, backbone.stride, tuple(backbone(torch.zeros(2, 3, 32, 32)).map.shape)
        (8, 4, (2, 8, 8, 8))
    """

    def __init__(self, model: nn.Module, *, image_size: int = 0, in_channels: int = 0) -> None:
        super().__init__()
        self.model: Any = _without_classifier(model)
        self.in_channels = in_channels or _input_channels(model)
        self.native_size = image_size or _native_size(model)
        # timm's networks have a method for the last map; for others the dry run finds the layer that outputs it.
        self._is_timm = hasattr(model, "forward_features") and hasattr(model, "forward_head")
        self._map_layer = ""
        self._prefix: int | None = getattr(model, "num_prefix_tokens", None)  # tokens before the patches
        self._layout: Literal["NCHW", "NHWC", "tokens"] = "NCHW"
        with _dry_run(self):
            features = self._learn_layout(self._blank_image())
        self.dim: int = features.map.shape[1]
        self.stride: int = round(self.native_size / features.map.shape[-1])
        if features.pooled.shape[1] != self.dim:
            raise UserError(
                f"{type(model).__name__}, whose pooled feature has {features.pooled.shape[1]} channels and whose map "
                f"has {self.dim}",
                "one width for both",
                "use a network without a layer between its map and its classifier",
            )

    def forward(self, images: Tensor) -> Features:
        """(N, in_channels, H, W) normalized pixels -> Features."""
        if self._is_timm:
            last = self.model.forward_features(images)
            return Features(self._as_map(last, images), self.model.forward_head(last, pre_logits=True))
        with _outputs_of(self.model, [self._map_layer] if self._map_layer else []) as caught:
            output = self._run(images)
        if isinstance(output, Features):
            return output
        last, pooled = _unpack(output)
        if last is None:
            last = caught[self._map_layer]
        maps = self._as_map(last, images)
        if pooled is None:
            pooled = last[:, 0] if self._layout == "tokens" and self._prefix else maps.mean(dim=(2, 3))
        return Features(maps, pooled)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> the maps of every stage, finest first, each (N, C_p, h_p, w_p).

        The last is that of `forward`, a final normalization included.
        """
        if self._is_timm:
            features, maps = self.model.forward_intermediates(images, output_fmt="NCHW")
            return [*maps[:-1], self._as_map(features, images)]
        with _outputs_of(self.model, self._stage_layers()) as caught:
            last = self(images).map
        return [*caught.values(), last]

    def stages(self) -> list[Stage]:
        """Channels and stride of the maps of `pyramid`."""
        with _dry_run(self):
            maps = self.pyramid(self._blank_image())
        return [Stage(each.shape[1], round(self.native_size / each.shape[-1])) for each in maps]

    def freeze_pooling(self) -> None:
        """Freeze the layers between the map and the pooled feature: for losses that read the map alone."""
        for name in _POOLING:
            unused = getattr(self.model, name, None)
            if isinstance(unused, nn.Module):
                unused.requires_grad_(False)

    def set_statistics(self, normalize: Normalize) -> None:
        """Tell the network how its images are normalized, if it asks, as one does that converts their colors."""
        if hasattr(self.model, "set_statistics"):
            self.model.set_statistics(normalize.mean, normalize.std)

    def check_size(self, size: int) -> None:
        """Raise UserError for images of a side, pixels, that a vision transformer cannot cut into whole patches."""
        if self._layout == "tokens" and size % self.stride:
            raise UserError(
                f"views of {size} px for {type(self.model).__name__} with patches of {self.stride} px",
                "whole patches",
                f"use views of {max(1, round(size / self.stride)) * self.stride} px",
            )

    def _run(self, images: Tensor) -> Any:
        # Hugging Face's transformers take other sizes than their own on request only.
        resizes = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        return self.model(images, interpolate_pos_encoding=True) if resizes else self.model(images)

    def _blank_image(self) -> Tensor:
        weight = next(self.model.parameters(), torch.zeros(()))
        return weight.new_zeros(1, self.in_channels, self.native_size, self.native_size)

    def _learn_layout(self, image: Tensor) -> Features:
        """Find the layout of the network's map."""
        if self._is_timm:
            last = self.model.forward_features(image)
        else:
            with _outputs_of(self.model) as every:
                output = self._run(image)
            if isinstance(output, Features):
                return output
            last, pooled = _unpack(output)
            if last is None:
                assert pooled is not None
                self._map_layer = _last_map(every, pooled, self.model)
                last = every[self._map_layer]
        self._layout = _layout_of(last, getattr(self.model, "output_fmt", None))
        if self._layout == "tokens" and self._prefix is None:
            self._prefix = last.shape[1] - math.isqrt(last.shape[1]) ** 2
        return self(image)

    def _stage_layers(self) -> list[str]:
        """For every size of map but the last, the last layer that outputs it."""
        with _dry_run(self), _outputs_of(self.model) as every:
            last = self(self._blank_image()).map
        by_size: dict[int, str] = {}
        for name, output in every.items():
            if isinstance(output, Tensor) and output.ndim == 4 and output.shape[-1] == output.shape[-2]:
                by_size[output.shape[-1]] = name
        finer = [size for size in by_size if last.shape[-1] < size < self.native_size]
        return [by_size[size] for size in sorted(finer, reverse=True)]

    def _as_map(self, features: Tensor, images: Tensor) -> Tensor:
        """-> (N, C, h, w)."""
        if self._layout == "tokens":  # (N, prefix + h * w, C)
            h = images.shape[-2] // self.stride if hasattr(self, "stride") else math.isqrt(features.shape[1])
            return features[:, self._prefix :].transpose(1, 2).unflatten(2, (h, -1))
        return features.permute(0, 3, 1, 2) if self._layout == "NHWC" else features


def as_backbone(model: nn.Module) -> Backbone:
    """The network as a `Backbone`, unless it is one."""
    return model if isinstance(model, Backbone) else Backbone(model)


def halving(stages: list[Stage]) -> bool:
    """Whether every map is half as fine as the one before it."""
    return all(2 * finer.stride == coarser.stride for finer, coarser in pairwise(stages))


@contextmanager
def _dry_run(network: nn.Module) -> Iterator[None]:
    """In evaluation mode, without gradients, and leaving random numbers and modes as they were."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _outputs_of(network: nn.Module, names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Collect the outputs of the named layers, or of all, in the order in which they ran."""
    caught: dict[str, Any] = {}

    def catch(name: str) -> Any:
        return lambda module, inputs, output: caught.update({name: output})

    layers = dict(network.named_modules())
    handles = [layers[name].register_forward_hook(catch(name)) for name in (layers if names is None else names)]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def _unpack(output: Any) -> tuple[Tensor | None, Tensor | None]:
    """The map or tokens, and the pooled feature, as far as the network gives them."""
    if isinstance(output, Mapping) and output.get("last_hidden_state") is not None:  # Hugging Face
        pooled = output.get("pooler_output")
        return output["last_hidden_state"], None if pooled is None else pooled.flatten(1)
    if isinstance(output, Tensor) and output.ndim in (3, 4) and output.shape[-1] > 1:
        return output, None
    if isinstance(output, Tensor) and output.ndim >= 2:
        return None, output.flatten(1)
    found = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise UserError(
        f"a backbone whose output is of {found}",
        "a map (N, C, h, w), tokens (N, T, C), a vector (N, C), Features, or an output with last_hidden_state",
        "wrap it in a module that returns Features(map, pooled); of a Hugging Face classifier use .base_model",
    )


def _last_map(every: dict[str, Any], pooled: Tensor, model: nn.Module) -> str:
    """The last layer whose output has cells, with as many channels as the pooled feature."""
    channels = pooled.shape[1]
    for name, output in reversed(every.items()):
        if not isinstance(output, Tensor) or name == "":
            continue
        is_map = output.ndim == 4 and output.shape[-1] > 1 and channels in (output.shape[1], output.shape[-1])
        if is_map or (output.ndim == 3 and output.shape[-1] == channels):
            return name
    raise UserError(
        f"{type(model).__name__}, whose output of {channels} channels follows no map of as many",
        "a network without its classifier",
        "replace its classifier by nn.Identity(), or return Features(map, pooled)",
    )


def _layout_of(features: Tensor, declared: Any) -> Literal["NCHW", "NHWC", "tokens"]:
    if features.ndim == 3:
        return "tokens"
    if declared is not None:  # by timm's networks
        return "NHWC" if declared == "NHWC" else "NCHW"
    return "NCHW" if features.shape[2] == features.shape[3] else "NHWC"


def _without_classifier(model: nn.Module) -> nn.Module:
    if hasattr(model, "reset_classifier"):  # timm
        model.reset_classifier(0)  # type: ignore[operator]
    if not type(model).__module__.startswith("torchvision.models"):
        return model
    for name in _CLASSIFIERS:
        layers = getattr(model, name, None)
        if isinstance(layers, nn.Sequential):  # some begin with the normalization of the pooled feature
            kept = [layer for layer in layers if isinstance(layer, nn.LayerNorm | nn.Flatten)]
            setattr(model, name, nn.Sequential(*kept))
        elif layers is not None:
            setattr(model, name, nn.Identity())
    return model


def _input_channels(model: nn.Module) -> int:
    declared = getattr(model, "in_channels", None)
    return declared or next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


def _native_size(model: Any) -> int:
    """Side of the images that a network is made for, pixels, as timm and Hugging Face declare it."""
    patches = getattr(model, "patch_embed", None)
    declared = getattr(patches, "img_size", None) or getattr(getattr(model, "config", None), "image_size", None)
    if declared is None:
        declared = getattr(model, "pretrained_cfg", {}).get("input_size", (_DRY_RUN_SIZE,))[-1]
    return int(declared[0] if isinstance(declared, list | tuple) else declared)
