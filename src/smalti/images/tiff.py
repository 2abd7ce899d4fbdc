"""TIFF: every compression, any channels and depth, strips or tiles, chunky or planar, by tifffile and imagecodecs."""

import logging
import math
import re
from collections.abc import Callable, Sequence
from io import BytesIO

import imagecodecs
import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from smalti.errors import BadImageError
from smalti.images.decoders import check_png, check_webp
from smalti.images.jpeg import check_jpeg
from smalti.images.layout import check_size, inks_to_rgb, max_pixels, upright
from smalti.images.phones import check_jpeg2000

_PLAIN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB)
_JPEG = (COMPRESSION.JPEG, COMPRESSION.JPEG_2000_LOSSY, 33007)
_CHECKS: dict[int, Callable[[bytes], object]] = {
    **dict.fromkeys(_JPEG, check_jpeg),
    **dict.fromkeys((34712, 33003, 33004, 33005), check_jpeg2000),  # the first is Leica's, the others Aperio's
    COMPRESSION.WEBP: check_webp,
    COMPRESSION.PNG: check_png,
}
_MOST_CHANNELS_OF_A_THIN_PAGE = 16
_MOST_PAGES = 2**14  # of a stack that has to be read for its axes
_MOST_SHAPED_PAGES = 2**12  # written by tifffile: each may begin a stack of its own, which takes a millisecond
_LEAST_SEGMENT = 2**10  # pixels of a strip or tile, on the average, of an image of the most pixels
_Page = tifffile.TiffPage | tifffile.TiffFrame
_KEPT_AXES = "YXCS"  # height, width, channels, samples of a pixel; of time, depth and all others the first

