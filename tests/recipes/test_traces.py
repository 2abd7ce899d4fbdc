"""No recipe's loss changes unnoticed: where one is meant to, write its trace again (see traces.py)."""

import math
from dataclasses import replace

import pytest
import traces

from smalti.recipes import all_recipes, get_recipe


@pytest.mark.parametrize("name", all_recipes())
def test_the_first_losses_are_those_on_file(name: str) -> None:
    assert traces.trace(get_recipe(name)) == pytest.approx(traces.read(name), rel=1e-5)


def test_no_trace_is_left_over() -> None:
    assert {path.stem for path in traces.FOLDER.glob("*.txt")} == set(all_recipes())


def test_a_trace_feels_a_small_change_of_any_part() -> None:
    recipe = get_recipe("mosrep_moco_small")
    on_file = traces.read("mosrep_moco_small")
    crop, key, mosaic = recipe.views
    changes = {
        "method": replace(recipe.method, temperature=0.101),
        "optimizer": replace(recipe.optimizer, base_lr=0.031),
        "views": (crop, key, replace(mosaic, max_shift=6)),
        "seed": 1,
    }
    for name, value in changes.items():
        changed = traces.trace(replace(recipe, **{name: value}), steps=3)
        assert changed != pytest.approx(on_file[:3], rel=1e-5), name


def test_traces_on_file_are_finite() -> None:
    assert all(math.isfinite(loss) for name in all_recipes() for loss in traces.read(name))
