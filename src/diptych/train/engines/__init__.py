"""How a step is done, an engine a file: gradients of losses, closed form, preferences, a policy's own answers."""

from __future__ import annotations

from diptych.core.contracts import Engine, Recipe
from diptych.core.entries import Entry
from diptych.core.registry import ENGINES


def engine_kind(recipe: Recipe) -> type[Engine]:
    """The class of the engine that a recipe names, by a registered name or as "module:Class"."""
    name = recipe.engine
    kind: type[Engine] = Entry(name, name).load() if ":" in name else ENGINES.load(name)
    return kind
