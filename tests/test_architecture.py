"""Imports go one way, and methods stay short and free of engines: read off the source, nothing is run."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import smalti

ROOT = Path(smalti.__file__).parent
FOUNDATION = {"errors", "text", "signals", "checks", "files", "normalize", "user_files", "precision"}
FOUNDATION |= {"distributed", "schedules", "runs"}
LEARNING = {"methods", "training", "recipes"}

# What each layer may import; every layer may import itself.
MAY: dict[str, set[str]] = {
    "foundation": set(),
    "images": {"foundation"},
    "views": {"foundation", "images"},
    "losses": {"foundation"},
    "models": {"foundation", "images", "views.canvas"},
    "methods": {"foundation", "images", "views", "losses", "models"},
    "training": {"foundation", "images", "views", "losses", "models", "methods"},
    "recipes": {"foundation", "images", "views", "losses", "models", "methods", "training"},
    "evaluation": {"foundation", "images", "models"},
    "export": {"foundation", "images", "models"},
}
MAY["testing"] = {*MAY} - {"recipes", "evaluation", "export"}
MAY["api"] = MAY["demo"] = MAY["__init__"] = {*MAY, "api"}
MAY["cli"] = {*MAY}

FILES = sorted(ROOT.rglob("*.py"))


def module_of(path: Path) -> str:
    """The name below `smalti`: "views.canvas", "cli"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def layer_of(module: str) -> str:
    top = module.partition(".")[0]
    return "foundation" if top in FOUNDATION else top


def imports_of(path: Path) -> Iterator[str]:
    """Full names of everything imported, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=[module_of(path) for path in FILES])
def test_imports_obey_the_direction(path: Path) -> None:
    layer = layer_of(module_of(path))
    for name in imports_of(path):
        if not name.startswith("smalti."):
            continue
        imported = name.removeprefix("smalti.")
        allowed = {layer, *MAY[layer]}
        # A part of a layer may be allowed alone, as views.canvas is to models.
        assert layer_of(imported) in allowed or any(imported.startswith(f"{part}.") for part in allowed), name


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_methods_are_plain_torch(path: Path) -> None:
    for name in imports_of(path):
        assert not name.startswith(("lightning", "torch.distributed", "torch.cuda")), name
    called = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
    assert not called & {"cuda", "distributed", "all_reduce", "all_gather"}


@pytest.mark.parametrize("path", sorted((ROOT / "methods").glob("*.py")), ids=lambda path: path.stem)
def test_a_forward_fits_on_a_screen(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and node.name == "forward":
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < 50
