"""The one layout of an image in memory: (H, W, C), upright, C-contiguous, uint8, uint16 or float32."""

import cv2
import numpy as np

from smalti.errors import BadImageError

_MOST_PIXELS = 2**30  # OpenCV's own limit; a damaged header can claim enough to bring the machine down


def check_size(height: int, width: int) -> None:
    """Refuse an impossible size before memory is taken for it.

    Raises:
        BadImageError: more than 2^30 pixels.
    """
    if height * width > _MOST_PIXELS:
        raise BadImageError(f"claims {width} x {height} pixels, too large to decode")


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
