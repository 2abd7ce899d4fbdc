"""Decoding with one of Pillow's plug-ins, in little memory."""

from io import BytesIO

import numpy as np
from PIL.Image import Image
from PIL.ImageFile import ImageFile

from smalti.images.exif import exif_orientation
from smalti.images.layout import check_size, upright

_STRIP = 2**22  # pixels converted at a time, so that no second copy of a large image is made
_CONVERTED = {"1": "L", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB"}


def decode_with(plugin: type[ImageFile], data: bytes) -> np.ndarray:
    """Decode the first frame with one of Pillow's plug-ins, upright by its EXIF orientation.

    `Image.open` refuses pictures above 179 megapixels by a limit that is global to the user's program, and tries rare
    formats; building the plug-in's image directly does neither.

    Args:
        plugin: the class that reads the format, for example `BmpImagePlugin.BmpImageFile`.
        data: the whole file.

    Returns:
        (H, W) or (H, W, C): uint8, and for deep gray images uint16, int32 or float32.

    Raises:
        BadImageError: the header claims too many pixels.
        Exception: whatever the plug-in raises for a damaged file.
    """
    with plugin(BytesIO(data)) as opened:
        check_size(opened.height, opened.width)
        opened.load()
        pixels = _in_strips(opened)
        return upright(pixels, exif_orientation(opened.info.get("exif", b"")))


def _in_strips(image: Image) -> np.ndarray:
    mode = _CONVERTED.get(image.mode, image.mode)
    if image.mode in ("P", "PA"):
        mode = "RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB"
    rows = max(1, _STRIP // image.width)
    if rows >= image.height:
        return np.array(image if mode == image.mode else image.convert(mode))
    row = _few_rows(image, mode, 0, 1)
    pixels = np.empty((image.height, *row.shape[1:]), row.dtype)
    for top in range(0, image.height, rows):
        pixels[top : top + rows] = _few_rows(image, mode, top, min(top + rows, image.height))
    return pixels


def _few_rows(image: Image, mode: str, top: int, bottom: int) -> np.ndarray:
    strip = image.crop((0, top, image.width, bottom))
    return np.asarray(strip if mode == image.mode else strip.convert(mode))
