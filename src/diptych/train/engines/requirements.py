"""A recipe as the protocol of its engine, or an error that names the missing methods."""

from __future__ import annotations

from diptych.core.contracts import ClosedFormRecipe, PolicyRecipe, PreferenceRecipe, Recipe
from diptych.core.errors import ConfigError


def solvable(recipe: Recipe) -> ClosedFormRecipe:
    """The recipe, checked for the engine "solve": statistics of a batch, and a solution from their sum."""
    if isinstance(recipe, ClosedFormRecipe):
        return recipe
    raise _lacking(recipe, ClosedFormRecipe)


def preferring(recipe: Recipe) -> PreferenceRecipe:
    """The recipe, checked for the engine "preference": answers of which one is better, and frozen companions."""
    if isinstance(recipe, PreferenceRecipe):
        return recipe
    raise _lacking(recipe, PreferenceRecipe)


def acting(recipe: Recipe) -> PolicyRecipe:
    """The recipe, checked for the engine "policy": sampled answers and their rewards."""
    if isinstance(recipe, PolicyRecipe):
        return recipe
    raise _lacking(recipe, PolicyRecipe)


def _lacking(recipe: Recipe, protocol: type) -> ConfigError:
    names = sorted(name for name in vars(protocol) if not name.startswith("_") and not hasattr(recipe, name))
    return ConfigError(f"{type(recipe).__name__} names the engine '{recipe.engine}', but has no {' and no '.join(names)}")
