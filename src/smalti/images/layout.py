"""The one layout of an image in memory: (H, W, C), upright, C-contiguous, uint8, uint16 or float32."""

import os

import cv2
import numpy as np

from smalti.errors import BadImageError, UserError

LIMIT_VARIABLE = "SMALTI_MAX_PIXELS"
_MOST_PIXELS = 2**27  # 134 megapixels: 512 MB decoded, and at most 1.5 GB while they are decoded
_BYTES_A_PIXEL = 4


def max_pixels() -> int:
    """The most pixels that an image may have: the environment variable SMALTI_MAX_PIXELS, or 2^27.

    Raises:
        UserError: the variable is not a whole number above 0.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(_MOST_PIXELS))
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"{LIMIT_VARIABLE}={text}", "a whole number of pixels above 0", "correct it or unset it")
    return int(text)


def check_size(height: int, width: int, pixel_bytes: int = _BYTES_A_PIXEL) -> None:
    """Refuse a size that a header claims before memory is taken for it.

    Args:
        height: pixels.
        width: pixels.
        pixel_bytes: what decoding takes for each pixel; above 4, a pixel counts as several.

    Raises:
        BadImageError: more pixels than `max_pixels()`.
    """
    limit = max_pixels()
    if height * width * max(pixel_bytes, _BYTES_A_PIXEL) > limit * _BYTES_A_PIXEL:
        of = f" of {pixel_bytes} bytes" if pixel_bytes > _BYTES_A_PIXEL else ""
        raise BadImageError(
            f"claims {width} x {height} pixels{of}, too large to decode; {LIMIT_VARIABLE} allows {limit} of 4 bytes"
        )


def check_file_size(size: int) -> None:
    """Refuse a file of more bytes than the largest image, before it is read.

    Raises:
        BadImageError: more than 4 bytes for each of `max_pixels()`.
    """
    limit = max_pixels()
    if size > limit * _BYTES_A_PIXEL:
        raise BadImageError(f"has {size} bytes, too large to read; {LIMIT_VARIABLE} allows {limit} pixels of 4 bytes")


def as_image(array: np.ndarray) -> np.ndarray:
    """Bring an array of pixels into the one layout.

    Bits become 0 and 255. Every type that is neither uint8, uint16 nor float32 becomes float32, which keeps
    integers up to 2^24 exactly.

    Args:
        array: (H, W) or (H, W, C), any real type.

    Returns:
        (H, W, C), C-contiguous, uint8, uint16 or float32.

    Raises:
        BadImageError: no pixels, another number of axes, complex numbers, or NaN or infinity among the values.
    """
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3:
        raise BadImageError(f"has {array.ndim} axes, not 2 or 3")
    if array.size == 0:
        raise BadImageError("has no pixels")
    if array.dtype.kind not in "buif":
        raise BadImageError(f"holds {array.dtype}, not numbers for pixels")
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    kept = array.dtype.newbyteorder("=")
    if kept not in (np.uint8, np.uint16):
        kept = np.dtype(np.float32)
    image = np.ascontiguousarray(array, dtype=kept)
    if kept == np.float32 and not np.isfinite(image).all():
        raise BadImageError("holds NaN or infinity")
    return image


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the turn or flip that a camera recorded.

    Args:
        image: (H, W) or (H, W, C) as stored.
        orientation: 1 to 8 as EXIF and TIFF define them; any other number leaves the image as it is.

    Returns:
        A view of the image, its first two axes swapped for orientations 5 to 8.
    """
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image


def inks_to_rgb(paper: np.ndarray) -> np.ndarray:
    """Cyan, magenta, yellow and black to RGB, row by row to save memory.

    Args:
        paper: (H, W, 4) uint8, what the inks leave of the white of the paper: 255 for no ink.

    Returns:
        (H, W, 3) uint8.
    """
    image = np.empty((*paper.shape[:2], 3), dtype=np.uint8)
    for row, left in zip(image, paper, strict=True):
        row[:] = (left[:, :3].astype(np.uint16) * left[:, 3:] + 127) // 255
    return image


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Give an image the number of channels that was asked for, by a fixed rule.

    ========  =========  ==================================================
    has       asked for  rule
    ========  =========  ==================================================
    n         n          unchanged
    1         3          repeated
    3         1          luma of ITU-R BT.601, in the image's own type
    2         1, 3       alpha dropped, then as 1
    4         1, 3       alpha dropped, then as 3
    ========  =========  ==================================================

    Args:
        image: (H, W, C), uint8, uint16 or float32.
        channels: the number of channels wanted.

    Returns:
        (H, W, channels), the same type, C-contiguous.

    Raises:
        BadImageError: no rule leads from C to `channels`; inventing a band would be worse than leaving it out.
    """
    present = image.shape[2]
    if present == channels:
        return image
    if channels not in (1, 3) or present > 4:
        raise BadImageError(f"has {present} channels, {channels} were asked for")
    if present in (2, 4):
        return to_channels(np.ascontiguousarray(image[:, :, : present - 1]), channels)
    if channels == 3:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
