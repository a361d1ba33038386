"""Recipes by name, by file, or of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from diptych.core.config import from_plain, with_changes
from diptych.core.contracts import Recipe
from diptych.core.errors import ConfigError, RunError
from diptych.core.own_recipes import is_recipe_file, load_recipe_file, load_trusted_recipe, named_programs, trust
from diptych.core.registry import RECIPES
from diptych.core.run_folder import RunFolder


def recipe(name: str | Recipe, *, preset: str = "tiny", **changes: Any) -> Recipe:
    """A recipe by slug, from one of its presets ("tiny", "paper", ...), with changed fields; an object is taken as it is, with changes.

    >>> recipe("clip", steps=10).steps
    10
    """
    made = with_changes(name if isinstance(name, Recipe) else recipe_class(name).preset(preset), changes)
    for file, _ in named_programs(made):
        if not file.is_file():
            raise ConfigError(f"{file} does not exist (expected FILE.py:NAME, a program of your own)")
        trust(file)  # the caller named it
    return made


def recipe_class(name: str) -> Any:
    """The class of a recipe: a slug, a name that a package adds, or ``FILE.py:CLASS``."""
    return load_recipe_file(name) if is_recipe_file(name) else RECIPES.load(name)


def recipe_of(folder: RunFolder, given: str | Path | type[Recipe] | Recipe | None = None) -> Recipe:
    """The recipe of a run, as it was prepared.

    given  its class, an object of it, or the file that holds it now: FILE.py or FILE.py:CLASS; of a recipe of the package the file of a
           loss or base that a field names, which is trusted then. None looks it up
    """
    made: Recipe = from_plain(_kind_of(folder, given), folder.config["recipe"])
    return made


def _kind_of(folder: RunFolder, given: str | Path | type[Recipe] | Recipe | None) -> Any:
    state = folder.state
    own_file, session = str(state.get("recipe", "")), str(state.get("class", ""))
    if isinstance(given, str | Path):
        words, name = str(given), (own_file or session).rpartition(":")[2]
        if not name:  # a recipe of the package, with a loss or base of one's own
            file = Path(words if words.endswith(".py") else words.rpartition(":")[0]).expanduser().resolve()
            if not file.is_file():
                raise ConfigError(f"{file} does not exist (expected the file of your own that {folder.path} names)")
            trust(file)
            return RECIPES.load(state["slug"])
        return recipe_class(f"{words}:{name}" if words.endswith(".py") and name else words)
    if given is not None:
        return given if isinstance(given, type) else type(given)
    if own_file:
        file = Path(own_file.rpartition(":")[0])
        copy = folder.source / file.name
        if not file.is_file() and copy.is_file():
            raise RunError(
                f"{folder.path} was trained with {own_file}, which no longer exists: give its new path with --recipe FILE.py, or use "
                f"the copy in the run with --recipe {copy}"
            )
        return load_trusted_recipe(own_file, folder.path)
    if session:
        module, _, name = session.partition(":")
        if (kind := getattr(sys.modules.get(module), name, None)) is not None:
            return kind
        raise RunError(
            f"{folder.path} was trained with the class {name} of {module}: give it (recipe={name}, or --recipe FILE.py:{name})"
        )
    return RECIPES.load(state["slug"])
