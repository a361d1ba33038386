"""What one recipe over pairs takes from another, so that presets that should be equal are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from diptych.recipes._shared.pairs import PairRecipe


def pair_fields(recipe: PairRecipe) -> dict[str, Any]:
    """Towers, data, batch and budget: the fields that every recipe over pairs has, without those of its own loss."""
    return {f.name: getattr(recipe, f.name) for f in fields(PairRecipe)}
