"""The command line in processes that can be killed; forked where all is imported already, they start at once."""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pytest", "smalti.api", "smalti.cli"])


def start(
    arguments: list[str],
    log: Path,
    before: Callable[[], None] | None = None,
    rank: int = 0,
    world: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Begin `smalti ARGUMENTS` in a process of its own.

    Args:
        arguments: of the command line.
        log: takes what it prints.
        before: called in that process before the command.
        rank: among the processes of `world`.
        world: what torchrun would put into the environment of all of them; None for a process alone.
    """
    process = _CONTEXT.Process(target=_run, args=(arguments, log, before, rank, world))
    process.start()
    return process


def world_of(count: int) -> dict[str, str]:
    """The environment in which `count` processes find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    size = str(count)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    return {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, **place}


def wait(process: BaseProcess, timeout: float = 120.0) -> int:
    """Its exit code, negative for a signal; a process that hangs is killed and fails the test."""
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{process.name} did not end within {timeout} s")
    return process.exitcode


def _run(
    arguments: list[str], log: Path, before: Callable[[], None] | None, rank: int, world: Mapping[str, str] | None
) -> None:
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # runs are compared bit for bit
    import torch

    from smalti import cli

    if world is not None:
        os.environ.update(world, RANK=str(rank), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as where nothing else is set
    if before is not None:
        before()
    sys.exit(cli.main(arguments))


def write_late() -> None:
    """Have this process write its first encoder a second late."""
    from smalti import api

    write = api.save_encoder

    def writing(*args: Any) -> Path:
        time.sleep(1)
        return write(*args)

    api.save_encoder = writing


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_after_lines(count: int, seconds: float) -> None:
    """Have this process killed some time after its `count`-th line of metrics, wherever it then is."""
    from smalti.runs import RunFolder

    log, lines = RunFolder.log, 0

    def counting(*args: Any) -> None:
        nonlocal lines
        log(*args)
        lines += 1
        if lines == count:
            threading.Timer(seconds, die).start()

    RunFolder.log = counting  # type: ignore[method-assign]


def die_writing_checkpoint(count: int) -> None:
    """Have this process killed when half of its `count`-th checkpoint is on the disk."""
    import torch

    save, saved = torch.save, 0

    def dying(state: Any, path: Path) -> None:
        nonlocal saved
        saved += 1
        if saved < count:
            return save(state, path)
        save(state, buffer := BytesIO())
        path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
        return die()

    torch.save = dying
