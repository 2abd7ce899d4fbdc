"""PPM, PGM and PBM: 8 bits through Pillow, 16-bit color through OpenCV, which keeps it."""

import re

import numpy as np
from PIL import PpmImagePlugin

from smalti.images.deep import decode_deep
from smalti.images.pillow import decode_with

_HEADER = re.compile(rb"P6(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+(\d+)\s")


def decode_ppm(data: bytes) -> np.ndarray:
    """Decode a portable any-map.

    Returns:
        (H, W) or (H, W, 3), uint8 or uint16.
    """
    header = _HEADER.match(data[:1024])
    if header is not None and int(header[1]) > 255:
        return decode_deep(data)
    image = decode_with(PpmImagePlugin.PpmImageFile, data)
    # Pillow hands deep gray over as int32 scaled to 0..65535
    return image.astype(np.uint16) if image.dtype == np.int32 else image
