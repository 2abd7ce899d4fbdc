"""Decoding through OpenCV at the file's own depth, where Pillow would cut it down to 8 bits."""

import cv2
import numpy as np


def decode_deep(data: bytes) -> np.ndarray:
    """Decode a 16-bit PNG or PPM, or a compressed TIFF, with its own depth and channels.

    Returns:
        (H, W) or (H, W, C) in the order RGB(A).
    """
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("no pixels could be decoded")
    if image.ndim == 3 and image.shape[2] in (3, 4):
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    return image
