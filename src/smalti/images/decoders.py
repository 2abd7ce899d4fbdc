"""PNG, WebP, PPM and NumPy's .npy: sizes first, the file's own channels and depth, damage refused.

PNG and WebP go to imagecodecs: libpng checks every checksum of the pixels, keeps 16 bits and gray with alpha, and is as
fast as Pillow or faster.
"""

import struct
from io import BytesIO

import imagecodecs
import numpy as np
from PIL import PpmImagePlugin

from smalti.errors import BadImageError
from smalti.images.exif import exif_orientation
from smalti.images.layout import check_size, upright
from smalti.images.pillow import decode_with

_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_MOST_PPM_HEADER = 2**16  # bytes: spaces and comments without end would be read one by one
_PPM_CHANNELS = {b"P5": 1, b"P6": 3}
_HOLE = 512  # bytes


def check_no_hole(coded: bytes, name: str, least: int = _HOLE) -> None:
    """Refuse entropy-coded data with a hole, a block that was never written: codes of pixels have no such zeros.

    The decoders of WebP, HEIC, AVIF and JPEG 2000 make pixels of anything and say nothing.

    Raises:
        BadImageError: `least` bytes of zeros in a row.
    """
    if bytes(least) in coded:
        raise BadImageError(f"damaged {name} (a block of zeros among the pixels)")


def decode_png(data: bytes) -> np.ndarray:
    """Decode a PNG, upright by its EXIF orientation; a palette becomes RGB, or RGBA when it is transparent.

    Returns:
        (H, W) or (H, W, C), uint8 or uint16.
    """
    orientation = check_png(data)
    return upright(imagecodecs.png_decode(data), orientation)


def check_png(data: bytes) -> int:
    """Refuse a PNG that is too large or cut; the orientation of others."""
    chunks = _png_chunks(data)
    width, height, depth, color_type = struct.unpack_from(">IIBB", chunks[b"IHDR"])
    check_size(height, width, _PNG_CHANNELS.get(color_type, 4) * depth // 8)
    return exif_orientation(chunks.get(b"eXIf", b""))


def _png_chunks(data: bytes) -> dict[bytes, bytes]:
    """The content of IHDR and eXIf; all chunks up to the last have to be there."""
    kept = {}
    at, kind = 8, b""
    while kind != b"IEND":
        if len(data) < at + 12:
            raise BadImageError("truncated PNG")
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha():
            raise BadImageError("damaged PNG (bytes that are no chunk)")
        if kind in (b"IHDR", b"eXIf"):
            kept[kind] = data[at + 8 : at + 8 + length]
        at += 12 + length
    if len(data) < at:
        raise BadImageError("truncated PNG")
    return kept


def decode_webp(data: bytes) -> np.ndarray:
    """Decode a WebP, the first frame of an animation, upright by its EXIF orientation.

    Returns:
        (H, W, 3), or (H, W, 4) when it is transparent, uint8.
    """
    orientation = check_webp(data)
    return upright(imagecodecs.webp_decode(data), orientation)


def check_webp(data: bytes) -> int:
    """Refuse a WebP that is too large, cut, or has a hole, the only damage to be seen; the orientation of others."""
    orientation = 1
    for kind, content in _riff_chunks(data):
        if kind == b"VP8X":
            check_size(int.from_bytes(content[7:10], "little") + 1, int.from_bytes(content[4:7], "little") + 1)
        elif kind == b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 6))
            check_size(height, width)
            # Of a flat picture all is zeros: a fifth of a bit for each block of 16 x 16 pixels. Allow for twice that.
            check_no_hole(content, "WebP", max(_HOLE, height * width // 16**2 // 20))
        elif kind == b"VP8L":
            bits = int.from_bytes(content[1:5], "little")
            check_size((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
            check_no_hole(content, "WebP")
        elif kind == b"EXIF":
            orientation = exif_orientation(content)
    return orientation


def _riff_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of every chunk; those of an animation's frames, too."""
    chunks = []
    at, end = 12, min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if kind == b"ANMF":  # 16 bytes about the frame, then its own chunks
            at += 24
            continue
        if at + 8 + length > len(data):
            raise BadImageError("truncated WebP")
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if not chunks:
        raise BadImageError("truncated WebP")
    return chunks


def decode_ppm(data: bytes) -> np.ndarray:
    """Decode a PPM, PGM or PBM. 16-bit values stay as they are, 8-bit ones are scaled to 0...255.

    Returns:
        (H, W) or (H, W, 3), uint8 or uint16.
    """
    with PpmImagePlugin.PpmImageFile(BytesIO(data[:_MOST_PPM_HEADER])) as header:
        height, width = header.height, header.width
        _, _, start, args = header.tile[0]
    deep = args == "I;16B" or (isinstance(args, tuple) and int(args[1]) > 255)  # else (mode, greatest value)
    if not deep:
        return decode_with(PpmImagePlugin.PpmImageFile, data)
    if data[1:2] in b"23":
        raise BadImageError("PPM of 16 bits in plain text, which cannot be read; save it as binary")
    channels = _PPM_CHANNELS[data[:2]]
    check_size(height, width, 2 * channels)
    return np.frombuffer(data, ">u2", height * width * channels, start).reshape(height, width, channels)


def decode_npy(data: bytes) -> np.ndarray:
    """Read an array that `numpy.save` wrote, with the type and axes that it has; objects are refused."""
    return np.load(BytesIO(data), allow_pickle=False)
