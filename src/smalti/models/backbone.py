"""Any timm backbone behind one contract: channels and stride are asked for, never assumed.

Legend: N canvases, C channels of the last map, h x w its size, P pyramid levels.
"""

import difflib
import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import timm
from torch import Tensor, nn

from smalti.checks import require_count, require_positive
from smalti.errors import UserError
from smalti.models.split import SplitModel

# A 3x3 convolution in place of the 7x7 and its max-pool; the stride of the whole network shrinks 32 -> 8 or 16.
SMALL_STEM_STRIDE = {"stride8": 1, "stride16": 2}
_RESNET_CHANNELS = (64, 128, 256, 512)
# timm's plain vision transformers; not levit, mobilevit, ..., nor those whose relative positions fix their size.
_TAKES_DYNAMIC_SIZE = re.compile("vit_(?!s?relpos)|deit|eva|flexivit|beit3")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which network to train.

    Attributes:
        name: a timm architecture, `smalti` adds none of its own: "resnet50", "vit_small_patch16_224", ...
        stem: "standard" is timm's; "stride8" is the CIFAR stem of a ResNet (3x3 convolution of stride 1, no
            max-pool; 32 px images give a 4 x 4 map); "stride16" the same with stride 2, for 48 to 96 px images.
        in_channels: channels of the images, 1 or more.
        width: factor on all channels of a plain ResNet, its stem's too: 2 for R50w2x, 0.5 for either half of CMC.
        options: further keyword arguments of the timm architecture, e.g. {"channels": [32, 64, 128, 256]}.
        split: "none" is one network; "lab" and "ycbcr" are two of them side by side, one for the lightness and one for
            the color of RGB images, their features concatenated (CMC, which alone trains them).
    """

    name: str = "resnet50"
    stem: Literal["standard", "stride8", "stride16"] = "standard"
    in_channels: int = 3
    width: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    split: Literal["none", "lab", "ycbcr"] = "none"

    def __post_init__(self) -> None:
        require_count(self, "in_channels")
        require_positive(self, "width")
        if self.width != 1 and "channels" in self.options:
            raise UserError(
                f"width {self.width:g} and options {self.options}",
                "one of the two",
                "leave the channels or the width out",
            )

    def timm_options(self) -> dict[str, Any]:
        """`options`, with the channels that `width` makes of a ResNet's."""
        channels = [round(self.width * each) for each in _RESNET_CHANNELS]
        return self.options if self.width == 1 else {**self.options, "channels": channels}


class Features(NamedTuple):
    """What a backbone says of N canvases.

    `map` (N, C, h, w) is the last feature map (ViT: patch tokens laid out again); `pooled` (N, C) is timm's own
    global feature (average pool for a ResNet, class token for most ViTs).
    """

    map: Tensor
    pooled: Tensor


class Backbone(nn.Module):
    """A timm model without its classifier; `self.model` is that model and nothing else, so weights travel.

    Where the configuration splits colors, `self.model` is a `SplitModel` of two.

    Raises:
        UserError: for an unknown architecture, or options that it does not take.

    Example:
        >>> backbone = Backbone(BackboneConfig(name="resnet18", stem="stride8"))
        >>> features = backbone(torch.zeros(2, 3, 32, 32))
        >>> tuple(features.map.shape), tuple(features.pooled.shape), backbone.stride
        ((2, 512, 4, 4), (2, 512), 8)
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.config = config
        self.model = _create(config)
        info = self.model.feature_info[-1]
        self.dim: int = self.model.num_features
        if getattr(self.model, "head_hidden_size", self.dim) != self.dim:
            raise UserError(
                f"backbone {config.name!r}, whose pooled feature is wider or narrower than its map",
                "one width for both",
                "take a network without a layer between the map and its classifier",
            )
        self.stride: int = info["reduction"] * SMALL_STEM_STRIDE.get(config.stem, 4) // 4

    def forward(self, images: Tensor) -> Features:
        """(N, in_channels, H, W) normalized pixels -> Features."""
        features = self.model.forward_features(images)
        return Features(self._as_map(features, images), self.model.forward_head(features, pre_logits=True))

    def check_size(self, size: int) -> None:
        """Raise UserError for images of a side, pixels, that a vision transformer cannot cut into whole patches."""
        patch = self.stride if _TAKES_DYNAMIC_SIZE.match(self.config.name) else 1
        if size % patch:
            raise UserError(
                f"views of {size} px for {self.config.name} with patches of {patch} px",
                "whole patches",
                f"use views of {max(1, round(size / patch)) * patch} px",
            )

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(N, in_channels, H, W) -> the maps of every stage, finest first, each (N, C_p, h_p, w_p).

        The last is that of `forward`, a final normalization included.
        """
        features, maps = self.model.forward_intermediates(images, output_fmt="NCHW")
        return [*maps[:-1], self._as_map(features, images)]

    def _as_map(self, features: Tensor, images: Tensor) -> Tensor:
        if features.ndim == 3:  # tokens (N, prefix + h * w, C)
            tokens = features[:, self.model.num_prefix_tokens :]
            h = images.shape[-2] // self.stride
            return tokens.transpose(1, 2).unflatten(2, (h, -1))
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return features.permute(0, 3, 1, 2)
        return features


