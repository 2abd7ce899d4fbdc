"""Bad files are named once, written down, and end the run when they are too many."""

import re

import pytest

from smalti.errors import UserError
from smalti.images.ledger import BadFiles


def test_a_file_counts_once(tmp_path):
    ledger = BadFiles(tmp_path, total=1000)
    for _ in range(50):
        ledger.record("a/1.jpg", "truncated JPEG")
    ledger.record("a/2.jpg", "empty file")
    assert ledger.count == 2
    assert ledger.names == ("a/1.jpg", "a/2.jpg")
    assert (tmp_path / "skipped.txt").read_text() == "a/1.jpg\ttruncated JPEG\na/2.jpg\tempty file\n"


@pytest.mark.parametrize(
    ("total", "fraction", "allowed"),
    [(1000, 0.01, 10), (5000, 0.01, 50), (100, 0.01, 10), (8, 0.01, 4), (7, 0.0, 3), (4, 1.0, 4), (1, 0.01, 0)],
)
def test_limit_and_its_floor(total, fraction, allowed):
    ledger = BadFiles(None, total, fraction)
    ledger.merge((f"{index}.jpg", "empty file") for index in range(allowed))
    assert ledger.count == allowed
    if allowed < total:
        with pytest.raises(UserError):
            ledger.record("one more.jpg", "empty file")


def test_the_error_says_what_to_do(tmp_path):
    ledger = BadFiles(tmp_path, total=4, max_fraction=0.0)
    with pytest.raises(UserError) as caught:
        ledger.merge((f"{index}.jpg", f"reason {index}") for index in range(4))
    message = str(caught.value)
    assert "3 bad files of 4" in message
    assert "at most 2" in message
    assert "0.jpg: reason 0; 1.jpg: reason 1; 2.jpg: reason 2" in message
    assert str(tmp_path / "skipped.txt") in message
    assert "--max-bad-fraction" in message
    assert "\n" not in message
    assert (tmp_path / "skipped.txt").read_text().count("\n") == 3


def test_a_resumed_run_does_not_repeat_lines(tmp_path):
    BadFiles(tmp_path, 100).merge([("a.jpg", "empty file"), ("b.jpg", "empty file")])
    resumed = BadFiles(tmp_path, 100)
    resumed.merge([("b.jpg", "empty file"), ("c.jpg", "empty file")])
    assert resumed.names == ("a.jpg", "b.jpg", "c.jpg")
    assert (tmp_path / "skipped.txt").read_text().splitlines() == [f"{name}.jpg\tempty file" for name in "abc"]


def test_odd_names_stay_on_one_line_and_are_known_again(tmp_path):
    odd = b"tab\there\nline\xe9.jpg".decode("utf-8", "surrogateescape")
    BadFiles(tmp_path, 100).record(odd, "two\nlines")
    assert (tmp_path / "skipped.txt").read_bytes() == b"tab\\there\\nline\\udce9.jpg\ttwo\\nlines\n"
    resumed = BadFiles(tmp_path, 100)
    resumed.record(odd, "two\nlines")
    assert resumed.count == 1


def test_nothing_is_written_without_a_bad_file_or_without_a_folder(tmp_path):
    BadFiles(tmp_path / "run", 100)
    BadFiles(None, 100).record("a.jpg", "empty file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(UserError, match=re.escape(str(fraction))):
        BadFiles(None, 10, fraction)
