"""What libjpeg does not warn of: scans that are missing, and holes that happen to decode."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from smalti.errors import BadImageError

HOLE = bytes(512)

_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # not a stuffed 0xff, a restart or a fill byte
_BASELINE, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_TABLES, _SCAN, _END, _EXIF = 0xC4, 0xDA, 0xD9, 0xE1
_ALL_COEFFICIENTS = 2**64 - 1
_END_OF_BLOCK = 0


class JpegHeader(NamedTuple):
    """What the segments before the first scan say.

    Args:
        several_scans: whether one scan is not all.
        exif: the EXIF block, empty where there is none.
    """

    several_scans: bool
    exif: bytes


def read_header(data: bytes) -> JpegHeader:
    """Walk over the segments up to the first scan."""
    at, components, exif, progressive = 2, 0, b"", False
    while at + 10 <= len(data):
        marker, length = data[at + 1], data[at + 2] << 8 | data[at + 3]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker in _BASELINE or marker == _PROGRESSIVE:
            components, progressive = data[at + 9], marker == _PROGRESSIVE
        elif marker == _EXIF and not exif and data.startswith(b"Exif\0\0", at + 4):
            exif = data[at + 4 : at + 2 + length]
        elif marker == _SCAN:
            return JpegHeader(progressive or data[at + 4] < components, exif)
        at += 2 + length
    return JpegHeader(progressive, exif)


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
    missing: dict[int, int] = {}  # for each component a bit for each coefficient that is not complete
    first_symbol: dict[int, int] = {}  # of each Huffman table for coefficients other than the first
    baseline = True
    for marker, content, coded in _segments(data):
        if marker in _BASELINE or marker == _PROGRESSIVE:
            baseline = marker != _PROGRESSIVE
            missing = dict.fromkeys(content[6::3], _ALL_COEFFICIENTS)
        elif marker == _TABLES:
            first_symbol |= _first_symbols(content)
        elif marker == _SCAN:
            count = content[0]
            components, (start, end, bits) = content[1 : 1 + 2 * count], content[1 + 2 * count : 4 + 2 * count]
            brought = (2 << end) - (1 << start)
            for component in components[::2]:
                missing[component] = missing[component] | brought if bits & 15 else missing[component] & ~brought
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
