"""Backbones by the names of timm's architectures, with stems and widths for small images and wide ResNets."""

import difflib
import inspect
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import timm
from timm.models import build_model_with_cfg
from torch import nn

from smalti.checks import require_count, require_positive
from smalti.errors import UserError
from smalti.models.backbone import BackboneConfig

# A 3x3 convolution in place of the 7x7 and its max-pool; the stride of the whole network shrinks 32 -> 8 or 16.
SMALL_STEM_STRIDE = {"stride8": 1, "stride16": 2}
_RESNET_CHANNELS = (64, 128, 256, 512)
# Keywords of timm's factory, not of an architecture: weights to load, places to look for them, other outputs.
_TIMMS_OWN = {*inspect.signature(timm.create_model).parameters, *inspect.signature(build_model_with_cfg).parameters}
_TIMMS_OWN |= {"num_classes", "in_chans"}
# timm's plain vision transformers; not levit, mobilevit, ..., nor those whose relative positions fix their size.
_TAKES_DYNAMIC_SIZE = re.compile("vit_(?!s?relpos)|deit|eva|flexivit|beit3")


@dataclass(frozen=True, kw_only=True)
class TimmBackbone(BackboneConfig):
    """Which network to train.

    Attributes:
        name: a timm architecture, `smalti` adds none of its own: "resnet50", "vit_small_patch16_224", ...
        stem: "standard" is timm's; "stride8" is the CIFAR stem of a ResNet (3x3 convolution of stride 1, no
            max-pool; 32 px images give a 4 x 4 map); "stride16" the same with stride 2, for 48 to 96 px images.
        zero_init_last: whether the last normalization of every residual block begins with weight 0, and so the block as
            the identity (arXiv:1706.02677, section 5.1). None for timm's choice: True for ResNets. Only architectures
            with such blocks take True or False.
        in_channels: channels of the images, 1 or more.
        width: factor on all channels of a plain ResNet, its stem's too: 2 for R50w2x, 0.5 for either half of CMC.
        options: further keyword arguments of the timm architecture, e.g. {"channels": [32, 64, 128, 256]}.

    Example:
        >>> from smalti.models import Backbone, TimmBackbone
        >>> backbone = Backbone(TimmBackbone(name="resnet18", stem="stride8").build())
        >>> backbone.dim, backbone.stride
        (512, 8)
    """

    name: str = "resnet50"
    stem: Literal["standard", "stride8", "stride16"] = "standard"
    zero_init_last: bool | None = None
    in_channels: int = 3
    width: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_count(self, "in_channels")
        require_positive(self, "width")
        if self.width != 1 and "channels" in self.options:
            raise UserError(
                f"width {self.width:g} and options {self.options}",
                "one of the two",
                "leave the channels or the width out",
            )
        if self.zero_init_last is not None and "zero_init_last" in self.options:
            raise UserError(
                f"zero_init_last {self.zero_init_last} and options {self.options}", "one of the two", "leave one out"
            )

    def build(self) -> nn.Module:
        """timm's network without its classifier.

        Raises:
            UserError: an unknown architecture, options that it does not take, or a stem or width that it cannot have.
        """
        return _create(self)

    def timm_options(self) -> dict[str, Any]:
        """What makes the architecture: `options`, with the channels that `width` makes of a ResNet's."""
        channels = [round(self.width * each) for each in _RESNET_CHANNELS]
        return self.options if self.width == 1 else {**self.options, "channels": channels}


def _create(config: TimmBackbone) -> Any:
    if not timm.is_model(config.name):
        close = difflib.get_close_matches(config.name, timm.list_models(), n=3)
        raise UserError(
            f"backbone {config.name!r}",
            "the name of a timm architecture",
            f"try {' or '.join(close)}" if close else "see timm.list_models()",
        )
    if config.width != 1 and not timm.models.is_model_in_modules(config.name, ["resnet"]):
        raise _not_plain(config)
    _check_plain(config)
    options = {"zero_init_last": config.zero_init_last} | config.timm_options()  # timm drops options that are None
    if _TAKES_DYNAMIC_SIZE.match(config.name):
        options.setdefault("dynamic_img_size", True)
    if config.name.startswith("swin"):
        options.setdefault("strict_img_size", False)
    try:
        model: Any = timm.create_model(config.name, num_classes=0, in_chans=config.in_channels, **options)
    except TypeError as error:  # timm passes unknown options on to the network
        if config.zero_init_last is not None and "zero_init_last" in str(error):
            raise UserError(
                f"zero_init_last {config.zero_init_last} for {config.name}",
                "a network of residual blocks that can begin as the identity",
                "give --backbone.zero-init-last None",
            ) from None
        raise _not_taken(config, str(error).partition("\n")[0]) from None
    except (ValueError, AssertionError, RuntimeError, IndexError, KeyError, AttributeError) as error:
        raise _not_taken(config, str(error).partition("\n")[0] or type(error).__name__) from None
    _check_known(config, type(model))
    plain = type(model) is timm.models.resnet.ResNet and isinstance(model.conv1, nn.Conv2d)
    if not plain and (config.width != 1 or config.stem != "standard"):
        raise _not_plain(config)
    if config.width != 1:
        _scale_stem(model, round(config.width * model.conv1.out_channels))
    if config.stem != "standard":
        _shrink_stem(model, SMALL_STEM_STRIDE[config.stem])
    return model


def _check_plain(config: TimmBackbone) -> None:
    """Options come from files too: nothing in them may be run, load a file or ask a hub."""
    for name, value in config.options.items():
        if not name.isidentifier() or name in _TIMMS_OWN:
            raise _not_taken(config, f"leave {name!r} out")
        if not _is_plain(value):
            raise _not_taken(config, f"give {name} as numbers, text or lists of them")


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _check_known(config: TimmBackbone, built: type) -> None:
    """timm drops options whose value is None without a word."""
    classes = [each for each in built.__mro__ if each is not object]
    known = {name for each in classes for name in inspect.signature(each).parameters} - {"args", "kwargs"}
    unknown = [name for name in config.options if name not in known]
    if unknown:
        raise _not_taken(config, f"leave {unknown[0]!r} out")


def _not_taken(config: TimmBackbone, do: str) -> UserError:
    return UserError(f"backbone options {config.options} for {config.name}", "options that it takes", do)


def _not_plain(config: TimmBackbone) -> UserError:
    return UserError(
        f"width {config.width:g} and stem {config.stem!r} for {config.name}",
        "a ResNet with a plain 7x7 stem",
        "keep --backbone.width 1 and --backbone.stem standard; for small images give a smaller patch in "
        "--backbone.options, e.g. '{\"patch_size\": 4}'",
    )


def _scale_stem(model: Any, width: int) -> None:
    """Give a timm ResNet a stem of `width` channels; timm itself scales the stages alone."""
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
    """A convolution as in timm's ResNets, initialized in the same way."""
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv
