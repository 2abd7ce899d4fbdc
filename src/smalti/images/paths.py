"""Millions of paths in two flat buffers, which worker processes share and pickle without per-path objects."""

import os
from array import array
from collections.abc import Iterable

import numpy as np


class PathBuffer:
    """An immutable sequence of paths held as one byte buffer and one array of offsets.

    A list of a million `str` costs about 100 MB, and each reference count that a forked worker touches copies a
    page of it; this costs the bytes of the paths plus 8 a path, and workers only read it.

    Args:
        paths: consumed once, in order; bytes that are no valid text (surrogate escapes) survive.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        text, ends = bytearray(), array("q", [0])
        for path in paths:
            text += os.fsencode(path)
            ends.append(len(text))
        self._text = np.frombuffer(bytes(text), dtype=np.uint8)
        self._offsets = np.frombuffer(ends.tobytes(), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> str:
        """The path at `index`, negative ones from the end; IndexError outside."""
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"path {index} of {count}")
        at = index % count
        return os.fsdecode(self._text[self._offsets[at] : self._offsets[at + 1]].tobytes())

    @property
    def nbytes(self) -> int:
        """Bytes held: those of the paths and 8 for each, and 8 more."""
        return self._text.nbytes + self._offsets.nbytes


def printable(path: str) -> str:
    """A path as text for people: bytes that are no UTF-8 become \\xe9 and the like, where printing would fail."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
