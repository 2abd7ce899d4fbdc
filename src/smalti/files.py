"""Files that are never seen half written."""

import lzma
import os
import struct
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smalti.errors import UserError

# What zipfile and its decompressors raise for an archive that is damaged, a checkpoint or an .npz.
DAMAGED_ZIP: tuple[type[Exception], ...] = (
    *(OSError, ValueError, KeyError, IndexError, EOFError, RuntimeError, AttributeError, TypeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to, which takes its name at once when the block ends well.

    Whatever happens inside the block, `path` is the old file or the whole new one, never a part. The suffix is kept,
    since some writers choose the format by it; the new file has the mode that the user's umask gives.

    Raises:
        UserError: the file could not be written: no space, no permission, no folder any more.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        with writing(path):
            temporary.touch()
            mode = temporary.stat().st_mode
        yield temporary
        with writing(path), temporary.open("rb+") as written:
            os.fsync(written.fileno())
            os.chmod(temporary, mode)  # some writers make a file of their own that nobody else may read
            temporary.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Within, what the system has against writing to a path becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise _not_written(path, error) from error


def _not_written(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"{path}, which could not be written ({error.strerror or error})",
        "a folder that can be written, on a disk with space",
        "free some space or change the permissions, or write elsewhere",
    )
