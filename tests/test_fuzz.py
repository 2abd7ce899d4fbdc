"""A short run of `make fuzz`."""

from benchmarks.fuzz import fuzz


def test_damaged_files_are_read_right_or_refused_in_one_line() -> None:
    assert {name: texts for name, texts in fuzz(tries=25, seed=1).items() if texts} == {}
