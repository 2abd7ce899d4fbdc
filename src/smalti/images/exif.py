"""How the camera was held, out of an EXIF block: read by hand, since only one number of it is wanted."""

import struct

_ORIENTATION, _SHORT = 0x0112, 3


def exif_orientation(exif: bytes) -> int:
    """The orientation in an EXIF block.

    Args:
        exif: the block, with or without the "Exif\\0\\0" before it, and with anything behind it.

    Returns:
        1 to 8 as EXIF defines them; 1 where the block is damaged or does not say, as viewers take it.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, type_ = struct.unpack_from(f"{order}HH", tiff, at)
            if tag == _ORIENTATION:
                return int(struct.unpack_from(f"{order}{'H' if type_ == _SHORT else 'I'}", tiff, at + 8)[0])
    except struct.error:
        pass
    return 1
