"""One function a format, each on the library that is strict and fast enough for it.

JPEG, measured on one core: milliseconds an image, the median of 100 and 160, and the share of 600 to 900 damaged
photographs that is refused instead of being filled up with gray (simplejpeg 1.9, OpenCV 5.0, Pillow 13.0,
torchvision 0.29):

=============================  ==========  ======  ======  ===========
measured                       simplejpeg  OpenCV  Pillow  torchvision
=============================  ==========  ======  ======  ===========
ms, shorter side 224 pixels    0.27        0.31    0.42    0.32
ms, 64 x 64 pixels             0.026       0.036   0.087   0.041
cut anywhere                   100%        100%    100%    100%
cut, the rest zeros            100%        62%     62%     100%
cut, an end-of-image marker    100%        0%      0%      0%
=============================  ==========  ======  ======  ===========

PNG of 8 bits goes to Pillow, which checks every checksum and keeps gray with alpha as two channels, where OpenCV makes
four; torchvision's decoder ends the whole process on some damaged files. 16-bit color goes to OpenCV, since Pillow
reduces it to 8 bits.
"""

from io import BytesIO

import cv2
import numpy as np
import simplejpeg
from PIL import ImageOps, JpegImagePlugin, PngImagePlugin, PpmImagePlugin
from PIL.ExifTags import Base as ExifTag
from PIL.ImageFile import ImageFile

from smalti.errors import BadImageError
from smalti.images.layout import check_size, upright

_JPEG_COLORS = {"Gray": "GRAY", "YCbCr": "RGB", "RGB": "RGB"}
_PNG_BIT_DEPTH_AT, _PNG_COLOR_TYPE_AT = 24, 25  # signature 8, chunk head 8, width 4, height 4
_PNG_GRAY_WITH_ALPHA = 4


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG, upright by its EXIF orientation.

    A file that lacks pixels is refused. Pillow gets what else simplejpeg does not take: four inks, rare subsampling,
    and superfluous bytes before a marker, which some cameras write after the last pixel. Damage inside a file looks
    like these in half the cases: of files with 4 KB of zeros inside 52% are refused, 97% would be without Pillow.

    Returns:
        (H, W, 1) or (H, W, 3), uint8.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        check_size(height, width)
        if colors in _JPEG_COLORS:
            image = simplejpeg.decode_jpeg(data, _JPEG_COLORS[colors], strict=True)
            return upright(image, _exif_orientation(data))
    except ValueError as error:
        if "premature end" in str(error).lower():
            raise BadImageError("truncated JPEG") from error
    return decode_with(JpegImagePlugin.JpegImageFile, data)


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG with its own channels and depth; a palette becomes RGB, or RGBA when it is transparent.

    Returns:
        (H, W) or (H, W, C), uint8 or uint16.
    """
    if len(data) <= _PNG_COLOR_TYPE_AT:
        raise BadImageError("truncated PNG")
    if data[_PNG_BIT_DEPTH_AT] != 16:
        return decode_with(PngImagePlugin.PngImageFile, data)
    if data[_PNG_COLOR_TYPE_AT] == _PNG_GRAY_WITH_ALPHA:
        raise BadImageError("16-bit gray PNG with alpha, which cannot be read; save it without alpha")
    with PngImagePlugin.PngImageFile(BytesIO(data)) as header:
        check_size(header.height, header.width)
        header.verify()  # every chunk is there and its checksum right
    return decode_deep(data)


def decode_ppm(data: bytes) -> np.ndarray:
    """Decode a PPM, PGM or PBM. 16-bit values stay as they are, 8-bit ones are scaled to 0...255.

    Returns:
        (H, W) or (H, W, 3), uint8 or uint16.
    """
    image = decode_with(PpmImagePlugin.PpmImageFile, data)  # refuses a cut file, and makes 8 bits of 16-bit color
    deep = decode_deep(data)
    return deep if deep.dtype == np.uint16 else image


def decode_deep(data: bytes) -> np.ndarray:
    """Decode the first image of a file through OpenCV, with its own depth and channels, as stored.

    Returns:
        (H, W) or (H, W, C) in the order RGB(A).
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("no pixels could be decoded")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return image


def decode_with(plugin: type[ImageFile], data: bytes) -> np.ndarray:
    """Decode the first frame with one of Pillow's plug-ins, upright by its EXIF orientation.

    `Image.open` refuses pictures above 179 megapixels by a limit that is global to the user's program, and tries rare
    formats; building the plug-in's image directly does neither.

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
        image = ImageOps.exif_transpose(opened)
        if image.mode == "1":
            return np.array(image.convert("L"))
        if image.mode in ("P", "PA"):
            transparent = image.mode == "PA" or "transparency" in image.info
            return np.array(image.convert("RGBA" if transparent else "RGB"))
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            return np.array(image.convert("RGB"))
        return np.array(image)


def _exif_orientation(jpeg: bytes) -> int:
    """1 to 8 as EXIF defines them; Pillow reads the header only, and only where there is EXIF to be read."""
    if b"Exif\0\0" not in jpeg:
        return 1
    with JpegImagePlugin.JpegImageFile(BytesIO(jpeg)) as header:
        return header.getexif().get(ExifTag.Orientation, 1)
