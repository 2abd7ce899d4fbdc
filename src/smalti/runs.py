"""The run folder: what a run leaves behind, and that it is never half written.

recipe.json  metrics.jsonl  views.png  checkpoints/last.ckpt  encoder.safetensors  encoder.json  skipped.txt
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from smalti.errors import UserError
from smalti.files import atomic, writing

# What others may leave in a folder without its being theirs.
_HARMLESS = {"checkpoints", "views.png", "skipped.txt", ".lock", "tensorboard", "wandb"}
_PRINTED = ("*.log", "*.out", "*.err")  # where a shell or a scheduler writes what the run prints
_MAY_CHANGE = "max_bad_fraction "  # of a recipe, between two parts of a run
_TEMPORARY = (".encoder.*", ".metrics.*", ".recipe.*", ".views.*", "checkpoints/.last.*", "checkpoints/.previous.*")


class RunFolder:
    """Paths of a run, and its metrics.

    Args:
        path: of the folder; made when missing.
    """

    PREVIOUS = "previous.ckpt"

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"run folder {path}", "a folder that can be written", error.strerror or str(error)
            ) from None

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def previous_checkpoint(self) -> Path:
        return self.path / "checkpoints" / self.PREVIOUS

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Within, no other process may use the folder; the system opens the lock of one that has died.

        Raises:
            UserError: another process is using it.
        """
        lock = filelock.FileLock(self.path / ".lock", timeout=0)
        with writing(self.path):
            try:
                lock.acquire()
            except filelock.Timeout:
                raise UserError(
                    f"run folder {self.path}, which another run is writing", "one run a folder", "give another --out"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def began(self) -> dict[str, Any]:
        """What was said of the images when the run began; empty where there is no run.

        Raises:
            UserError: recipe.json is damaged.
        """
        path = self.path / "recipe.json"
        data = self._read_recipe(path).get("data") if path.exists() else {}
        return data if isinstance(data, dict) else {}

    def begin(self, recipe: str, describe: Callable[[], dict[str, Any]], resume: bool) -> None:
        """Write what the run is, or prove that what is there has the same recipe.

        Args:
            recipe: as JSON.
            describe: says what the images are, of JSON types.
            resume: continue what is there, or begin if nothing is.

        Raises:
            UserError: a run is there and is not to be resumed, or it is another one; or files of something else are.
        """
        asked = json.loads(recipe)
        path = self.path / "recipe.json"
        if path.exists():
            self._check_same(self._read_recipe(path).get("recipe"), asked, resume)
            return
        foreign = sorted({each.name for each in self.path.iterdir()} - _HARMLESS)
        foreign += [each.name for each in (self.checkpoint, self.previous_checkpoint) if each.exists()]
        foreign = [name for name in foreign if not any(Path(name).match(each) for each in (*_TEMPORARY, *_PRINTED))]
        if foreign:
            raise UserError(
                f"folder {self.path} with {', '.join(foreign[:3])} but without recipe.json",
                "an empty folder or a run's",
                "give another --out" + (", or put recipe.json back" if "last.ckpt" in foreign else ""),
            )
        with atomic(path) as temporary:
            temporary.write_text(json.dumps({"recipe": asked, "data": describe()}, indent=2) + "\n")

    def _read_recipe(self, path: Path) -> dict[str, Any]:
        try:
            content = json.loads(path.read_text())
        except (ValueError, RecursionError) as error:
            content = error
        if not isinstance(content, dict):
            raise UserError(
                f"{path}, which is damaged", "the JSON that a run begins with", "restore it, or give another --out"
            )
        return content

    def _check_same(self, there: Any, asked: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UserError(
                f"run folder {self.path}, which holds a run", "an empty folder", "add --resume, or give another --out"
            )
        differing = sorted(name for name in _differences(there, asked) if not name.startswith(_MAY_CHANGE))
        if differing:
            raise UserError(
                f"other settings than the run in {self.path} began with ({', '.join(differing[:4])})",
                "the same recipe",
                "give the same flags, or another --out",
            )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def tidy(self, step: int) -> None:
        """Drop what a killed run leaves: half-written files, and lines logged after `step` steps, to be made again.

        Damaged lines of metrics.jsonl go to metrics.damaged.txt.
        """
        for pattern in _TEMPORARY:
            for half_written in self.path.glob(pattern):
                half_written.unlink()
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_bytes().splitlines(keepends=True)
        steps = [_step(line) for line in lines]
        damaged = [line for line, at in zip(lines, steps, strict=True) if at is None]
        if damaged[:1] == lines[-1:] and not lines[-1].endswith(b"\n"):
            damaged = damaged[1:]  # half a line is what any killed run leaves
        if damaged:
            with (self.path / "metrics.damaged.txt").open("ab") as file:
                file.writelines(damaged)
        with atomic(path) as temporary:
            kept = (line for line, at in zip(lines, steps, strict=True) if at is not None and at <= step)
            temporary.write_bytes(b"".join(line.rstrip(b"\n") + b"\n" for line in kept))

    def metrics(self) -> list[dict[str, float]]:
        """Every logged line, without damaged ones."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if _step(line) is not None]


def _step(line: bytes) -> float | None:
    """Of a line of metrics; None for a damaged one."""
    try:
        values = json.loads(line)
        whole = all(isinstance(value, int | float) for value in values.values())
        return values["step"] if whole else None
    except (ValueError, AttributeError, KeyError, RecursionError):
        return None


def _differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in there.keys() | asked.keys():
            yield from _differences(there.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif there != asked:
        yield f"{name} {there!r} -> {asked!r}"
