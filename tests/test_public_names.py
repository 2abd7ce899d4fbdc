"""What is public can be found, is documented by examples that run, and costs nothing until it is used."""

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

PACKAGES = (
    "smalti",
    *(f"smalti.{name}" for name in ("evaluation", "losses", "methods", "models", "recipes", "testing", "views")),
)
USUAL = {"np": np, "torch": torch, "F": F}  # what every example may take as imported
NAMES = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]


def public(package: str, name: str) -> object:
    return getattr(importlib.import_module(package), name)


@pytest.mark.parametrize("package", PACKAGES)
def test_dir_lists_what_is_public(package: str) -> None:
    assert dir(importlib.import_module(package)) == sorted(importlib.import_module(package).__all__)


def test_views_have_what_a_training_loop_needs() -> None:
    needed = {"Crop", "Augmentation", "Mosaic", "Montage", "Mixture", "UnMix", "Cutout", "RandomErasing"}
    needed |= {"UnevenMosaic", "CopyPaste"}
    needed |= {"Composition", "Plan", "Tiles", "Canvas", "Regions", "Collate", "Normalize", "plot_views"}
    assert needed <= set(dir(importlib.import_module("smalti.views")))


@pytest.mark.parametrize(("package", "name"), NAMES, ids=[".".join(pair) for pair in NAMES])
def test_examples_run(package: str, name: str) -> None:
    found = public(package, name)
    if isinstance(found, type(sys)):
        return  # a package, whose own names are tested
    module = sys.modules[found.__module__]
    examples = doctest.DocTestFinder(recurse=False).find(found, name, module, USUAL | vars(module))
    assert examples, "no docstring"
    assert examples[0].examples, "no example"
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(examples[0])
    assert not failed


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_is_instant(package: str) -> None:
    program = f"import sys, {package}; sys.exit(str({{'torch', 'cv2', 'numpy'}} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False).stderr
    assert loaded.strip() == "set()"


def test_a_function_stands_above_the_module_of_its_name() -> None:
    program = "import smalti.losses.info_nce; from smalti.losses import info_nce; info_nce.__code__"
    subprocess.run([sys.executable, "-c", program], check=True)
