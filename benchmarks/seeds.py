"""Runs that are scored once each and kept in one JSON, with means and deviations over their seeds."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smalti.files import atomic

Scores = dict[str, float]


def score_all(
    path: Path, about: Mapping[str, Any], jobs: Iterable[tuple[str, int]], score: Callable[[str, int], Scores]
) -> None:
    """Score every job, a name and a seed, that the file does not have, and write the file after each.

    Processes may share the work if their jobs differ.

    Args:
        path: the JSON to write, or to go on with.
        about: what stands above the runs where there is no file yet.
        jobs: what to score.
        score: trains with that seed and returns figures by name.
    """
    for name, seed in jobs:
        run = f"{name}/{seed}"
        if run not in _read(path, about)["runs"]:
            scores = score(name, seed)
            content = _read(path, about)  # again: another process may have written meanwhile
            content["runs"][run] = scores
            content["means"] = summary(content["runs"])
            with atomic(path) as temporary:
                temporary.write_text(json.dumps(content, indent=2) + "\n")


def summary(runs: Mapping[str, Scores]) -> dict[str, Any]:
    """Of runs "NAME/SEED", by name: how many there are, and mean and deviation of each figure that all of them have."""
    by_name: dict[str, list[Scores]] = {}
    for run, scores in runs.items():
        by_name.setdefault(run.rpartition("/")[0], []).append(scores)
    return {name: {"seeds": len(group)} | dict(_figures(group)) for name, group in by_name.items()}


def _figures(group: list[Scores]) -> Iterable[tuple[str, dict[str, float | None]]]:
    for figure in group[0]:
        values = [scores[figure] for scores in group if figure in scores]
        if len(values) == len(group):
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            yield figure, {"mean": float(np.mean(values)), "deviation": deviation}


def _read(path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    if path.exists():
        return json.loads(path.read_text())
    return {**about, "runs": {}}
