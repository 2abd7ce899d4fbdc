"""The list of files that could not be used: each is named once, and too many of them stop the run."""

import os
from collections.abc import Iterable
from pathlib import Path

from smalti.errors import UserError
from smalti.files import writing
from smalti.text import printable

_FLOOR = 10


class BadFiles:
    """Counts bad files, writes them to `skipped.txt`, and stops the run when there are too many.

    At most `max(max_fraction * total, min(10, total / 2))` files may be bad: a small folder with a handful of
    broken files still trains, whatever the fraction. Files of an earlier run in the same folder are read back and
    count, but only a new one can stop the run.

    Args:
        folder: where `skipped.txt` is kept, a line "name<TAB>reason" for each; None keeps no file.
        total: how many files there are.
        max_fraction: the share of them that may be bad, 0 to 1.
        writes: whether this process writes to the file; of several processes of one run, one does.

    Raises:
        UserError: `max_fraction` is outside 0 to 1.
    """

    def __init__(self, folder: Path | None, total: int, max_fraction: float = 0.01, writes: bool = True) -> None:
        if not 0 <= max_fraction <= 1:
            raise UserError(f"a bad fraction of {max_fraction}", "a number from 0 to 1", "correct --max-bad-fraction")
        self.limit = max(max_fraction * total, min(_FLOOR, total / 2))
        self._total = total
        self._file = None if folder is None else Path(folder) / "skipped.txt"
        self._writes = writes
        self._reasons = self._read_back()

    @property
    def names(self) -> tuple[str, ...]:
        """The bad files in the order in which they were found."""
        return tuple(self._reasons)

    @property
    def count(self) -> int:
        """How many different files are bad."""
        return len(self._reasons)

    def record(self, name: str, reason: str) -> None:
        """Note one bad file; noting it again changes nothing.

        Raises:
            UserError: there are now more bad files than the limit.
        """
        name, reason = printable(name), printable(reason)  # a name may hold what ends a line
        if name in self._reasons:
            return
        self._reasons[name] = reason
        if self._file is not None and self._writes:
            with writing(self._file), self._file.open("a", encoding="utf-8") as lines:
                lines.write(f"{name}\t{reason}\n")
        if self.count > self.limit:
            raise self._too_many()

    def merge(self, records: Iterable[tuple[str, str]]) -> None:
        """Note many bad files, pairs of name and reason, as `record` does."""
        for name, reason in records:
            self.record(name, reason)

    def _read_back(self) -> dict[str, str]:
        if self._file is None or not self._file.exists():
            return {}
        with self._file.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            fields = (line.rstrip("\n").partition("\t") for line in lines if line.strip())
            return {name: reason for name, _, reason in fields}

    def _too_many(self) -> UserError:
        first = "; ".join(f"{name}: {reason}" for name, reason in list(self._reasons.items())[:3])
        listed = "named here" if self._file is None else f"listed in {os.fspath(self._file)}"
        return UserError(
            f"{self.count} bad files of {self._total} ({first})",
            f"at most {int(self.limit)}",
            f"repair or remove the files {listed}, or raise --max-bad-fraction",
        )
