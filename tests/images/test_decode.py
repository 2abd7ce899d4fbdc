"""Every kind of file decodes to its own pixels, and every unusable one to a plain reason."""

import struct
import zlib
from io import BytesIO

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from smalti.errors import BadImageError
from smalti.images.decode import decode

from .conftest import encoded, smooth

DEEP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)  # a 12-bit ramp: 4096 different values
DEEP_RGB = np.stack([DEEP, DEEP[::-1], DEEP.T * 16], axis=-1)


def by_opencv(suffix: str, image: np.ndarray) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def by_tifffile(image: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def by_numpy(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    np.save(buffer, image)
    return buffer.getvalue()


def assert_image(image: np.ndarray, expected: np.ndarray, tolerance: float = 0) -> None:
    assert image.flags.c_contiguous
    assert image.dtype == expected.dtype
    assert image.shape == expected.shape
    np.testing.assert_allclose(image.astype(float), expected.astype(float), atol=tolerance)


# ---- JPEG


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg_keeps_its_colors(options):
    assert_image(decode(encoded(smooth(), "JPEG", quality=95, **options)), smooth(), tolerance=12)


def test_gray_jpeg_has_one_channel():
    gray = smooth()[..., :1]
    assert_image(decode(encoded(gray[..., 0], "JPEG", quality=95)), gray, tolerance=4)


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed(orientation, gray):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = smooth()[..., 0] + smooth()[..., 1] // 2 if gray else smooth()
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data))))
    assert_image(decode(data), np.atleast_3d(expected), tolerance=3)


def test_cmyk_jpeg_has_the_right_colors():
    inks = Image.fromarray(smooth()).convert("CMYK")
    assert_image(decode(encoded(inks, "JPEG", quality=95)), smooth(), tolerance=14)


def test_jpeg_padded_with_zeros_or_followed_by_a_trailer_decodes():
    data = encoded(smooth(), "JPEG")
    whole = decode(data)
    assert_image(decode(data + b"\0" * 100), whole)
    assert_image(decode(data + b"trailing bytes of a camera"), whole, tolerance=3)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.99])
def test_truncated_jpeg_is_refused(kept):
    data = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "JPEG")
    with pytest.raises(BadImageError, match=r"^truncated JPEG$"):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize("ending", [b"\0" * 4000, b"\xff\xd9"], ids=["zeros", "end-of-image"])
