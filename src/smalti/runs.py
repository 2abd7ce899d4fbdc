"""The run folder: what a run leaves behind, and that it is never half written.

recipe.json  metrics.jsonl  views.png  checkpoints/last.ckpt  encoder.safetensors  encoder.json  skipped.txt
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from smalti.errors import UserError
from smalti.files import atomic


class RunFolder:
    """Paths of a run, and its metrics.

    Args:
        path: of the folder; made when missing.
    """

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

    def begin(self, recipe: str, data: dict[str, Any], resume: bool) -> None:
        """Write what the run is, or prove that what is there is the same run.

        Args:
            recipe: as JSON.
            data: what the images are: their number and a digest of their names.
            resume: continue what is there, or begin if nothing is.

        Raises:
            UserError: a run is there and is not to be resumed, or it is another one.
        """
        described = {"recipe": json.loads(recipe), "data": data}
        path = self.path / "recipe.json"
        if path.exists():
            self._check_same(json.loads(path.read_text()), described, resume)
            return
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(described, indent=2) + "\n")

    def _check_same(self, there: dict[str, Any], asked: dict[str, Any], resume: bool) -> None:
        if not resume:
            raise UserError(
                f"run folder {self.path}, which holds a run", "an empty folder", "add --resume, or give another --out"
            )
        differing = sorted(_differences(there, asked))
        if differing:
            raise UserError(
                f"other settings than the run in {self.path} began with ({', '.join(differing[:4])})",
                "the same recipe and images",
                "give the same flags, or another --out",
            )

    def log(self, step: int, values: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def tidy(self, step: int) -> None:
        """Drop what a killed run leaves: half a checkpoint, and lines logged after `step` steps, to be made again."""
        for half_written in self.checkpoint.parent.glob(f".{self.checkpoint.stem}.*"):
            half_written.unlink()
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in path.read_text().splitlines() if line.endswith("}") and _step(line) <= step]
            with atomic(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept))

    def metrics(self) -> list[dict[str, float]]:
        """Every logged line."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _step(line: str) -> float:
    return json.loads(line)["step"]


def _differences(there: Any, asked: Any, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(asked, dict):
        for key in there.keys() | asked.keys():
            yield from _differences(there.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif there != asked:
        yield f"{name} {there!r} -> {asked!r}"
