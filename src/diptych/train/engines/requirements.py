"""A recipe seen as what its engine asks for, or an error that names what it lacks."""

from __future__ import annotations

from diptych.core.contracts import Acting, Preferring, Recipe, Solvable
from diptych.core.errors import ConfigError


def solvable(recipe: Recipe) -> Solvable:
    """The recipe with what closed form asks for: statistics of a batch, and a solution from their sum."""
    if isinstance(recipe, Solvable):
        return recipe
    raise _lacking(recipe, Solvable)


def preferring(recipe: Recipe) -> Preferring:
    """The recipe with what preferences ask for: answers of which one is better, and frozen companions."""
    if isinstance(recipe, Preferring):
        return recipe
    raise _lacking(recipe, Preferring)


def acting(recipe: Recipe) -> Acting:
    """The recipe with what a policy asks for: answers of its own and their rewards."""
    if isinstance(recipe, Acting):
        return recipe
    raise _lacking(recipe, Acting)


def _lacking(recipe: Recipe, protocol: type) -> ConfigError:
    names = sorted(name for name in vars(protocol) if not name.startswith("_") and not hasattr(recipe, name))
    return ConfigError(f"{type(recipe).__name__} names the engine '{recipe.engine}', but has no {' and no '.join(names)}")
