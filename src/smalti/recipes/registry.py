"""Recipes by name: every public function of this folder's modules that takes nothing and returns a `Recipe` is one."""

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from smalti.errors import UserError
from smalti.training.recipe import Recipe
from smalti.user_files import call_in_file


def all_recipes() -> dict[str, Callable[[], Recipe]]:
    """Every recipe function by its name.

    Example:
        >>> from smalti.recipes import all_recipes
        >>> "mosrep_moco" in all_recipes()
        True
    """
    found: dict[str, Callable[[], Recipe]] = {}
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        found |= _recipes_of(importlib.import_module(f"{__package__}.{module.name}"))
    return dict(sorted(found.items()))


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or what `recipe()` returns in a Python file of the user's.

    Raises:
        UserError: no such recipe or file, or a file without a function `recipe`.

    Example:
        >>> from smalti.recipes import get_recipe
        >>> get_recipe("mosrep_moco").views[2].tiles
        4
    """
    if name.endswith(".py"):
        return _from_file(name)
    recipes = all_recipes()
    if name not in recipes:
        close = difflib.get_close_matches(name, recipes, n=2) or list(recipes)
        raise UserError(f"recipe {name!r}", "a known recipe, or a file ending in .py", f"try {' or '.join(close)}")
    return recipes[name]()


def _recipes_of(module: ModuleType) -> dict[str, Callable[[], Recipe]]:
    return {
        name: function
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if function.__module__ == module.__name__
        and not name.startswith("_")
        and inspect.signature(function) == inspect.Signature(return_annotation=Recipe)
    }


def _from_file(path: str) -> Recipe:
    recipe = call_in_file(path, "recipe", "recipe")
    if not isinstance(recipe, Recipe):
        raise UserError(f"{type(recipe).__name__} from recipe() in {path}", "a smalti Recipe", "return one")
    return recipe
