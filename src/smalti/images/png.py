"""PNG: up to 8 bits through Pillow, 16 bits through OpenCV because Pillow cuts deep color down to 8."""

from io import BytesIO

import numpy as np
from PIL import PngImagePlugin

from smalti.errors import BadImageError
from smalti.images.deep import decode_deep
from smalti.images.pillow import decode_with

_BIT_DEPTH_AT, _COLOR_TYPE_AT = 24, 25  # bytes into the file: signature 8, chunk head 8, width 4, height 4
_GRAY_WITH_ALPHA = 4


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG with its own channels and depth; a palette becomes RGB, or RGBA when it is transparent.

    Returns:
        (H, W) or (H, W, C), uint8 or uint16.
    """
    if len(data) <= _COLOR_TYPE_AT:
        raise BadImageError("truncated PNG")
    if data[_BIT_DEPTH_AT] != 16:
        return decode_with(PngImagePlugin.PngImageFile, data)
    if data[_COLOR_TYPE_AT] == _GRAY_WITH_ALPHA:
        raise BadImageError("16-bit gray PNG with alpha, which cannot be read; save it without alpha")
    PngImagePlugin.PngImageFile(BytesIO(data)).verify()  # every chunk is there and its checksum right
    return decode_deep(data)
