"""Names from elsewhere are shown, never acted on."""

import unicodedata
from pathlib import Path

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smalti import cli
from smalti.errors import UserError
from smalti.text import printable


@given(st.text())
def test_text_becomes_one_line_without_controls(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert all(unicodedata.category(character) not in ("Cc", "Cf", "Cs") for character in shown)
    shown.encode()


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_errors_are_one_line() -> None:
    assert str(UserError("a\nb", "c\x1b[2J", "d\u202e")) == r"got a\nb; expected c\x1b[2J; d\u202e"


@pytest.mark.parametrize("name", ["a[/b]", "[red]", "esc\x1b[31m", "csi\x9b31m", "line\nbreak"])
def test_a_folder_of_any_name_is_learned_from(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tiny.write_photos(tmp_path / name)
    (photos / f"{name.replace('/', '')}.png").write_bytes(b"no image")
    run = tiny.without_drawing(tmp_path / f"run {name}")
    line = ["pretrain", str(photos), "--out", str(run), "--recipe", tiny.RECIPE_FILE, "--epochs", "1"]
    assert cli.main([*line, "--workers", "0", "--logger", "none"]) == 0
    printed = "".join(capsys.readouterr())
    assert not {"\x1b[31m", "\x9b"} & set(printed.split())
    assert printable(name) in printed
    assert "\x1b" not in (run / "skipped.txt").read_text()


def test_pictures_are_found_whatever_they_are_called(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "plain.png")
    assert cli.main(["embed", "random:resnet18", str(tmp_path), "--out", str(tmp_path / "f[x].npz")]) == 0
