"""TIFF: any number of channels and any depth, chunky or planar, first page of a stack."""

from io import BytesIO

import numpy as np
import tifffile
from PIL import TiffImagePlugin

from smalti.images.decoders import decode_deep, decode_with
from smalti.images.layout import check_size, upright

_PLAIN = (tifffile.PHOTOMETRIC.MINISWHITE, tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
_MOST_CHANNELS_OF_A_THIN_PAGE = 16


def decode_tiff(data: bytes) -> np.ndarray:
    """Decode a TIFF with its own channels and depth, upright by its orientation tag.

    A stack of pages gives its first page, unless the file says that the pages are channels (ImageJ, OME), or the
    pages are the rows of an (H, W, C) array that was written without saying so.

    Returns:
        (H, W) or (H, W, C), the file's own type.
    """
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages.first
        check_size(page.imagelength, page.imagewidth)
        if page.photometric not in _PLAIN:  # palettes, print inks, YCbCr: colors that need converting
            return decode_with(TiffImagePlugin.TiffImageFile, data)
        try:
            image = _channels_last(file)
        except (KeyError, ValueError, ModuleNotFoundError) as error:
            if "imagecodecs" not in str(error):
                raise
            return decode_deep(data)  # LZW and other codecs that tifffile does not bring along
        whole_numbers = image.dtype == bool or image.dtype.kind == "u"
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and whole_numbers:
            image = np.invert(image)
        return upright(image, page.tags.valueof("Orientation", 1))


def _channels_last(file: tifffile.TiffFile) -> np.ndarray:
    """Pixels of the first image, (H, W) or (H, W, C)."""
    series = file.series[0]
    if series.axes in ("CYX", "SYX"):
        return np.moveaxis(series.asarray(), 0, -1)
    if series.axes == "QYX" and series.shape[2] <= _MOST_CHANNELS_OF_A_THIN_PAGE < series.shape[0]:
        return series.asarray()
    page = file.pages.first
    image = page.asarray()
    return np.moveaxis(image, 0, -1) if page.axes == "SYX" else image
