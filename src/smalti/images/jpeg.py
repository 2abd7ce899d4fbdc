"""JPEG, on the library that is strict and fast enough.

Milliseconds an image on one core, the median of 100 and 160 (simplejpeg 1.9, OpenCV 5.0, Pillow 13.0,
torchvision 0.29):

=============================  ==========  ======  ======  ===========
measured                       simplejpeg  OpenCV  Pillow  torchvision
=============================  ==========  ======  ======  ===========
ms, shorter side 224 pixels    0.27        0.31    0.42    0.32
ms, 64 x 64 pixels             0.026       0.036   0.087   0.041
=============================  ==========  ======  ======  ===========
"""

import re

import numpy as np
import simplejpeg
from PIL import JpegImagePlugin

from smalti.errors import BadImageError
from smalti.images.exif import exif_orientation
from smalti.images.jpeg_scans import HOLE, check_scans, read_header
from smalti.images.layout import check_size, inks_to_rgb, max_pixels, upright
from smalti.images.pillow import decode_with

_OUTPUT = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB", "CMYK": "CMYK", "YCCK": "CMYK"}
_MOST_SCANS = 16  # of an image of the most pixels; encoders write about 10, and each costs a pass over all pixels
# Some cameras write a few bytes between the last pixel and the end marker. A damaged file has decoded to something
# else before its data ended, which leaves hundreds; a warning before any other marker means that data follow it.
_SURPLUS = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_MOST_SURPLUS = 16
_HEADER_ONLY = re.compile(r"unknown JFIF revision|Unknown Adobe color transform")


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG, upright by its EXIF orientation; the four inks of print become RGB.

    What libjpeg warns of and fills up, such as a cut file, is refused: all of 285 photographs with a block of 4 KB of
    zeros inside, and all of 855 cut ones, whether zeros, an end marker or nothing follows. One flipped bit is seen in
    6% of baseline and 27% of progressive files, since Huffman codes fall into step again.

    Returns:
        (H, W, 1) or (H, W, 3), uint8.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # among others a rare subsampling, which the header cannot name
        return decode_with(JpegImagePlugin.JpegImageFile, data)
    check_size(height, width)
    header = read_header(data)
    if header.several_scans and height * width * data.count(b"\xff\xda") > max_pixels() * _MOST_SCANS:
        raise BadImageError("JPEG with too many scans to decode")
    image = _decode_strictly(data, _OUTPUT[colors], header.several_scans)
    if image.shape[2] == 4:
        image = inks_to_rgb(image)
    return upright(image, exif_orientation(header.exif))


def check_jpeg(data: bytes) -> None:
    """Refuse a JPEG that another decoder is about to decode, if it is too large or pixels are lost.

    Raises:
        BadImageError: for either.
    """
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise BadImageError("JPEG with a header that cannot be read, or channels other than 1, 3 or 4") from error
    check_size(height, width)
    _decode_strictly(data, "GRAY", read_header(data).several_scans)


def _decode_strictly(data: bytes, colors: str, several_scans: bool) -> np.ndarray:
    """Decode a JPEG to the given colors, "GRAY", "RGB" or "CMYK"; data that libjpeg makes up are refused.

    Raises:
        BadImageError: pixels are lost.
    """
    try:
        image = simplejpeg.decode_jpeg(data, colors, strict=True)
    except ValueError as error:
        message = str(error)
        surplus = _SURPLUS.search(message)
        if "premature end" in message.lower():
            raise BadImageError("truncated JPEG") from error
        if not _HEADER_ONLY.search(message) and (not surplus or int(surplus[1]) > _MOST_SURPLUS):
            raise BadImageError(f"damaged JPEG ({message})") from error
        image = simplejpeg.decode_jpeg(data, colors, strict=False)
    if several_scans or HOLE in data:
        check_scans(data)
    return image
