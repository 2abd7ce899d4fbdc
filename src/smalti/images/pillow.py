"""Decoding through Pillow: one plug-in at a time, so that neither its size limit nor rare formats come in."""

from io import BytesIO

import numpy as np
from PIL import ImageOps
from PIL.ImageFile import ImageFile

from smalti.images.layout import check_size

# `Image.open` refuses pictures above 179 megapixels by a limit that is global to the user's program. Building
# the plug-in's image directly leaves that limit alone.


def decode_with(plugin: type[ImageFile], data: bytes) -> np.ndarray:
    """Decode the first frame with one Pillow plug-in, upright by its EXIF orientation.

    Args:
        plugin: the class that reads the format, for example `PngImagePlugin.PngImageFile`.
        data: the whole file.

    Returns:
        (H, W) or (H, W, C): uint8, and for deep gray images uint16, int32 or float32.

    Raises:
        BadImageError: the header claims more than 2^30 pixels.
        Exception: whatever the plug-in raises for a damaged file.
    """
    with plugin(BytesIO(data)) as opened:
        check_size(opened.height, opened.width)
        opened.load()  # complains about a cut file before anything else looks at the pixels
        upright = ImageOps.exif_transpose(opened)
        if upright.mode == "1":
            return np.array(upright.convert("L"))
        if upright.mode in ("P", "PA"):
            transparent = upright.mode == "PA" or "transparency" in upright.info
            return np.array(upright.convert("RGBA" if transparent else "RGB"))
        if upright.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            return np.array(upright.convert("RGB"))
        return np.array(upright)
