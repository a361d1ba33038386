"""What claims of bridges share: one small language model for all seeds and arms, trained once and kept in the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from diptych.claims.cell import Cell
from diptych.recipes._shared.bridges import BridgeRecipe

ANY = TypeVar("ANY", bound=BridgeRecipe)
SCENES = "small:world:questions?n=6000&seed=1"
"""The captions and questions of scenes that no claim draws: their seed is outside those of the verdicts and of the sweeps' first."""
SMOKE_STEPS = 2


def hosted(recipe: ANY, cell: Cell, *, address: str = SCENES) -> ANY:
    """The recipe before the shared language model; one of two steps in a smoke test or trace."""
    steps = SMOKE_STEPS if cell.smoke else recipe.small_steps
    return replace(recipe, language_model=address, small_steps=steps)