def _create(config: BackboneConfig) -> Any:
    if config.split == "none":
        return _create_one(config)
    if config.in_channels != 3:
        raise UserError(
            f"split {config.split!r} for {config.in_channels} channels", "RGB images", "use --backbone.split none"
        )
    return SplitModel(lambda channels: _create_one(replace(config, in_channels=channels)), config.split)


def _create_one(config: BackboneConfig) -> Any:
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        raise UserError(
            f"backbone {config.name!r}",
            "the name of a timm architecture",
            f"try {' or '.join(close)}" if close else "see timm.list_models()",
        )
    if config.width != 1 and not timm.models.is_model_in_modules(config.name, ["resnet"]):
        raise _not_plain(config)
    options = {**config.timm_options()}
    if _TAKES_DYNAMIC_SIZE.match(config.name):
        options.setdefault("dynamic_img_size", True)
    if config.name.startswith("swin"):
        options.setdefault("strict_img_size", False)
    try:
        model: Any = timm.create_model(config.name, num_classes=0, in_chans=config.in_channels, **options)
    except TypeError as error:
        # timm drops options whose value is None and passes the rest on, so an unknown one ends here.
        raise UserError(
            f"backbone options {config.options} for {config.name}", "options that it takes", str(error)
        ) from None
    plain = type(model) is timm.models.resnet.ResNet and isinstance(model.conv1, nn.Conv2d)
    if not plain and (config.width != 1 or config.stem != "standard"):
        raise _not_plain(config)
    if config.width != 1:
        _scale_stem(model, round(config.width * model.conv1.out_channels))
    if config.stem != "standard":
        _shrink_stem(model, SMALL_STEM_STRIDE[config.stem])
    return model


def _not_plain(config: BackboneConfig) -> UserError:
    return UserError(
        f"width {config.width:g} and stem {config.stem!r} for {config.name}",
        "a ResNet with a plain 7x7 stem",
        "keep --backbone.width 1 and --backbone.stem standard; for small images give a smaller patch in "
        "--backbone.options, e.g. '{\"patch_size\": 4}'",
    )


def _scale_stem(model: Any, width: int) -> None:
    """Give a timm ResNet a stem of so many channels; timm itself scales the stages alone."""
    first, outputs = model.layer1[0], model.feature_info[1]["num_chs"]
    model.conv1, model.bn1 = _conv(model.conv1.in_channels, width, 7, stride=2), nn.BatchNorm2d(width)
    model.feature_info[0]["num_chs"] = width
    first.conv1 = _conv(width, first.conv1.out_channels, first.conv1.kernel_size[0])
    shortcut = nn.Sequential(_conv(width, outputs, 1), nn.BatchNorm2d(outputs))
    first.downsample = None if width == outputs else shortcut


def _shrink_stem(model: Any, stride: int) -> None:
    model.conv1 = _conv(model.conv1.in_channels, model.conv1.out_channels, 3, stride)
    model.maxpool = nn.Identity()


def _conv(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    """A convolution as timm's ResNets have them, its weights drawn alike."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
