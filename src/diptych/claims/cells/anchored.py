"""Recipes on rooms and solids before the small model that their cells share."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, TypeVar

from diptych.claims.cell import Cell
from diptych.core.contracts import Recipe

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)
ROWS, STEPS = 64, 2


def anchored(recipe: AnyRecipe, cell: Cell) -> AnyRecipe:
    """The recipe; in a smoke test or trace its small model is made of a few rows in a few steps."""
    if not cell.smoke:
        return recipe
    addresses = {name: str(getattr(recipe, name, "")) for name in ("small_data", "language_model")}
    changes: dict[str, Any] = {"small_steps": STEPS}
    changes |= {name: re.sub(r"\bn=\d+", f"n={ROWS}", address) for name, address in addresses.items() if "n=" in address}
    return replace(recipe, **changes)
