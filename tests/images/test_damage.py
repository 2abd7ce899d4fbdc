"""Files that decoders fill up or make something of are refused; sound files that look odd are not."""

import re
from contextlib import suppress
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smalti.errors import BadImageError
from smalti.images.decode import decode

from .conftest import encoded, smooth


def photograph(side: int = 400) -> np.ndarray:
    """(side, side, 3) uint8 of structure at all scales, so that no code is rare."""
    generator = np.random.default_rng(0)
    image = np.zeros((side, side, 3))
    for size in (5, 20, 80, side):
        grain = generator.normal(0, 30 / size**0.3, (size, size, 3))
        image += np.asarray([np.kron(grain[..., c], np.ones((side // size,) * 2)) for c in range(3)]).transpose(1, 2, 0)
    return np.clip(image + 128, 0, 255).astype(np.uint8)


def heic(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(buffer, quality=90)
    return buffer.getvalue()


SOUND = {
    "jpeg": encoded(photograph(), "JPEG", quality=92),
    "progressive": encoded(photograph(), "JPEG", quality=92, progressive=True),
    "optimized": encoded(photograph(), "JPEG", quality=92, optimize=True),
    "gray": encoded(photograph()[..., 0], "JPEG", quality=95),
    "inks": encoded(Image.fromarray(photograph()).convert("CMYK"), "JPEG", quality=92),
    "webp": encoded(photograph(), "WEBP", quality=92),
    "lossless webp": encoded(photograph(), "WEBP", lossless=True),
    "png": encoded(photograph(), "PNG"),
    "deep png": imagecodecs.png_encode(photograph().astype(np.uint16) * 257),
    "gif": encoded(photograph(), "GIF"),
    "heic": heic(photograph()),
    "avif": encoded(photograph(), "AVIF", quality=95),
    "jpeg 2000": encoded(photograph(), "JPEG2000"),
}


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_block_of_zeros_is_refused(kind, place):
    data = SOUND[kind]
    assert len(data) > 3 * 4096
    at = int(len(data) * place)
    with pytest.raises(BadImageError, match=r"damaged|truncated"):
        decode(data[:at] + bytes(4096) + data[at + 4096 :])


@pytest.mark.parametrize("kind", SOUND)
@pytest.mark.parametrize("ending", ["nothing", "zeros", "end of a JPEG"])
def test_a_cut_file_is_refused(kind, ending):
    data = SOUND[kind]
    for place in (0.2, 0.5, 0.9):
        at = int(len(data) * place)
        filled = {"nothing": b"", "zeros": bytes(len(data) - at), "end of a JPEG": b"\xff\xd9"}[ending]
        with pytest.raises(BadImageError, match=r"damaged|truncated"):
            decode(data[:at] + filled)


def test_a_progressive_jpeg_that_lacks_its_last_scans_is_refused():
    data = SOUND["progressive"]
    scans = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    assert len(scans) > 5
    for at in scans[1:]:
        with pytest.raises(BadImageError, match="truncated JPEG"):
            decode(data[:at] + b"\xff\xd9")


@pytest.mark.parametrize("name", ["progressive", "optimized", "gray", "jpeg"])
def test_a_hundred_surplus_bytes_are_a_sign_of_damage_and_four_are_not(name):
    data = SOUND[name]
    np.testing.assert_array_equal(decode(data[:-2] + b"1234" + data[-2:]), decode(data))
    with pytest.raises(BadImageError, match="extraneous bytes"):
        decode(data[:-2] + b"1234" * 25 + data[-2:])


def test_an_odd_jfif_version_loses_no_pixels():
    data = SOUND["jpeg"]
    assert data[6:13] == b"JFIF\0\1\1"
    np.testing.assert_array_equal(decode(data[:11] + b"\3" + data[12:]), decode(data))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    value=st.integers(0, 255),
    kind=st.sampled_from(["JPEG", "WEBP", "AVIF", "JPEG2000", "PNG"]),
    options=st.sampled_from([{}, {"optimize": True}, {"progressive": True}, {"lossless": True}]),
)
def test_flat_pictures_are_no_holes(height, width, value, kind, options):
    picture = np.full((height, width, 3), value, np.uint8)
    picture[: height // 3, : width // 3] = smooth(height, width)[: height // 3, : width // 3]
    assert decode(encoded(picture, kind, **options))[..., :3].shape == picture.shape


def test_a_large_flat_picture_is_no_hole():
    decode(encoded(np.zeros((3000, 4000, 3), np.uint8), "WEBP"))
    decode(encoded(np.zeros((3000, 4000, 3), np.uint8), "JPEG", optimize=True))


@pytest.mark.parametrize("kind", SOUND)
def test_nothing_reaches_stderr(kind, capfd):
    data = SOUND[kind]
    for at in range(200, len(data), len(data) // 12):
        for broken in (data[:at], data[:at] + b"\xff\0\xff" + data[at + 3 :], data[:at] + bytes(len(data) - at)):
            with suppress(BadImageError):
                decode(broken)
    assert capfd.readouterr().err == ""
