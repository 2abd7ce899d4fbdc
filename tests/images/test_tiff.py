"""Whatever the compression, layout, colors and depth, a TIFF has the pixels that tifffile finds in it."""

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from smalti.errors import BadImageError
from smalti.images.decode import decode

from .conftest import encoded, smooth

HEIGHT, WIDTH = 50, 70
LAYOUTS = {"strips": {"rowsperstrip": 16}, "tiles": {"tile": (32, 48)}, "one": {}}
EXACT = ["none", "lzw", "zlib", "packbits", "zstd", "lzma"]


def written(image: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    tifffile.imwrite(buffer, image, **options)
    return buffer.getvalue()


def noise(channels: int, dtype: type, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """(H, W, C) of smooth steps and noise, so that every codec has something to do."""
    values = np.random.default_rng(channels).random((height, width, channels)) * 0.5
    values += np.linspace(0, 0.5, width)[:, None]
    return values.astype(dtype) if np.dtype(dtype).kind == "f" else (values * np.iinfo(dtype).max).astype(dtype)


def assert_same(data: bytes, expected: np.ndarray) -> None:
    image = decode(data)
    assert image.dtype == expected.dtype
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("planar", [False, True], ids=["chunky", "planar"])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
@pytest.mark.parametrize("compression", EXACT)
def test_every_compression_and_layout_is_exact(compression, channels, planar, dtype, layout):
    image = noise(channels, dtype)
    color = "rgb" if channels in (3, 4) else "minisblack"
    stored = np.moveaxis(image, -1, 0) if planar and channels > 1 else image[..., 0] if channels == 1 else image
    options = {"planarconfig": "separate" if planar else "contig"} if channels > 1 else {}
    if channels > 3 or (channels > 1 and color == "minisblack"):
        options["extrasamples"] = ["unspecified"] * (channels - (3 if color == "rgb" else 1))
    data = written(stored, photometric=color, compression=compression, **options, **LAYOUTS[layout])
    assert_same(data, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd"])
def test_predictors(compression, dtype):
    image = noise(3, dtype)
    assert_same(written(image, photometric="rgb", compression=compression, predictor=True, rowsperstrip=7), image)


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpeg2000", "png", "jpegxl", "jpegxr", "lerc"])
@pytest.mark.parametrize("layout", ["strips", "tiles"])
def test_compressions_of_images_are_what_tifffile_decodes(compression, layout):
    data = written(noise(3, np.uint8, 64, 96), photometric="rgb", compression=compression, **LAYOUTS[layout])
    assert_same(data, tifffile.imread(BytesIO(data)))


def test_jpeg_in_gray_and_with_shared_tables():
    gray = written(smooth()[..., 0], compression="jpeg", rowsperstrip=16)
    assert_same(gray, tifffile.imread(BytesIO(gray))[..., None])
    by_libtiff = encoded(smooth(), "TIFF", compression="jpeg")
    assert_same(by_libtiff, tifffile.imread(BytesIO(by_libtiff)))


@pytest.mark.parametrize("compression", EXACT)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero_is_turned_positive(compression, dtype):
    image = noise(1, dtype)
    data = written(image[..., 0], photometric="miniswhite", compression=compression)
    assert_same(data, np.iinfo(dtype).max - image)


@pytest.mark.parametrize("compression", ["none", "lzw", "zlib"])
def test_palettes_become_their_colors(compression):
    colors = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint8)
    image = noise(1, np.uint8)[..., 0]
    for step in (1, 256, 257):  # 8 bits by mistake, and the two ways to make 16 of them
        table = colors.astype(np.uint16) * step
        data = written(image, photometric="palette", colormap=table, compression=compression)
        assert_same(data, np.moveaxis(colors[:, image], 0, -1))


@pytest.mark.parametrize(("bits", "white"), [(1, 255), (2, 85), (4, 17)])
@pytest.mark.parametrize("photometric", [0, 1], ids=["white-is-zero", "black-is-zero"])
def test_few_bits_are_scaled_to_eight(bits, white, photometric):
    values = np.random.default_rng(bits).integers(0, 2**bits, (8, 16), dtype=np.uint8)
    packed = np.packbits(np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(8, -1), axis=-1)
    data = plain_tiff(packed.tobytes(), 16, 8, bits, photometric)
    expected = (values if photometric else 2**bits - 1 - values) * np.uint8(white)
    assert_same(data, expected[..., None])


def plain_tiff(pixels: bytes, width: int, height: int, bits: int, photometric: int) -> bytes:
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8)]
    tags += [(277, 1), (278, height), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + b"\0" * 4
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def test_four_inks_have_the_right_colors():
    inks = Image.fromarray(smooth()).convert("CMYK")
    for compression in (None, "tiff_lzw"):
        image = decode(encoded(inks, "TIFF", compression=compression))
        assert np.abs(image.astype(int) - np.asarray(inks.convert("RGB"))).max() <= 1


# ---- axes


STACK = np.random.default_rng(5).integers(0, 60_000, (2, 3, 4, 20, 30), dtype=np.uint16)  # time, depth, channels


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize(
    ("axes", "image"),
    [("TZCYX", STACK), ("ZCYX", STACK[0]), ("CYX", STACK[0, 0]), ("TCYX", STACK[:, 0]), ("CZYX", STACK[0])],
)
def test_imagej_and_ome_pages_are_channels_of_the_first_image(axes, image, compression):
    at_front = np.moveaxis(image, [axes.index(axis) for axis in "CYX"], [-3, -2, -1])
    expected = np.moveaxis(at_front.reshape(-1, *at_front.shape[-3:])[0], 0, -1)
    assert_same(written(image, ome=True, metadata={"axes": axes}, compression=compression), expected)
    if axes != "CZYX":  # which ImageJ does not have
        assert_same(written(image, imagej=True, metadata={"axes": axes}, compression=compression), expected)
    assert_same(written(image, metadata={"axes": axes}, compression=compression), expected)


def test_ome_with_channels_of_several_samples():
    image = np.random.default_rng(6).integers(0, 255, (2, 20, 30, 3), dtype=np.uint8)
    data = written(image, ome=True, metadata={"axes": "CYXS"}, photometric="rgb")
    assert_same(data, np.concatenate(list(image), axis=-1))


def test_time_and_depth_give_the_first():
    assert_same(written(STACK[:, 0, 0], imagej=True, metadata={"axes": "TYX"}), STACK[0, 0, 0][..., None])
    assert_same(written(STACK[0, :, 0], ome=True, metadata={"axes": "ZYX"}), STACK[0, 0, 0][..., None])


# ---- refusals


@pytest.mark.parametrize("claim", ['SizeZ="1"', 'NumPlanes="1"'])
def test_a_number_of_pages_out_of_proportion_takes_no_memory(claim):
    with tifffile.TiffFile(BytesIO(written(STACK[0, 0], ome=True, metadata={"axes": "CYX"}))) as file:
        description = file.ome_metadata.replace('PlaneCount="4"', 'NumPlanes="1"')
    assert claim in description
    description = description.replace(claim, claim.replace("1", "999999999"))
    with pytest.raises(BadImageError, match="pages"):
        decode(written(STACK[0, 0], description=description, metadata=None))


def test_other_colors_are_refused_by_name():
    lab = encoded(Image.fromarray(smooth()).convert("YCbCr"), "TIFF")
    with pytest.raises(BadImageError, match=r"YCBCR.*save it as RGB"):
        decode(lab)
    with pytest.raises(BadImageError, match="CFA"):
        decode(written(noise(1, np.uint16)[..., 0], photometric="cfa"))


def test_a_thumbnail_is_not_the_image():
    with pytest.raises(BadImageError, match="thumbnail"):
        decode(written(noise(3, np.uint8), photometric="rgb", subfiletype=1))


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "jpeg", "zstd", "webp", "jpeg2000", "png"])
@pytest.mark.parametrize("layout", ["one", "tiles"])
def test_a_hole_is_refused(compression, layout):
    data = written(noise(3, np.uint8, 200, 300), photometric="rgb", compression=compression, **LAYOUTS[layout])
    middle = len(data) // 2
    with pytest.raises(BadImageError, match=r"damaged|truncated"):
        decode(data[:middle] + bytes(4096) + data[middle + 4096 :])


def test_a_strip_that_decodes_to_too_much_is_refused():
    image = noise(1, np.uint8)[..., 0]
    data = written(image, compression="lzw", rowsperstrip=10)
    longer = imagecodecs.lzw_encode(bytes(image.tobytes()[: 10 * WIDTH]) + b"\0\0\0")
    with pytest.raises(BadImageError, match="too many pixels"):
        decode(_with_first_strip(data, longer))


def _with_first_strip(data: bytes, strip: bytes) -> bytes:
    """The file with another first strip, appended to it."""
    edited = bytearray(data + strip)
    with tifffile.TiffFile(BytesIO(data)) as file:
        offsets, counts = file.pages[0].tags[273], file.pages[0].tags[279]
        for tag, value in ((offsets, len(data)), (counts, len(strip))):
            size = 2 if tag.dtype_name == "SHORT" else 4
            edited[tag.valueoffset : tag.valueoffset + size] = value.to_bytes(size, "little")
    return bytes(edited)


def test_a_missing_strip_is_refused():
    data = written(noise(3, np.uint8), photometric="rgb", compression="zlib", rowsperstrip=10)
    with pytest.raises(BadImageError, match="lacks"):
        decode(_with_first_strip(data, b""))
