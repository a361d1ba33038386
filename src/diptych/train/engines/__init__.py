"""Training engines, one a file: supervised gradient steps, closed-form solution, preference optimisation, policy gradient."""

from __future__ import annotations

from diptych.core.contracts import Engine, Recipe
from diptych.core.entries import RegistryEntry
from diptych.core.registry import ENGINES


def engine_kind(recipe: Recipe) -> type[Engine]:
    """The class of the engine that a recipe names, by a registered name or as "module:Class"."""
    name = recipe.engine
    kind: type[Engine] = RegistryEntry(name, name).load() if ":" in name else ENGINES.load(name)
    return kind
