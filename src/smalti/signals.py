"""Signals that end a run: Ctrl-C, and those by which schedulers stop or pre-empt one.

| signal  | from                                       | exit code |
|---------|--------------------------------------------|-----------|
| SIGINT  | Ctrl-C                                     | 130       |
| SIGTERM | kill, docker, Kubernetes, SLURM            | 143       |
| SIGUSR1 | SLURM with --signal=USR1@SECONDS           | 138       |
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A signal ended what was going on.

    Args:
        number: of the signal.
        after: what had been done by then, and how to continue; "" if there is nothing to say.
    """

    def __init__(self, number: int, after: str = "") -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}{after}")


@contextmanager
def raised() -> Iterator[None]:
    """Within, a signal that ends a run raises `Stopped` wherever the main thread then is."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    with _handled_by(stop):
        yield


class Request:
    """Whether a signal has asked for an end: its number, or 0."""

    number = 0


@contextmanager
def noted() -> Iterator[Request]:
    """Within, the first such signal is noted, so that a step can be finished; a second one raises `Stopped`."""
    request = Request()

    def note(number: int, frame: FrameType | None) -> None:
        if request.number:
            raise Stopped(number)
        request.number = number

    with _handled_by(note):
        yield request


def left_to_the_main_process() -> None:
    """For a loader's workers: what a whole group of processes is sent does not end them before the main process.

    SIGTERM does so the second time, since it is also how the main process ends them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread set handlers
        return
    before = {number: signal.signal(number, handler) for number in _ENDING}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
