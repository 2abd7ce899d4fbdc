"""The formats of phones and their relatives: HEIC by pillow-heif (libheif), AVIF and JPEG 2000 by imagecodecs.

All three keep 10 to 16 bits a channel. Their decoders say little of damage: what is refused is a broken structure, a
cut file, and a hole.
"""

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pillow_heif
from PIL import AvifImagePlugin

from smalti.errors import BadImageError
from smalti.images.decoders import check_no_hole
from smalti.images.exif import exif_orientation
from smalti.images.layout import check_size, upright

_DEEP = 8  # bytes a pixel of four channels of 16 bits
_START_OF_CODESTREAM, _START_OF_DATA, _END_OF_CODESTREAM = b"\xff\x4f\xff\x51", b"\xff\x93", b"\xff\xd9"


def decode_heic(data: bytes) -> np.ndarray:
    """Decode the main image of a HEIC, turned as its own boxes say (its EXIF repeats that).

    Returns:
        (H, W, 3) or (H, W, 4): uint8, or uint16 of which 10 or 12 bits carry the image, the highest ones.
    """
    opened = pillow_heif.open_heif(data, convert_hdr_to_8bit=False)
    check_size(opened.size[1], opened.size[0], 4 if opened.mode in ("L", "RGB", "RGBA") else _DEEP)
    check_no_hole(_without_exif(data, opened.info.get("exif")), "HEIC")
    return np.asarray(opened)


def decode_avif(data: bytes) -> np.ndarray:
    """Decode an AVIF, the first image of a sequence.

    Returns:
        (H, W) or (H, W, C): uint8, or uint16 with the values of 10 or 12 bits.
    """
    with AvifImagePlugin.AvifImageFile(BytesIO(data)) as header:  # it reads the turn out of the boxes, as EXIF
        check_size(header.height, header.width, _DEEP)
        exif = header.info.get("exif", b"")
    check_no_hole(_without_exif(data, exif), "AVIF")
    return upright(imagecodecs.avif_decode(data, 0, numthreads=1), exif_orientation(exif))


def decode_jpeg2000(data: bytes) -> np.ndarray:
    """Decode a JPEG 2000, in a file of its own (JP2) or as a bare codestream.

    Returns:
        (H, W) or (H, W, C), uint8 or uint16.
    """
    check_jpeg2000(data)
    return imagecodecs.jpeg2k_decode(data, numthreads=1, verbose=0)


def check_jpeg2000(data: bytes) -> None:
    """Refuse a JPEG 2000 that is too large, cut, or has a hole, the only damage to be seen."""
    start = data.find(_START_OF_CODESTREAM)
    end = data.rfind(_END_OF_CODESTREAM)
    if start < 0 or end < start:
        raise BadImageError("truncated JPEG 2000")
    right, bottom, left, top = struct.unpack_from(">4I", data, start + 8)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    check_size(bottom - top, right - left, 4 * channels)  # OpenJPEG computes in 32 bits
    check_no_hole(data[data.find(_START_OF_DATA, start) : end], "JPEG 2000")


def _without_exif(data: bytes, exif: bytes | None) -> bytes:
    """The media data of the file; EXIF, which lies among them, is padded with zeros by some programs."""
    coded = data[data.find(b"mdat") :]
    return coded.replace(exif.removeprefix(b"Exif\0\0"), b"") if exif else coded
