"""The run folder."""

from pathlib import Path

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
