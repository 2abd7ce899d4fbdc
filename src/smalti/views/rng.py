"""Random numbers that belong to the image and to the canvas, not to the process that draws them.

Every number is a stateless hash of a key: (seed, epoch, view, image, crop, field) for what happens to an image and
(seed, epoch, step, view, canvas, field) for what happens to a canvas. So views do not depend on the number of
workers, ranks or devices, and any view can be drawn again from its key.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt64 = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*words: int | UInt64) -> UInt64:
    """Hash words of 64 bits into one, element by element; words broadcast against each other."""
    with np.errstate(over="ignore"):
        state: UInt64 = np.asarray(0x243F6A8885A308D3, dtype=np.uint64)
        for word in words:
            state = _finalize((state ^ np.asarray(word, dtype=np.uint64)) + _GOLDEN)
        return np.asarray(state)


def _finalize(state: UInt64) -> UInt64:
    # The finalizer of SplitMix64 (Steele, Lea and Flood 2014): every input bit flips half of the output bits.
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(*words: int | UInt64) -> NDArray[np.float64]:
    """Uniform numbers in (0, 1), one for each hashed key: never exactly 0 or 1, so inverse distributions are safe."""
    return ((mix(*words) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def integers(below: int, *words: int | NDArray[Any]) -> NDArray[np.int64]:
    """Whole numbers from 0 up to `below`, that one excluded, one for each hashed key."""
    return (mix(*words) % np.uint64(below)).astype(np.int64)


def permutation(count: int, *words: int | UInt64) -> NDArray[np.int64]:
    """A random order of `count` things, the same wherever it is drawn."""
    return np.argsort(mix(*words, np.arange(count, dtype=np.uint64)), kind="stable")


def field_key(field: str) -> int:
    """A field's name as a word of the key."""
    # "grey", "solarise" and "cutout centre" keep their first spelling, so that a seed keeps giving the same views.
    return zlib.crc32(field.encode())


@dataclass(frozen=True, kw_only=True)
class ViewRNG:
    """The random numbers of one view of one batch on one rank.

    Attributes:
        seed: of the run.
        epoch: counted from 0.
        step: counted from 0 over the whole run.
        view: position of the composition in the recipe's tuple of views.
        images: (B,) index in the data set of each image of this rank's share of the batch.
        first: position of this rank's first image in the batch of all ranks.
        block: images within which tiles are assigned to canvases; divides B and `first`.

    Example:
        >>> rng = ViewRNG(seed=0, epoch=0, step=0, view=0, images=np.array([7, 3]), first=0, block=2)
        >>> swapped = ViewRNG(seed=0, epoch=0, step=0, view=0, images=np.array([3, 7]), first=0, block=2)
        >>> bool((rng.per_image("flip")[0] == swapped.per_image("flip")[1]).all())
        True
    """

    seed: int
    epoch: int
    step: int
    view: int
    images: NDArray[np.int64]
    first: int
    block: int

    def per_image(self, field: str, crops: int = 1, numbers: int = 1) -> NDArray[np.float64]:
        """(B, crops, numbers) uniform numbers that depend on the image, never on where in the batch it stands."""
        images = self.images.astype(np.uint64)[:, None, None]
        crop = np.arange(crops, dtype=np.uint64)[:, None]
        draw = np.arange(numbers, dtype=np.uint64)
        return uniform(self.seed, self.epoch, self.view, field_key(field), images, crop, draw)

    def per_canvas(self, field: str, canvases: int, numbers: int = 1) -> NDArray[np.float64]:
        """(canvases, numbers) uniform numbers for this rank's canvases, numbered over the batch of all ranks."""
        first = self.first * canvases // len(self.images)
        canvas = np.arange(first, first + canvases, dtype=np.uint64)[:, None]
        draw = np.arange(numbers, dtype=np.uint64)
        return uniform(self.seed, self.epoch, self.view, field_key(field), self.step, canvas, draw)

    def per_batch(self, field: str, numbers: int = 1) -> NDArray[np.float64]:
        """(numbers,) uniform numbers for the batch of all ranks."""
        draw = np.arange(numbers, dtype=np.uint64)
        return uniform(self.seed, self.epoch, self.view, field_key(field), self.step, draw)

    def blocks(self) -> range:
        """Numbers, over the batch of all ranks, of the blocks of images that this rank holds."""
        return range(self.first // self.block, (self.first + len(self.images)) // self.block)

    def block_permutation(self, field: str, block: int, count: int, draw: int = 0) -> NDArray[np.int64]:
        """A random order of `count` things, drawn for one block."""
        return permutation(count, self.seed, self.epoch, self.view, field_key(field), self.step, block, draw)
