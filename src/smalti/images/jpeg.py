"""JPEG: the fast road for sound photographs, and the checks that decide who may take it."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import JpegImagePlugin

from smalti.errors import BadImageError
from smalti.images.pillow import decode_with

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})


class Frame(NamedTuple):
    """What a JPEG's frame header says: bits a sample, and components (1 gray, 3 color, 4 print inks)."""

    precision: int
    components: int


def frame_of(data: bytes) -> Frame | None:
    """Walk the markers up to the frame header; None when there is none where the lengths lead."""
    at = 2
    while at + 9 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker in _START_OF_FRAME:
            return Frame(precision=data[at + 4], components=data[at + 9])
        if marker == 0xFF:  # a fill byte: the marker starts one further on
            at += 1
        elif marker in _WITHOUT_LENGTH:
            at += 2
        else:
            at += 2 + (data[at + 2] << 8 | data[at + 3])
    return None


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG, upright by its EXIF orientation.

    OpenCV is the faster decoder but fills what a cut file lacks with gray and says nothing, so it gets only files
    that end in the end-of-image marker. Pillow takes all others (it reports a cut file, and finds the end before
    a trailer), and the four-ink files, whose inverted values it knows.

    Returns:
        (H, W) or (H, W, 3), uint8.
    """
    frame = frame_of(data)
    if frame is not None and frame.precision != 8:
        raise BadImageError(f"JPEG of {frame.precision} bits a sample, which cannot be read")
    if frame is None or frame.components not in (1, 3) or not _is_complete(data):
        return decode_with(JpegImagePlugin.JpegImageFile, data)
    flag = cv2.IMREAD_GRAYSCALE if frame.components == 1 else cv2.IMREAD_COLOR_RGB
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    if image is None:
        raise BadImageError("damaged JPEG")
    return image


def _is_complete(data: bytes) -> bool:
    """Whether the end-of-image marker ends the file, but for the zeros that some writers pad with."""
    return data.endswith(b"\xff\xd9") or data[-4096:].rstrip(b"\0").endswith(b"\xff\xd9")
