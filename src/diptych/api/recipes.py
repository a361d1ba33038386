"""Recipes by name, by file, or of a run."""

from __future__ import annotations

from typing import Any

from diptych.core.config import from_plain, with_changes
from diptych.core.contracts import Recipe
from diptych.core.own_recipes import is_recipe_file, load_recipe_file, load_trusted_recipe
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder


def recipe(name: str | Recipe, *, preset: str = "tiny", **changes: Any) -> Recipe:
    """A recipe by slug, from one of its presets ("tiny", "paper", ...), with changed fields; an object is taken as it is, with changes.

    >>> recipe("clip", steps=10).steps
    10
    """
    made = name if isinstance(name, Recipe) else recipe_class(name).preset(preset)
    return with_changes(made, changes)


def recipe_class(name: str) -> Any:
    """The class of a recipe: a slug, a name that a package adds, or ``FILE.py:CLASS``."""
    return load_recipe_file(name) if is_recipe_file(name) else RECIPES.load(name)


def recipe_of(folder: RunFolder) -> Recipe:
    """The recipe of a run, as it was prepared."""
    own_file = folder.state.get("recipe", "")
    kind = load_trusted_recipe(str(own_file), folder.path) if own_file else RECIPES.load(folder.state["slug"])
    made: Recipe = from_plain(kind, folder.config["recipe"])
    return made
