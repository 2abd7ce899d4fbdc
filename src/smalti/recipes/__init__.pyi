from .registry import Recipe, all_recipes, get_recipe

__all__ = ["Recipe", "all_recipes", "get_recipe"]
