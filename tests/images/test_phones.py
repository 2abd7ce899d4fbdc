"""HEIC, AVIF, JPEG 2000 and DICOM: their own channels and depth, upright."""

import sys
import warnings
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from smalti.errors import BadImageError
from smalti.images.decode import decode

from .conftest import encoded, smooth

DEEP = np.random.default_rng(0).integers(0, 1024, (40, 60, 3)).astype(np.uint16)  # 10 bits


def heic(image: np.ndarray, **options: object) -> bytes:
    buffer = BytesIO()
    pillow_heif.from_pillow(Image.fromarray(image)).save(buffer, quality=95, chroma=444, **options)
    return buffer.getvalue()


def test_heic_keeps_its_colors_and_is_turned_once():
    image = decode(heic(smooth()))
    assert image.dtype == np.uint8
    np.testing.assert_allclose(image.astype(int), smooth().astype(int), atol=8)
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.register_heif_opener()
    turned = decode(encoded(smooth(), "HEIF", quality=95, exif=exif.tobytes()))
    assert turned.shape == (60, 40, 3)
    np.testing.assert_allclose(turned.astype(int), np.rot90(smooth(), -1).astype(int), atol=12)


def test_heic_of_ten_bits_fills_the_highest_of_sixteen():
    buffer = BytesIO()
    options = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}  # without loss
    pillow_heif.encode("RGB;16", (60, 40), (DEEP << 6).tobytes(), buffer, **options)
    image = decode(buffer.getvalue())
    assert image.dtype == np.uint16
    np.testing.assert_array_equal(image >> 6, DEEP)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth(), "AVIF", quality=100, subsampling="4:4:4", exif=exif.tobytes())
    upright = decode(encoded(smooth(), "PNG", exif=exif))
    image = decode(data)
    assert image.shape == upright.shape
    np.testing.assert_allclose(image.astype(int), upright.astype(int), atol=8)


def test_avif_keeps_ten_bits():
    image = decode(imagecodecs.avif_encode(DEEP, level=100, bitspersample=10))
    assert image.dtype == np.uint16
    np.testing.assert_allclose(image.astype(int), DEEP, atol=4)


@pytest.mark.parametrize("container", ["jp2", "j2k"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_2000_without_loss_is_exact(channels, dtype, container):
    image = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (40, 60, channels)).astype(dtype)
    data = imagecodecs.jpeg2k_encode(image, codecformat=container, level=0, reversible=True)
    np.testing.assert_array_equal(decode(data), image)
    assert decode(data).dtype == dtype


# ---- DICOM


def dicom(image: np.ndarray, bits: int, photometric: str = "MONOCHROME2", frames: int = 0) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns = image.shape[frames > 0 :][:2]
    dataset.SamplesPerPixel = 3 if photometric == "RGB" else 1
    if photometric == "RGB":
        dataset.PlanarConfiguration = 0
    if frames:
        dataset.NumberOfFrames = frames
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = image.dtype.itemsize * 8
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(image.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept, dataset.WindowCenter, dataset.WindowWidth = 2, -1024, 40, 400
    dataset.PixelData = image.tobytes()
    buffer = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [12, 16])
def test_dicom_gives_raw_values(bits, photometric):
    image = np.random.default_rng(2).integers(0, 2**bits, (30, 20)).astype(np.uint16)
    decoded = decode(dicom(image, bits, photometric))
    assert decoded.dtype == np.uint16
    np.testing.assert_array_equal(decoded, image[..., None])


def test_dicom_in_color_signed_and_of_many_frames():
    color = smooth()
    np.testing.assert_array_equal(decode(dicom(color, 8, "RGB")), color)
    signed = np.random.default_rng(3).integers(-1024, 3000, (30, 20)).astype(np.int16)
    np.testing.assert_array_equal(decode(dicom(signed, 16)), signed[..., None].astype(np.float32))
    frames = np.random.default_rng(4).integers(0, 4096, (5, 30, 20)).astype(np.uint16)
    np.testing.assert_array_equal(decode(dicom(frames, 12, frames=5)), frames[0][..., None])


def test_dicom_is_limited_and_a_cut_one_refused(monkeypatch):
    data = dicom(np.zeros((30, 20), np.uint16), 12)
    with pytest.raises(BadImageError, match="DICOM"):
        decode(data[:-100])
    monkeypatch.setenv("SMALTI_MAX_PIXELS", "599")
    with pytest.raises(BadImageError, match="claims 20 x 30 pixels"):
        decode(data)


def test_without_pydicom_the_reason_names_the_extra(monkeypatch):
    data = dicom(np.zeros((30, 20), np.uint16), 12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImageError, match=r"install smalti\[dicom\]"):
        decode(data)