def test_truncated_jpeg_that_is_filled_up_is_refused(ending):
    data = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), "JPEG")
    with pytest.raises(BadImageError, match=r"^truncated JPEG$"):
        decode(data[: len(data) // 2] + ending)


def test_superfluous_bytes_after_the_last_pixel_do_no_harm():
    data = encoded(smooth(), "JPEG")
    assert_image(decode(data[:-2] + b"\x12\x34\x56\x78" + data[-2:]), decode(data))


def test_hundred_megapixels_decode_and_leave_pillows_limit_alone():
    limit = Image.MAX_IMAGE_PIXELS
    image = decode(by_opencv(".jpg", np.full((10_000, 10_000), 77, np.uint8)))
    assert image.shape == (10_000, 10_000, 1)
    assert image[::1000, ::1000].min() == image[::1000, ::1000].max() == 77
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM", "JPEG"])
def test_pillows_size_limit_is_not_ours(kind, monkeypatch):
    data = encoded(smooth(), kind) + (b"a trailer, for the slow road" if kind == "JPEG" else b"")
    whole = decode(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # an error from 200 on, and this picture has 2400
    assert_image(decode(data), whole)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken():
    data = bytearray(encoded(smooth(), "BMP"))
    data[18:26] = struct.pack("<ii", 200_000, 100_000)
    with pytest.raises(BadImageError, match="claims 200000 x 100000 pixels, too large to decode"):
        decode(bytes(data))


# ---- PNG


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_eight_bit_png_is_exact(channels):
    image = np.random.default_rng(1).integers(0, 255, (9, 7, channels), dtype=np.uint8)
    assert_image(decode(encoded(image[..., 0] if channels == 1 else image, "PNG")), image)


def test_sixteen_bit_png_keeps_every_value():
    image = decode(by_opencv(".png", DEEP))
    assert_image(image, DEEP[..., None])
    assert len(np.unique(image)) == 4096
    assert_image(decode(by_opencv(".png", DEEP_RGB[..., ::-1])), DEEP_RGB)


def test_sixteen_bit_png_with_alpha_keeps_its_order():
    rgba = np.dstack([DEEP_RGB, DEEP + 1000]).astype(np.uint16)
    assert_image(decode(by_opencv(".png", rgba[..., [2, 1, 0, 3]])), rgba)


def test_palette_png_becomes_rgb_or_rgba():
    picture = Image.fromarray(smooth()).quantize(64)
    assert_image(decode(encoded(picture, "PNG")), np.asarray(picture.convert("RGB")))
    index = picture.getpixel((0, 0))
    clear = decode(encoded(picture, "PNG", transparency=index))
    assert clear.shape == (40, 60, 4)
    assert clear[0, 0, 3] == 0
    assert clear[-1, -1, 3] == 255


def test_one_bit_png_becomes_black_and_white():
    bits = np.eye(8, dtype=bool)
    assert_image(decode(encoded(bits, "PNG")), (bits * 255).astype(np.uint8)[..., None])


@pytest.mark.parametrize("depth", [8, 16])
def test_truncated_png_is_refused(depth):
    noise = np.random.default_rng(2).integers(0, 2**depth, (32, 32, 3)).astype(f"uint{depth}")
    data = by_opencv(".png", noise)
    for kept in (20, 100, len(data) // 2, len(data) - 40):
        with pytest.raises(BadImageError, match=r"^(truncated|damaged) PNG"):
            decode(data[:kept])


def test_sixteen_bit_gray_png_with_alpha_keeps_both():
    image = np.random.default_rng(4).integers(0, 65_536, (9, 7, 2)).astype(np.uint16)
    assert_image(decode(imagecodecs.png_encode(image)), image)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_of_png_is_obeyed(orientation, depth):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = smooth()
    expected = np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(encoded(picture, "PNG", exif=exif)))))
    png = imagecodecs.png_encode(picture.astype(np.uint16) * 257 if depth == 16 else picture)
    block = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    assert_image(decode(png[:-12] + chunk + png[-12:]), expected * np.uint16(257) if depth == 16 else expected)


# ---- TIFF


def test_sixteen_bit_tiff_keeps_every_value():
    assert_image(decode(by_tifffile(DEEP)), DEEP[..., None])
    assert_image(decode(by_tifffile(DEEP_RGB, photometric="rgb")), DEEP_RGB)
    assert_image(decode(by_tifffile(DEEP, byteorder=">")), DEEP[..., None])


def test_float_tiff_is_exact():
    image = np.linspace(-2, 3, 600, dtype=np.float32).reshape(20, 30, 1)
    assert_image(decode(by_tifffile(image[..., 0])), image)


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.float64])
def test_other_types_become_float32(dtype):
    image = np.arange(600).reshape(20, 30, 1).astype(dtype)
    assert_image(decode(by_tifffile(image[..., 0])), image.astype(np.float32))


FIVE = np.random.default_rng(3).integers(0, 60_000, (20, 30, 5), dtype=np.uint16)


@pytest.mark.parametrize(
    "data",
    [
        by_tifffile(FIVE, planarconfig="contig", photometric="minisblack"),
        by_tifffile(np.moveaxis(FIVE, -1, 0), planarconfig="separate", photometric="minisblack"),
        by_tifffile(np.moveaxis(FIVE, -1, 0), imagej=True, metadata={"axes": "CYX"}),
        by_tifffile(FIVE),
    ],
    ids=["chunky", "planar", "channel-pages", "array-without-words"],
)
def test_five_channels_come_last(data):
    assert_image(decode(data), FIVE)


def test_stack_of_pages_gives_the_first():
    stack = np.random.default_rng(4).integers(0, 255, (4, 20, 30, 3), dtype=np.uint8)
    assert_image(decode(by_tifffile(stack, photometric="rgb")), stack[0])


def test_compressed_and_palette_tiff():
    assert_image(decode(encoded(smooth(), "TIFF", compression="tiff_lzw")), smooth())
    assert_image(decode(by_opencv(".tiff", DEEP_RGB[..., ::-1])), DEEP_RGB)  # OpenCV writes LZW
    picture = Image.fromarray(smooth()).quantize(64)
    assert_image(decode(encoded(picture, "TIFF")), np.asarray(picture.convert("RGB")))


