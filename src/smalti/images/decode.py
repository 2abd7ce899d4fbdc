"""From the bytes of a file to an image, or to the reason why there is none."""

import re
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, WebPImagePlugin

from smalti.errors import BadImageError
from smalti.images.decoders import decode_jpeg, decode_png, decode_ppm, decode_with
from smalti.images.layout import as_image
from smalti.images.tiff import decode_tiff


def decode(data: bytes) -> np.ndarray:
    """Decode one image file; its content decides the format, never its name.

    Channels and bit depth stay as they are in the file, a picture that a camera turned is turned upright, and an
    animation gives its first frame. A picture may have 2^30 pixels; WebP, and TIFF in palette or ink colors, at most
    twice `PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels), which Pillow checks itself.

    Args:
        data: the whole file: JPEG, PNG, TIFF, WebP, GIF, BMP, PPM/PGM/PBM or NumPy's .npy.

    Returns:
        (H, W, C), C-contiguous, uint8, uint16 or float32.

    Raises:
        BadImageError: the file cannot be used, whatever the cause; nothing else is raised.
    """
    if not data:
        raise BadImageError("empty file")
    format_ = next((each for each in _FORMATS if re.match(each.beginning, data)), None)
    if format_ is None:
        raise BadImageError(f"not an image ({'text' if _looks_like_text(data) else 'unknown format'})")
    try:
        return as_image(format_.decode(data))
    except BadImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise BadImageError(f"{format_.name} too large to decode") from error
    except Exception as error:  # decoders raise anything; whatever it is, this one file is the cause
        raise BadImageError(_reason(format_.name, error)) from error


def _decode_npy(data: bytes) -> np.ndarray:
    return np.load(BytesIO(data), allow_pickle=False)


class _Format(NamedTuple):
    beginning: bytes  # a regular expression
    name: str
    decode: Callable[[bytes], np.ndarray]


_FORMATS = (
    _Format(rb"\xff\xd8\xff", "JPEG", decode_jpeg),
    _Format(rb"\x89PNG\r\n\x1a\n", "PNG", decode_png),
    _Format(rb"II[*+]\0|MM\0[*+]", "TIFF", decode_tiff),  # + for files above 4 GB
    _Format(rb"\x93NUMPY", "npy", _decode_npy),
    _Format(rb"RIFF[\s\S]{4}WEBP", "WebP", partial(decode_with, WebPImagePlugin.WebPImageFile)),
    _Format(rb"GIF8", "GIF", partial(decode_with, GifImagePlugin.GifImageFile)),
    _Format(rb"BM", "BMP", partial(decode_with, BmpImagePlugin.BmpImageFile)),
    _Format(rb"P[1-6]\s", "PPM", decode_ppm),
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
