"""What libjpeg does not warn of: scans that are missing, and holes that happen to decode."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from smalti.errors import BadImageError

HOLE = bytes(512)
PROGRESSIVE = b"\xff\xc2"

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed 0xff, a restart or a fill byte
_FRAMES = (0xC0, 0xC1, 0xC2)
_TABLES, _SCAN, _END = 0xC4, 0xDA, 0xD9
_COEFFICIENTS = 64
_END_OF_BLOCK = 0


class _Segment(NamedTuple):
    marker: int
    content: bytes
    coded: bytes  # entropy-coded data behind it


def check_scans(data: bytes) -> None:
    """Refuse a JPEG that was cut between two scans, or that has a hole where no picture has one.

    A scan of a progressive file brings some coefficients of some components up to some bit; in the end all bits of all
    have to be there. Zeros mean the first code of each table over and over. In a baseline scan that may be "end of
    block", which flat areas are full of; where it is another, and in progressive scans, which count the ends of blocks
    instead of repeating them, no picture has hundreds in a row. First coefficients (DC) may well stay the same.

    Raises:
        BadImageError: for either.
    """
    missing: dict[tuple[int, int], bool] = {}  # for each component and coefficient, whether bits of it are missing
    first_symbol: dict[int, int] = {}  # of each Huffman table for coefficients other than the first
    baseline = True
    for marker, content, coded in _segments(data):
        if marker in _FRAMES:
            baseline = marker != PROGRESSIVE[1]
            missing = {(component, k): True for component in content[6::3] for k in range(_COEFFICIENTS)}
        elif marker == _TABLES:
            first_symbol |= _first_symbols(content)
        elif marker == _SCAN:
            count = content[0]
            components, (start, end, bits) = content[1 : 1 + 2 * count], content[1 + 2 * count : 4 + 2 * count]
            for component in components[::2]:
                missing |= {(component, k): bool(bits & 15) for k in range(start, min(end, _COEFFICIENTS - 1) + 1)}
            symbols = {first_symbol.get(tables & 15, _END_OF_BLOCK) for tables in components[1::2]}
            never_zeros = symbols != {_END_OF_BLOCK} if baseline else start > 0
            if never_zeros and HOLE in coded:
                raise BadImageError("damaged JPEG (a block of zeros among the pixels)")
    if any(missing.values()):
        raise BadImageError("truncated JPEG")


def _segments(data: bytes) -> Iterator[_Segment]:
    at = 2
    while (found := _MARKER.search(data, at)) and data[found.end() - 1] != _END:
        start = found.end()
        end = start + max(2, int.from_bytes(data[start : start + 2], "big"))
        following = _MARKER.search(data, end)
        at = following.start() if following else len(data)
        yield _Segment(data[start - 1], data[start + 2 : end], data[end:at])


def _first_symbols(tables: bytes) -> dict[int, int]:
    """The symbol of the shortest code, all zeros, of each table that a segment defines."""
    symbols, at = {}, 0
    while at + 17 < len(tables):
        is_ac, number = divmod(tables[at], 16)
        if is_ac:
            symbols[number] = tables[at + 17]
        at += 17 + sum(tables[at + 1 : at + 17])
    return symbols
