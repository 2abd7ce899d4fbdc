"""How pixel values map to what a network sees: the range that becomes 0 to 1, then mean and standard deviation."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dacite
import numpy as np

from smalti.errors import BadImageError, UserError
from smalti.images.source import ImageSource
from smalti.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize

_FIRST = 16  # images whose most common type decides
_LEAST_STD = 1e-3  # a constant channel becomes 0, not a division by nothing


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """What standardizes a pixel: `((pixel - low) / (high - low) - mean) / std`, channel by channel.

    Args:
        low: the pixel value that becomes 0.
        high: the pixel value that becomes 1.
        mean: one a channel, after that mapping.
        std: one a channel, after that mapping, at least 0.001.
    """

    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, described: Any) -> "PixelStatistics":
        """What `dataclasses.asdict` made of statistics, through JSON; dacite.DaciteError for anything else."""
        numbers = {float: lambda value: float(value) if isinstance(value, int) else value}
        return dacite.from_dict(cls, described, dacite.Config(strict=True, cast=[tuple], type_hooks=numbers))

    def to_unit(self, image: np.ndarray) -> np.ndarray:
        """An image of any depth, (H, W, C), on the range of these statistics: 8-bit, or float32 in [0, 1].

        Whole numbers keep their place between their own type's least and greatest value, so a folder may mix 8 and 16
        bits; where the statistics are 8-bit, everything becomes 8-bit.
        """
        if self.is_8_bit and image.dtype == np.uint8:
            return image
        if image.dtype == np.float32:
            unit = (image - np.float32(self.low)) / np.float32(self.high - self.low)
        else:
            unit = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
        unit = unit.clip(0, 1)
        return np.rint(unit * 255).astype(np.uint8) if self.is_8_bit else unit

    def alike(self, image: np.ndarray) -> np.ndarray:
        """An image of any depth, (H, W, C), with values between `low` and `high`: 8-bit, or float32."""
        unit = self.to_unit(image)
        return unit if self.is_8_bit else unit * np.float32(self.high - self.low) + np.float32(self.low)

    @property
    def normalize(self) -> Normalize:
        """What follows on pixels in [0, 1]."""
        return Normalize(self.mean, self.std)

    @property
    def is_8_bit(self) -> bool:
        """The range is that of bytes."""
        return (self.low, self.high) == (0.0, 255.0)


def measure(source: ImageSource, sample: int = 256, seed: int = 0) -> PixelStatistics:
    """Find the statistics that a source's images are to be standardized with.

    8-bit RGB takes ImageNet's, as published weights expect. Everything else is measured: 8 and 16 bits on their full
    range (a 12-bit image in a 16-bit file gets its contrast back from the small deviation), floats on the range that
    the sample spans. Where types are mixed, the most common one decides.

    Args:
        source: where the images come from; those that cannot be read are skipped.
        sample: the most images read, evenly spaced over the source.
        seed: where the spacing starts; the same seed gives the same images.

    Raises:
        UserError: no image of the sample can be read.
    """
    images = _sampled(source, sample, seed)
    first = list(itertools.islice(images, _FIRST))
    if not first:
        raise UserError(
            f"{source.name}, of which no sampled image can be used ({_reason(source)})",
            "images that can be decoded",
            "open one of them in a viewer, and check --backbone.in-channels",
        )
    dtype, _ = Counter(image.dtype for image in first).most_common(1)[0]
    if dtype == np.uint8 and first[0].shape[2] == 3:
        return PixelStatistics(low=0.0, high=255.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    alike = (image for image in itertools.chain(first, images) if image.dtype == dtype)
    return _measured(next(alike), alike)


def _sampled(source: ImageSource, sample: int, seed: int) -> Iterator[np.ndarray]:
    """The readable ones of at most `sample` images that are evenly spaced."""
    count = min(sample, len(source))
    if count == 0:
        return
    shift = np.random.default_rng(seed).random()
    for index in ((np.arange(count) + shift) * len(source) / count).astype(np.int64):
        try:
            yield source.read(int(index))
        except BadImageError:
            continue


def _reason(source: ImageSource) -> str:
    """Why the first image cannot be used, as an example."""
    try:
        source.read(0)
    except BadImageError as error:
        return f"{source.image_name(0)}: {error}"
    return "the first can"


def _measured(first: np.ndarray, others: Iterator[np.ndarray]) -> PixelStatistics:
    """Pooled mean and deviation over all pixels, from one pass in float64."""
    low, high = float(first.min()), float(first.max())
    pixels = 0
    shift = first.mean(axis=(0, 1), dtype=np.float64)  # (C,): near the mean, so that squares do not cancel
    total, squares = np.zeros_like(shift), np.zeros_like(shift)
    for image in itertools.chain([first], others):
        low, high = min(low, float(image.min())), max(high, float(image.max()))
        centered = image.astype(np.float64) - shift  # (H, W, C)
        pixels += image.shape[0] * image.shape[1]
        total += centered.sum(axis=(0, 1))
        squares += np.square(centered).sum(axis=(0, 1))
    if first.dtype != np.float32:
        low, high = 0.0, float(np.iinfo(first.dtype).max)
    elif high == low:
        high = low + 1.0
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0.0)) / (high - low)
    center = (shift + mean - low) / (high - low)
    return PixelStatistics(
        low=low,
        high=high,
        mean=tuple(map(float, center)),
        std=tuple(map(float, np.maximum(deviation, _LEAST_STD))),
    )
