"""The run folder."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from smalti.errors import UserError
from smalti.runs import RunFolder


def test_what_a_killed_run_leaves_is_dropped_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2, 3):
        run.log(step, {"loss": float(step)})
    run.checkpoint.write_bytes(b"whole")
    half_written = run.checkpoint.with_name(".last.0123.ckpt")
    half_written.write_bytes(b"ha")
    (tmp_path / ".mine").write_text("kept")
    run.tidy(2)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert not half_written.exists()
    assert run.checkpoint.read_bytes() == b"whole"
    assert (tmp_path / ".mine").read_text() == "kept"


def damaged(data: bytes, seed: int) -> bytes:
    """Cut, zeroed in the middle, with a bit turned over, or with a value of another type."""
    random = np.random.default_rng(seed)
    at = int(random.integers(len(data)))
    changed = data[at : at + 1]
    ways = (
        data[:at],
        data[:at] + bytes(min(16, len(data) - at)) + data[at + 16 :],
        data[:at] + bytes([changed[0] ^ 1 << int(random.integers(8))]) + data[at + 1 :],
        data.replace(b"16", (b"null", b'"16"', b"[]", b"{}", b"1e999")[seed % 5]),
        (b"[" * 100_000, b"null", b"[]", b"3", b'"text"')[seed % 5],
    )
    return ways[seed // 5 % len(ways)]


RECIPE = json.dumps({"name": "tiny", "epochs": 16, "views": [{"class": "Crop", "size": 16}]})
IMAGES = {"name": "photos", "images": 16, "names": "ab", "sample": {"0.png": "cd"}, "pixels": {"low": 0.0}}


@pytest.mark.parametrize("seed", range(75))
def test_a_damaged_recipe_is_refused_in_one_line_or_is_the_same(seed: int, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin(RECIPE, lambda: IMAGES, resume=False)
    path = tmp_path / "recipe.json"
    path.write_bytes(damaged(path.read_bytes(), seed))
    with contextlib.suppress(UserError):  # whose text is one line, see test_text
        assert isinstance(run.began(), dict)
        run.begin(RECIPE, lambda: IMAGES, resume=True)


@pytest.mark.parametrize("seed", range(75))
def test_a_damaged_line_of_metrics_is_set_aside_alone(seed: int, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(1, 9):
        run.log(step, {"loss": 16.0 / step})
    lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[3] = damaged(lines[3].rstrip(b"\n"), seed).replace(b"\n", b" ") + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(b"".join(lines))
    run.tidy(100)
    kept = [(line["step"], line["loss"]) for line in run.metrics() if "loss" in line]
    assert {(step, 16.0 / step) for step in (1, 2, 3, 5, 6, 7, 8)} <= set(kept)
    aside = tmp_path / "metrics.damaged.txt"
    assert len(run.metrics()) == 8 or lines[3] in aside.read_bytes()
