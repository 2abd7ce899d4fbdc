"""From the bytes of a file to an image, or to the reason why there is none."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image

from smalti.errors import BadImageError, UserError
from smalti.images.decoders import decode_npy, decode_png, decode_ppm, decode_webp
from smalti.images.dicom import decode_dicom
from smalti.images.jpeg import decode_jpeg
from smalti.images.layout import as_image
from smalti.images.phones import decode_avif, decode_heic, decode_jpeg2000
from smalti.images.pillow import decode_with
from smalti.images.tiff import decode_tiff


def decode(data: bytes) -> np.ndarray:
    """Decode one image file; its content decides the format, never its name.

    Channels and bit depth stay as they are in the file, a picture that a camera turned is turned upright, and an
    animation gives its first frame. What pixels are lost in is refused, as far as the format and its decoder can tell.
    The size is read from the header and must not pass `max_pixels()`, 2^27 unless the environment variable
    SMALTI_MAX_PIXELS says otherwise; decoding takes at most about three times the memory of the pixels.

    Args:
        data: the whole file: JPEG, PNG, TIFF, WebP, GIF, BMP, PPM/PGM/PBM, HEIC, AVIF, JPEG 2000, NumPy's .npy, and
            DICOM where pydicom is installed.

    Returns:
        (H, W, C), C-contiguous, uint8, uint16 or float32.

    Raises:
        BadImageError: the file cannot be used, whatever the cause; nothing else is raised.
        UserError: SMALTI_MAX_PIXELS is no number.
    """
    if not data:
        raise BadImageError("empty file")
    format_ = next((each for each in _FORMATS if re.match(each.beginning, data)), None)
    if format_ is None:
        raise BadImageError(f"not an image ({'text' if _looks_like_text(data) else 'unknown format'})")
    try:
        return as_image(format_.decode(data))
    except (BadImageError, UserError):
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise BadImageError(f"{format_.name} too large to decode") from error
    except Exception as error:  # decoders raise anything; whatever it is, this one file is the cause
        raise BadImageError(_reason(format_.name, error)) from error


class _Format(NamedTuple):
    beginning: bytes  # a regular expression
    name: str
    decode: Callable[[bytes], np.ndarray]


_FORMATS = (
    _Format(rb"\xff\xd8\xff", "JPEG", decode_jpeg),
    _Format(rb"\x89PNG\r\n\x1a\n", "PNG", decode_png),
    _Format(rb"II[*+]\0|MM\0[*+]", "TIFF", decode_tiff),  # + for files above 4 GB
    _Format(rb"\x93NUMPY", "npy", decode_npy),
    _Format(rb"RIFF[\s\S]{4}WEBP", "WebP", decode_webp),
    _Format(rb"GIF8", "GIF", partial(decode_with, GifImagePlugin.GifImageFile)),
    _Format(rb"BM", "BMP", partial(decode_with, BmpImagePlugin.BmpImageFile)),
    _Format(rb"P[1-6]\s", "PPM", decode_ppm),
    _Format(rb"[\s\S]{4}ftypavi[fs]", "AVIF", decode_avif),
    _Format(rb"[\s\S]{4}ftyp(?:he|mi|ms)", "HEIC", decode_heic),
    _Format(rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000", decode_jpeg2000),
    _Format(rb"[\s\S]{128}DICM", "DICOM", decode_dicom),
)


def _looks_like_text(data: bytes) -> bool:
    """Whether the first bytes are free of the control characters that every binary format has."""
    return not any(byte < 9 or 13 < byte < 32 for byte in data[:256])


_SIGNS_OF_A_CUT_FILE = ("truncat", "failed to read", "incomplete", "unexpected end", "eof", "cannot reshape")


def _reason(format_name: str, error: Exception) -> str:
    """One line in plain words for what a decoder raised."""
    message = " ".join(str(error).split())
    if any(sign in message.lower() for sign in _SIGNS_OF_A_CUT_FILE):
        return f"truncated {format_name}"
    if isinstance(error, LookupError) or not message:  # a bare key or index would explain nothing
        return f"damaged {format_name}"
    return f"damaged {format_name} ({message[:80]})"
