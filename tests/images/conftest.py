"""Helpers shared by the tests of images: pictures with known content, and writing them as files."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def smooth(height: int = 40, width: int = 60) -> np.ndarray:
    """(H, W, 3) uint8 with a red ramp to the right and a green one downwards: survives JPEG, differs by corner."""
    image = np.full((height, width, 3), 60, dtype=np.uint8)
    image[..., 0] = np.linspace(0, 250, width, dtype=np.uint8)
    image[..., 1] = np.linspace(0, 250, height, dtype=np.uint8)[:, None]
    return image


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file that Pillow writes."""
    buffer = BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of small PNGs: `tree("a/1.png", "b/2.png")`, image i filled with the value i % 256."""

    def write(*names: str, root: str = "data") -> Path:
        for value, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(np.full((4, 6, 3), value % 256, np.uint8), "PNG"))
        return tmp_path / root

    return write