def test_white_is_zero_tiff_is_turned_positive():
    assert_image(decode(by_tifffile(DEEP, photometric="miniswhite")), (65535 - DEEP)[..., None])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_orientation_is_obeyed(orientation):
    data = by_tifffile(smooth(), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    as_png = Image.open(BytesIO(encoded(smooth(), "PNG", exif=exif)))
    assert_image(decode(data), np.asarray(ImageOps.exif_transpose(as_png)))


@pytest.mark.parametrize("data", [by_tifffile(DEEP), by_opencv(".tiff", DEEP)], ids=["plain", "lzw"])
def test_truncated_tiff_is_refused(data):
    for kept in (10, len(data) // 2, len(data) - 10):
        with pytest.raises(BadImageError, match=r"^(truncated|damaged) TIFF"):
            decode(data[:kept])


# ---- the others


def test_portable_maps_are_scaled_to_eight_bits_only():
    assert decode(b"P5\n2 2\n15\n\x00\x05\x0a\x0f").ravel().tolist() == [0, 85, 170, 255]
    assert decode(b"P6\n1 1\n1023\n\x00\x00\x01\x00\x03\xff").ravel().tolist() == [0, 256, 1023]
    assert decode(b"P5\n3 1\n1023\n\x00\x00\x01\x00\x03\xff").ravel().tolist() == [0, 256, 1023]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_animation_gives_its_first_frame(kind):
    frames = [Image.new("RGB", (12, 8), color) for color in ((250, 0, 0), (0, 250, 0))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    expected = np.zeros((8, 12, 3), np.uint8)
    expected[..., 0] = 250
    assert_image(decode(data)[..., :3], expected)


@pytest.mark.parametrize("kind", ["BMP", "PPM"])
def test_plain_formats_are_exact(kind):
    assert_image(decode(encoded(smooth(), kind)), smooth())


def test_deep_portable_maps_keep_every_value():
    assert_image(decode(by_opencv(".pgm", DEEP)), DEEP[..., None])
    assert_image(decode(by_opencv(".ppm", DEEP_RGB[..., ::-1])), DEEP_RGB)


def test_npy_with_and_without_channels():
    assert_image(decode(by_numpy(FIVE)), FIVE)
    assert_image(decode(by_numpy(FIVE[..., 0])), FIVE[..., :1])


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((2, 3, 4, 5)), "4 axes"),
        (np.zeros((0, 3)), "no pixels"),
        (np.zeros((2, 2), complex), "complex"),
        (np.array([[1.0, np.nan]]), "NaN"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array, reason):
    with pytest.raises(BadImageError, match=reason):
        decode(by_numpy(array))


def test_npy_of_python_objects_is_refused():
    with pytest.raises(BadImageError, match="npy"):
        decode(by_numpy(np.array([[object()]], dtype=object)))


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "JPEG", "WEBP"])
def test_one_pixel_is_an_image(kind):
    image = decode(encoded(Image.new("L", (1, 1), 90).convert("RGB"), kind))
    assert image.shape[:2] == (1, 1)
    assert abs(int(image[0, 0, 0]) - 90) <= 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html>not found</html>\n", r"not an image \(text\)"),
        ("Grüße\n".encode(), r"not an image \(text\)"),
        (bytes(range(200)), r"not an image \(unknown format\)"),
        (b"\xff\xd8\xff\xd9", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "truncated PNG"),
        (b"II*\0", "TIFF"),
        (b"RIFF\0\0\0\0WEBP", "WebP"),
    ],
)
def test_what_is_no_image_gets_a_reason(data, reason):
    with pytest.raises(BadImageError, match=reason):
        decode(data)


SOUND = [
    encoded(smooth(), "JPEG"),
    encoded(smooth(), "PNG"),
    encoded(smooth(), "WEBP"),
    encoded(smooth(), "GIF"),
    encoded(smooth(), "BMP"),
    encoded(smooth(), "PPM"),
    by_opencv(".png", DEEP_RGB),
    by_tifffile(DEEP_RGB, photometric="rgb"),
    by_opencv(".tiff", DEEP_RGB),
    by_numpy(FIVE),
]


@settings(max_examples=150, deadline=None)
@given(
    data=st.sampled_from(SOUND),
    cut=st.floats(0, 1),
    damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_damage_never_raises_anything_else(data, cut, damage):
    bytes_ = bytearray(data[: int(len(data) * cut)])
    for at, value in damage:
        if at < len(bytes_):
            bytes_[at] = value
    reason, image = "", None
    try:
        image = decode(bytes(bytes_))
    except BadImageError as error:
        reason = str(error)
    if image is None:
        assert reason
        assert "\n" not in reason
    else:
        assert image.ndim == 3
        assert image.size > 0
