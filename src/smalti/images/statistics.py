"""How pixel values map to what a network sees: the range that becomes 0 to 1, then mean and standard deviation."""

import itertools
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import dacite
import numpy as np

from smalti.errors import BadImageError, UserError
from smalti.images.source import ImageSource
from smalti.normalize import IMAGENET_MEAN, IMAGENET_STD, Normalize

_FIRST = 16  # images whose most common type decides
_LEAST_STD = 1e-3  # a constant channel becomes 0, not a division by nothing

_MOST_FLOATS = 4096  # images that the range of floats is taken from
_VALUES_AN_IMAGE = 1024  # drawn for the quantiles
_QUANTILES = (0.001, 0.5, 0.999)
# Times the distance from the median to the outer quantiles: the bulk keeps 1% of the range, ten times the least
# deviation, and so is standardized as well as without outliers.
_REACH = 100

# What rasters write where they have no value: -3.4e38 and the like, which no measurement reaches, and some numbers that
# are taken for it only where they lie far from all other values.
_NO_MEASUREMENT = 1e19
_FILL_VALUES = (-9999.0, -99999.0, -32768.0, -32767.0)
_INTEGER_RANGES = ((0.0, 255.0), (0.0, 65535.0))


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
        bits; where the statistics are 8-bit, everything becomes 8-bit. Floats between 0 and 1 are left so where the
        statistics are those of whole numbers. Values that rasters mark missing pixels with become 0; others outside of
        the range are clipped to it, with a warning.
        """
        if self.is_8_bit and image.dtype == np.uint8:
            return image
        if image.dtype != np.float32:
            unit = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
        elif (self.low, self.high) in _INTEGER_RANGES and image.min() >= 0 and image.max() <= 1:
            unit = image
        else:
            unit = self._floats_to_unit(image)
        return np.rint(unit * 255).astype(np.uint8) if self.is_8_bit else unit

    def _floats_to_unit(self, image: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            unit = (image - np.float32(self.low)) / np.float32(self.high - self.low)
        outside = np.abs(unit - 0.5) > 0.5 + 1e-6
        if outside.any():
            missing = outside & _is_fill_value(image)
            unit[missing] = 0
            if (outside & ~missing).any():
                warnings.warn(f"pixel values outside of {self.low:g} to {self.high:g} are clipped", stacklevel=3)
        return unit.clip(0, 1)

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
    up to 4096 images span. Where types are mixed, the most common one decides.

    The range of floats leaves out what rasters mark missing pixels with (beyond 1e19 in magnitude, or -9999, -99999,
    -32768, -32767 where that is further from all other values than these are from each other), which is named in a
    warning. It reaches from the median at most 100 times as far as the quantiles of 0.1% and 99.9%, so that one broken
    pixel does not leave all others alike.

    Args:
        source: where the images come from; those that cannot be read are skipped.
        sample: the most images that mean and deviation come from, evenly spaced over the source.
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
    channels = first[0].shape[2]
    if dtype == np.uint8 and channels == 3:
        return PixelStatistics(low=0.0, high=255.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    low, high = _float_range(source, seed) if dtype == np.float32 else (0.0, float(np.iinfo(dtype).max))
    alike = (image for image in itertools.chain(first, images) if image.dtype == dtype)
    return _measured(alike, channels, low, high)


def _sampled(source: ImageSource, sample: int, seed: int) -> Iterator[np.ndarray]:
    """The readable ones of at most `sample` images that are evenly spaced."""
    for index in _spaced(len(source), sample, seed):
        try:
            yield source.read(int(index))
        except BadImageError:
            continue


def _spaced(total: int, sample: int, seed: int) -> np.ndarray:
    count = min(sample, total)
    return ((np.arange(count) + np.random.default_rng(seed).random()) * total / max(count, 1)).astype(np.int64)


def _reason(source: ImageSource) -> str:
    """Why the first image cannot be used, as an example."""
    try:
        source.read(0)
    except BadImageError as error:
        return f"{source.image_name(0)}: {error}"
    return "the first can"


class _Span(NamedTuple):
    low: float
    high: float
    drawn: np.ndarray  # (n,) some of the values
    fill: Counter[float]  # pixels that may be missing, by their value, which is in none of the others


def _float_range(source: ImageSource, seed: int) -> tuple[float, float]:
    """The values that become 0 and 1; see `measure`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda index: _span(source, int(index)), _spaced(len(source), _MOST_FLOATS, seed))
        spans = [span for span in found if span]
    measured = [span for span in spans if span.drawn.size]
    low = min((span.low for span in measured), default=0.0)
    high = max((span.high for span in measured), default=1.0)
    missing: Counter[float] = Counter()
    fill = sum((span.fill for span in spans), Counter())
    for value, pixels in sorted(fill.items(), reverse=True):  # the nearest first
        if max(low - value, value - high) > high - low or abs(value) >= _NO_MEASUREMENT:
            missing[value] = pixels
        else:
            low, high = min(low, value), max(high, value)
    if missing:
        listed = ", ".join(f"{pixels} of {value:g}" for value, pixels in missing.most_common(3))
        warnings.warn(f"{source.name}: pixels taken for missing, which become the least value: {listed}", stacklevel=3)
    if measured:
        least, median, most = np.quantile(np.concatenate([span.drawn for span in measured]), _QUANTILES).tolist()
        low = max(low, median - _REACH * (median - least)) if least < median else low
        high = min(high, median + _REACH * (most - median)) if most > median else high
    return low, high if high > low else low + 1.0


def _span(source: ImageSource, index: int) -> _Span | None:
    """Of one image of floats; None for other types and what cannot be read."""
    try:
        image = source.read(index)
    except BadImageError:
        return None
    if image.dtype != np.float32:
        return None
    fill = _is_fill_value(image)
    values = image[~fill]
    drawn = values[np.random.default_rng(index).integers(0, values.size, min(values.size, _VALUES_AN_IMAGE))]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    return _Span(low, high, drawn, Counter(image[fill].tolist()))


def _is_fill_value(image: np.ndarray) -> np.ndarray:
    """Where an image of floats has a value that rasters mark missing pixels with."""
    return (np.abs(image) >= _NO_MEASUREMENT) | np.isin(image, _FILL_VALUES)


def _measured(images: Iterator[np.ndarray], channels: int, low: float, high: float) -> PixelStatistics:
    """Pooled mean and deviation over all pixels that are not missing, from one pass in float64."""
    shift = (low + high) / 2  # near the mean, so that squares do not cancel
    pixels, total, squares = np.zeros((3, channels))
    for image in images:
        present = np.ones(image.shape, dtype=bool)
        if image.dtype == np.float32:
            present = ~_is_fill_value(image) | ((image >= low) & (image <= high))
        centered = np.where(present, image.clip(low, high).astype(np.float64) - shift, 0)  # (H, W, C)
        pixels += present.sum(axis=(0, 1))
        total += centered.sum(axis=(0, 1))
        squares += np.square(centered).sum(axis=(0, 1))
    mean = total / np.maximum(pixels, 1)
    deviation = np.sqrt(np.maximum(squares / np.maximum(pixels, 1) - mean**2, 0.0)) / (high - low)
    center = (shift + mean - low) / (high - low)
    return PixelStatistics(
        low=low,
        high=high,
        mean=tuple(map(float, center)),
        std=tuple(map(float, np.maximum(deviation, _LEAST_STD))),
    )
