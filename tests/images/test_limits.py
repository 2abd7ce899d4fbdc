"""One limit holds for every format, before memory is taken, and a user can raise it."""

import re
import subprocess
import sys
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
import pytest
import tifffile
from PIL import Image

from smalti.errors import BadImageError, UserError
from smalti.images.decode import decode
from smalti.images.folder import FolderSource

from .conftest import encoded, smooth

HEIGHT, WIDTH = 64, 96
PICTURE = smooth(HEIGHT, WIDTH)


def tiff(image: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def heic() -> bytes:
    buffer = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PICTURE)).save(buffer)
    return buffer.getvalue()


# each with the bytes that count for a pixel
FILES = {
    "JPEG": (encoded(PICTURE, "JPEG"), 4),
    "JPEG of inks": (encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"), 4),
    "PNG": (encoded(PICTURE, "PNG"), 4),
    "PNG of 16 bits": (imagecodecs.png_encode(PICTURE.astype(np.uint16)), 6),
    "GIF": (encoded(PICTURE, "GIF"), 4),
    "BMP": (encoded(PICTURE, "BMP"), 4),
    "PPM": (encoded(PICTURE, "PPM"), 4),
    "WebP": (encoded(PICTURE, "WEBP"), 4),
    "lossless WebP": (encoded(PICTURE, "WEBP", lossless=True), 4),
    "HEIC": (heic(), 4),
    "AVIF": (encoded(PICTURE, "AVIF"), 8),
    "JPEG 2000": (encoded(PICTURE, "JPEG2000"), 12),
    "TIFF": (tiff(PICTURE, photometric="rgb", compression="zlib"), 4),
    "tiled TIFF": (tiff(PICTURE, photometric="rgb", compression="lzw", tile=(32, 32)), 4),
    "TIFF of 5 bands": (tiff(np.zeros((HEIGHT, WIDTH, 5), np.uint16), photometric="minisblack"), 10),
    "TIFF of JPEGs": (tiff(PICTURE, photometric="rgb", compression="jpeg"), 4),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_limit_is_one_for_all_and_can_be_raised(kind, monkeypatch):
    data, pixel_bytes = FILES[kind]
    enough = HEIGHT * WIDTH * pixel_bytes // 4
    monkeypatch.setenv("SMALTI_MAX_PIXELS", str(enough))
    assert decode(data).shape[:2] == (HEIGHT, WIDTH)
    monkeypatch.setenv("SMALTI_MAX_PIXELS", str(enough - 1))
    with pytest.raises(BadImageError, match=rf"claims {WIDTH} x {HEIGHT} pixels.*SMALTI_MAX_PIXELS allows"):
        decode(data)


def test_a_tile_larger_than_its_image_counts(monkeypatch):
    monkeypatch.setenv("SMALTI_MAX_PIXELS", "10000")
    with pytest.raises(BadImageError, match="claims 512 x 512 pixels"):
        decode(tiff(PICTURE, photometric="rgb", compression="zlib", tile=(512, 512)))


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpeg2000", "png"])
def test_an_image_inside_of_a_tiff_counts(compression, monkeypatch):
    data = tiff(PICTURE, photometric="rgb", compression=compression)
    with tifffile.TiffFile(BytesIO(data)) as file:
        width = file.pages.first.tags["ImageWidth"]
    claim = data[: width.valueoffset] + (2).to_bytes(2, "little") + data[width.valueoffset + 2 :]
    monkeypatch.setenv("SMALTI_MAX_PIXELS", str(HEIGHT * WIDTH - 1))
    with pytest.raises(BadImageError, match=f"claims {WIDTH} x {HEIGHT} pixels"):
        decode(claim)


def test_too_many_tiles_or_scans_are_refused(monkeypatch):
    many_tiles = tiff(np.zeros((512, 512), np.uint8), tile=(16, 16))
    many_scans = bytearray(encoded(PICTURE, "JPEG", progressive=True))
    monkeypatch.setenv("SMALTI_MAX_PIXELS", str(512 * 512))
    with pytest.raises(BadImageError, match="1024 strips or tiles"):
        decode(many_tiles)
    monkeypatch.setenv("SMALTI_MAX_PIXELS", str(HEIGHT * WIDTH))
    scan = re.search(rb"\xff\xda", many_scans).start()
    with pytest.raises(BadImageError, match="too many scans"):
        decode(bytes(many_scans[:scan] + many_scans[scan:-2] * 3 + b"\xff\xd9"))


def test_a_file_larger_than_any_image_is_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(PICTURE, "PNG") + bytes(5000))
    monkeypatch.setenv("SMALTI_MAX_PIXELS", "1000")
    with pytest.raises(BadImageError, match=r"bytes, too large to read; SMALTI_MAX_PIXELS allows 1000"):
        FolderSource(tmp_path).read(0)


@pytest.mark.parametrize("text", ["many", "-5", "0", "1e9", ""])
def test_a_limit_that_is_no_number_is_a_user_error(text, monkeypatch):
    monkeypatch.setenv("SMALTI_MAX_PIXELS", text)
    with pytest.raises(UserError, match="SMALTI_MAX_PIXELS"):
        decode(encoded(PICTURE, "PNG"))


def test_spaces_without_end_are_no_header():
    for count in (40, 10**6):
        with pytest.raises(BadImageError, match="PPM"):
            decode(b"P6" + b" " * count + b"x")


@pytest.mark.parametrize("kind", ["GIF", "PNG", "JPEG"])
def test_the_largest_images_take_a_small_multiple_of_their_memory(kind, tmp_path):
    mode = {"GIF": "P", "PNG": "RGB", "JPEG": "CMYK"}[kind]
    (tmp_path / "large").write_bytes(encoded(Image.new(mode, (11_000, 12_000)), kind))
    program = """
import resource, sys
from smalti.images.decode import decode
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
image = decode(open(sys.argv[1], "rb").read())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / image.nbytes)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "large")], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) < 3
