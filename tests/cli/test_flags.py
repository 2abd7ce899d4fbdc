"""The flags of `smalti pretrain` are an interface: to add or rename one, change the list beside this file too."""

import re
from pathlib import Path

import pytest

from smalti import cli

FLAGS = Path(__file__).with_name("pretrain_flags.txt")
COMMANDS = ["pretrain", "views", "evaluate", "embed", "export", "recipes", "demo"]


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    return re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out)


def test_the_flags_of_pretrain_are_those_listed(capsys: pytest.CaptureFixture[str]) -> None:
    found = set(re.findall(r"(?<![\w-])--[a-z][\w.-]*", help_of("pretrain", capsys)))
    assert sorted(found) == FLAGS.read_text().split()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert f"usage: smalti {command}" in text
    for entry in re.split(r"^ +(?=--[a-z])", text, flags=re.MULTILINE)[1:]:
        said = re.sub(r"--[\w.-]+|\{.*?\}|\(default.*?\)", "", entry, flags=re.DOTALL)
        assert re.search(r"[a-z]{3}", said), entry


def test_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    assert re.findall(r"^  (\w+) +\S", capsys.readouterr().out, flags=re.MULTILINE) == COMMANDS
