"""From the bytes of a file to an image, or to one plain reason why not."""

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


class _Format(NamedTuple):
    name: str
    decode: Callable[[bytes], np.ndarray]


def decode(data: bytes) -> np.ndarray:
    """Decode one image file; the content decides the format, never the file's name.

    Channels and bit depth stay as they are in the file, a picture that a camera turned is turned upright, and an
    animation gives its first frame. A picture may have 2^30 pixels; only WebP and TIFF in palette or ink
    colors stop at twice `PIL.Image.MAX_IMAGE_PIXELS` (179 megapixels), which their plug-ins check themselves.

    Args:
        data: the whole file: JPEG, PNG, TIFF, WebP, GIF, BMP, PPM/PGM/PBM or NumPy's .npy.

    Returns:
        (H, W, C), C-contiguous, uint8, uint16 or float32.

    Raises:
        BadImageError: the file cannot be used, whatever the cause; nothing else is raised.
    """
    if not data:
        raise BadImageError("empty file")
    format_ = _format_of(data)
    if format_ is None:
        raise BadImageError(f"not an image ({'text' if _looks_like_text(data) else 'unknown format'})")
    try:
        return as_image(format_.decode(data))
    except BadImageError:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise BadImageError(f"{format_.name} too large to decode") from error
    except Exception as error:  # decoders raise what they like; whatever it is, this one file is what is wrong
        raise BadImageError(_reason(format_.name, error)) from error


def _decode_npy(data: bytes) -> np.ndarray:
    return np.load(BytesIO(data), allow_pickle=False)


_FORMATS = (
    (b"\xff\xd8\xff", _Format("JPEG", decode_jpeg)),
    (b"\x89PNG\r\n\x1a\n", _Format("PNG", decode_png)),
    (b"II*\0", _Format("TIFF", decode_tiff)),
    (b"MM\0*", _Format("TIFF", decode_tiff)),
    (b"II+\0", _Format("TIFF", decode_tiff)),
    (b"MM\0+", _Format("TIFF", decode_tiff)),
    (b"\x93NUMPY", _Format("npy", _decode_npy)),
    (b"GIF8", _Format("GIF", partial(decode_with, GifImagePlugin.GifImageFile))),
    (b"BM", _Format("BMP", partial(decode_with, BmpImagePlugin.BmpImageFile))),
    *((b"P%d" % kind, _Format("PPM", decode_ppm)) for kind in range(1, 7)),
)
_WEBP = _Format("WebP", partial(decode_with, WebPImagePlugin.WebPImageFile))


def _format_of(data: bytes) -> _Format | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _WEBP
    for magic, format_ in _FORMATS:
        if data.startswith(magic):
            return format_
    return None


def _looks_like_text(data: bytes) -> bool:
    """Whether the first bytes are free of the control characters that every binary format has."""
    return not any(byte < 9 or 13 < byte < 32 for byte in data[:256])


_SIGNS_OF_A_CUT_FILE = ("truncat", "failed to read", "incomplete", "unexpected end", "eof", "cannot reshape")


def _reason(format_name: str, error: Exception) -> str:
    """One line in plain words for what a decoder raised."""
    said = " ".join(str(error).split())
    if any(sign in said.lower() for sign in _SIGNS_OF_A_CUT_FILE):
        return f"truncated {format_name}"
    if isinstance(error, LookupError) or not said:  # a bare key or index would explain nothing
        return f"damaged {format_name}"
    return f"damaged {format_name} ({said[:80]})"