# Without a handler of its own a logger writes to stderr, where nobody could tell the file.
for _name in ("tifffile", "imagecodecs"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


def decode_tiff(data: bytes) -> np.ndarray:
    """Decode a TIFF with its own channels and depth, upright by its orientation tag.

    Of a stack of pages the first is decoded, unless the file says that pages are channels (ImageJ, OME, tifffile), or
    the pages are the rows of an (H, W, C) array that was written without saying so. Palettes and four inks become RGB,
    white-is-zero is inverted where values are unsigned, 2 to 7 bits are scaled to 8; all other values stay.

    Returns:
        (H, W) or (H, W, C), the file's own type.

    Raises:
        BadImageError: colors that no rule here covers, or strips or tiles that are missing, cut or overlong.
    """
    with tifffile.TiffFile(BytesIO(data), _multifile=False) as file:
        page = file.pages.first
        if page.is_reduced:
            raise BadImageError("TIFF whose first page is a thumbnail; save the image alone")
        _check_colors(page)
        image = _pixels(file, data)
        return upright(_plain_colors(image, page), page.tags.valueof("Orientation", 1))


def _check_colors(page: tifffile.TiffPage) -> None:
    name = getattr(page.photometric, "name", page.photometric)
    decoded_by_jpeg = page.photometric == PHOTOMETRIC.YCBCR and page.compression in _JPEG
    four_inks = page.photometric == PHOTOMETRIC.SEPARATED and page.samplesperpixel == 4 and page.bitspersample == 8
    palette = page.photometric == PHOTOMETRIC.PALETTE and page.samplesperpixel == 1 and page.colormap is not None
    if not (page.photometric in _PLAIN or decoded_by_jpeg or four_inks or palette):
        raise BadImageError(f"TIFF in colors that cannot be read ({name}); save it as RGB or gray")
    if not isinstance(page.bitspersample, int):
        raise BadImageError(f"TIFF whose channels differ in depth ({page.bitspersample} bits); save it with one depth")


def _plain_colors(image: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """Pixels (H, W, C) as stored to gray, RGB or bands."""
    bits = page.bitspersample
    if page.photometric == PHOTOMETRIC.PALETTE:
        colors = np.asarray(page.colormap)  # (3, 2^bits), of 16 bits by the book, of 8 by some programs
        return (colors if colors.max() < 256 else colors >> 8).astype(np.uint8).T[image[..., 0]]
    if page.photometric == PHOTOMETRIC.SEPARATED:
        return inks_to_rgb(~image)
    if image.dtype == bool:
        return ~image if page.photometric == PHOTOMETRIC.MINISWHITE else image
    if image.dtype.kind == "u":
        if page.photometric == PHOTOMETRIC.MINISWHITE:
            image = image.dtype.type(2**bits - 1) - image
        if bits < 8:
            image = (image.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    return image


def _pixels(file: tifffile.TiffFile, data: bytes) -> np.ndarray:
    """Pixels of the first image, (H, W, C), as stored."""
    page = file.pages.first
    if page.dtype is None:
        raise BadImageError(f"TIFF of {page.bitspersample} bits, which cannot be read")
    pages: Sequence[_Page | None] = [page]
    shape, axes = page.shape, page.axes
    if file.is_ome or file.is_imagej or file.is_shaped:
        series = _first_series(file)
        shape, axes = series.shape, series.axes
        if axes == "QYX" and shape[2] <= _MOST_CHANNELS_OF_A_THIN_PAGE < shape[0]:
            axes = "YXC"
        if series.dataoffset is not None:
            _check_shape(shape, axes, page)
            first = np.frombuffer(data, file.byteorder + page.dtype.char, math.prod(shape), series.dataoffset)
            return _channels_last(first.reshape(shape), axes)
        pages = series.pages
    _check_shape(shape, axes, page)
    count = math.prod(shape) // math.prod(page.shape)
    stacked = next(at for at in range(len(shape) + 1) if math.prod(shape[:at]) == count)
    wanted = np.arange(count).reshape(shape[:stacked])
    kept = [axis in _KEPT_AXES for axis in axes]
    wanted = wanted[tuple(slice(None) if keep else slice(1) for keep in kept[:stacked])]
    decoded = np.stack([_decode_page(pages[int(number)], data) for number in wanted.ravel()])
    return _channels_last(decoded.reshape(*wanted.shape, *shape[stacked:]), axes)


def _first_series(file: tifffile.TiffFile) -> tifffile.TiffPageSeries:
    """What a description says of all pages together; a number out of all proportion in it would take all memory."""
    description = file.pages.first.description
    sizes = [int(number) for number in re.findall(r'(?:Size[ZCT]|IFD|Count|NumPlanes|First[ZCT])="(\d+)"', description)]
    if math.prod(max(size, 1) for size in sizes[:3]) > _MOST_PAGES or max(sizes, default=0) > _MOST_PAGES:
        raise BadImageError(f"TIFF of more than {_MOST_PAGES} pages; split it")
    if len(file.pages) > (_MOST_SHAPED_PAGES if file.is_shaped else _MOST_PAGES):
        raise BadImageError(f"TIFF of {len(file.pages)} pages; split it")
    return file.series[0]


def _check_shape(shape: tuple[int, ...], axes: str, page: tifffile.TiffPage) -> None:
    size = dict(zip(axes, shape, strict=True))
    if "Y" not in size or "X" not in size:
        raise BadImageError(f"TIFF with axes {axes}, without height and width")
    itemsize = page.dtype.itemsize if page.dtype else 1
    check_size(size["Y"], size["X"], size.get("C", 1) * size.get("S", 1) * itemsize)
    if page.is_tiled:
        check_size(page.tilelength * page.tiledepth, page.tilewidth, page.samplesperpixel * itemsize)
    if len(page.dataoffsets) * _LEAST_SEGMENT > max_pixels():
        raise BadImageError(f"TIFF of {len(page.dataoffsets)} strips or tiles, too many to decode")


def _channels_last(image: np.ndarray, axes: str) -> np.ndarray:
    """The first of every axis that is not kept; all kinds of channels become one, (H, W, C)."""
    image = image[tuple(slice(None) if axis in _KEPT_AXES else 0 for axis in axes)]
    kept = [axis for axis in axes if axis in _KEPT_AXES]
    image = image.transpose(sorted(range(len(kept)), key=lambda at: _KEPT_AXES.index(kept[at])))
    return image.reshape(*image.shape[:2], -1)


def _decode_page(page: _Page | None, data: bytes) -> np.ndarray:
    if page is None:
        raise BadImageError("TIFF that lacks one of its channels")
    _check_segments(page, data)
    return page.asarray(maxworkers=1)


def _check_segments(page: _Page, data: bytes) -> None:
    """Refuse what tifffile would fill up or cut off: missing strips or tiles, and streams that hold too much."""
    keyframe = page.keyframe
    assert keyframe is not None
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    if any(not count or not offset for offset, count in segments):
        raise BadImageError("TIFF that lacks some of its strips or tiles")
    if any(offset + count > len(data) for offset, count in segments):
        raise BadImageError("truncated TIFF")
    if keyframe.compression == COMPRESSION.LZW and keyframe.fillorder == 1:
        for offset, count in segments[:-1]:  # some programs pad the last strip
            _check_lzw(data[offset : offset + count], keyframe)
    elif keyframe.compression in _CHECKS and (keyframe.compression not in _JPEG or keyframe.bitspersample == 8):
        tables = keyframe.jpegtables
        for offset, count in segments:
            coded = data[offset : offset + count]
            # Tables of all segments go before the segment, without the markers of end and start between the two.
            _CHECKS[keyframe.compression](tables[:-2] + coded[2:] if tables else coded)


def _check_lzw(coded: bytes, page: tifffile.TiffPage) -> None:
    rows, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1
    size = rows * math.ceil(width * samples * page.bitspersample / 8)
    if len(imagecodecs.lzw_decode(coded, out=size + 1)) > size:
        raise BadImageError("damaged TIFF (a strip or tile decodes to too many pixels)")
