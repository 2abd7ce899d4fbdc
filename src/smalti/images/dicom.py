"""DICOM, by pydicom, which the extra `smalti[dicom]` installs."""

import logging
from io import BytesIO

import numpy as np

from smalti.errors import BadImageError
from smalti.images.layout import check_size

logging.getLogger("pydicom").addHandler(logging.NullHandler())  # else it complains to stderr, without the file's name


def decode_dicom(data: bytes) -> np.ndarray:
    """Decode the first frame of a DICOM file: raw values as stored, neither rescaled, windowed nor inverted.

    Values are therefore not Hounsfield units, and in MONOCHROME1 the least one is the brightest.

    Returns:
        (H, W) or (H, W, 3), any integer type.

    Raises:
        BadImageError: pydicom is not installed, the file has no pixels, or too many.
    """
    try:
        import pydicom
        from pydicom.pixels import pixel_array
    except ImportError as error:
        raise BadImageError("DICOM, which needs pydicom; install smalti[dicom]") from error
    dataset = pydicom.dcmread(BytesIO(data))
    if "PixelData" not in dataset:
        raise BadImageError("DICOM without pixels")
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        raise BadImageError("DICOM in palette colors, which cannot be read; save it as RGB")
    check_size(dataset.Rows, dataset.Columns, dataset.SamplesPerPixel * dataset.BitsAllocated // 8)
    return pixel_array(dataset, index=0)
