"""Stages of a long measurement that may be cut off: what is finished is kept, and the time limit is obeyed."""

import json
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import machine
from smalti.files import atomic


class BudgetSpent(Exception):  # noqa: N818 - an end, not an error
    """The time limit is near."""


class Stages:
    """Runs stages that are not in the results yet, each saved as soon as it ends.

    Args:
        path: of the results, JSON.
        earlier: results of an earlier call to continue, where `path` is not there yet; or None.
        budget_seconds: from now on; a stage that does not end within it is stopped and not saved.
    """

    def __init__(self, path: Path, earlier: Path | None, budget_seconds: float) -> None:
        self._path = path
        found = next((file for file in (path, earlier) if file and file.exists()), None)
        self.results: dict[str, Any] = json.loads(found.read_text()) if found else {}
        self._end = time.monotonic() + budget_seconds

    def run(self, name: str, work: Callable[[], Any]) -> None:
        """Do the work of a stage unless it is done; an error is noted, and the stage tried again next time.

        Raises:
            BudgetSpent: the limit came first.
        """
        if name in self.results:
            print(f"{name}: done before", flush=True)
            return
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        errors = self.results.setdefault("errors", {})
        try:
            with self._limit():
                result = work()
        except BudgetSpent:
            raise
        except Exception as error:
            traceback.print_exc()
            errors[name] = f"{type(error).__name__}: {error}"
        else:
            errors.pop(name, None)
            self.results[name] = {"seconds": round(time.monotonic() - start, 1), "machine": machine(), **result}
            print(f"{name}: {json.dumps(result)}", flush=True)
        self.save()

    def save(self) -> None:
        """Write the results; the file appears whole or not at all."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(self._path) as temporary:
            temporary.write_text(json.dumps(self.results, indent=2) + "\n")

    @contextmanager
    def _limit(self) -> Iterator[None]:
        left = self._end - time.monotonic()
        if left <= 1:
            raise BudgetSpent

        def stop(_signal: int, _frame: Any) -> None:
            raise BudgetSpent

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, left)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
