"""Loading a whole set of small images into memory, once, so that training reads no files."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from smalti.errors import BadImageError
from smalti.images.array import ArraySource
from smalti.images.ledger import BadFiles
from smalti.images.paths import PathBuffer
from smalti.images.source import ImageSource

_BLOCK = 256  # images a task: large enough that handing tasks out costs nothing


class _Block(NamedTuple):
    bad: list[tuple[int, str]]
    alike: bool


def load_into_memory(
    source: ImageSource, ledger: BadFiles, limit_bytes: int = 2**31, max_side: int = 128
) -> ArraySource | None:
    """Decode every image of a source into one array, if all are small, 8-bit and of one size.

    The first readable image decides whether to try; the first one of another shape or type ends the attempt. Images
    that cannot be read are noted in the ledger and keep their numbers.

    Args:
        source: where the images come from.
        ledger: notes the images that cannot be read.
        limit_bytes: the most memory that the images may take.
        max_side: the longest side, in pixels, that counts as small.

    Returns:
        The images in memory, or None when the set is not of that kind.

    Raises:
        UserError: the ledger's limit of bad files is passed.
    """
    if isinstance(source, ArraySource):
        return source
    first = _first_readable(source)
    if first is None or first.dtype != np.uint8 or max(first.shape[:2]) > max_side:
        return None
    if len(source) * first.nbytes > limit_bytes:
        return None
    images = np.empty((len(source), *first.shape), dtype=np.uint8)
    bad: dict[int, str] = {}
    for block in _fill(images, source):
        if not block.alike:
            return None
        for index, reason in block.bad:
            bad[index] = reason
            ledger.record(source.image_name(index), reason)
    return ArraySource(
        name=source.name,
        images=images,
        labels=source.labels,
        class_names=source.class_names,
        image_names=PathBuffer(source.image_name(index) for index in range(len(source))),
        bad=bad,
    )


def _first_readable(source: ImageSource) -> np.ndarray | None:
    for index in range(len(source)):
        try:
            return source.read(index)
        except BadImageError:
            continue  # noted when all are read
    return None


def _fill(images: np.ndarray, source: ImageSource) -> Iterator[_Block]:
    """Decode into `images` on every core (decoders free the interpreter), yielding block after block in order."""
    stop = threading.Event()

    def fill_block(start: int) -> _Block:
        bad = []
        for index in range(start, min(start + _BLOCK, len(images))):
            if stop.is_set():
                break
            try:
                image = source.read(index)
            except BadImageError as error:
                bad.append((index, str(error)))
                continue
            if image.shape != images.shape[1:] or image.dtype != images.dtype:
                stop.set()
                return _Block(bad, alike=False)
            images[index] = image
        return _Block(bad, alike=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            yield from pool.map(fill_block, range(0, len(images), _BLOCK))
        finally:
            stop.set()
