"""Functions run in several processes that talk to each other."""

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

# Processes are forked from a fresh one that has imported what takes long, so they start at once and share no state.
_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["smalti.methods.moco", "smalti.views.loader"])


def run_in_processes(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 300.0) -> list[Any]:
    """Call `function(*args)` in processes that form a gloo group; what each returned, in order of rank.

    Nothing outlives the timeout, seconds: a group that waits for a lost member is ended and raises.
    """
    with TemporaryDirectory() as folder:
        run = partial(_run, function, args, world_size, Path(folder), timeout)
        processes = [_CONTEXT.Process(target=run, args=(rank,), daemon=True) for rank in range(world_size)]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.join(timeout)
        finally:
            for process in processes:
                process.kill()
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise RuntimeError(f"processes of {function.__name__} ended with {codes}; their errors stand above")
        return [torch.load(Path(folder) / str(rank), weights_only=False) for rank in range(world_size)]


def _run(function: Callable[..., Any], args: Any, world_size: int, folder: Path, timeout: float, rank: int) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # gloo, and layers for the CPU
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout))
    try:
        torch.save(function(*args), folder / str(rank))
    finally:
        dist.destroy_process_group()
