"""Language model shared by claims of bridges: a small one for all seeds and arms, trained once and kept in the cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from diptych.claims.cell import Cell
from diptych.recipes._shared.language.language_model_recipe import LanguageModelRecipe

ANY = TypeVar("ANY", bound="LanguageModelRecipe[Any, Any, Any]")
SCENES = "small:world:questions?n=6000&seed=1"
"""The captions and questions of scenes that no verdict draws, whose seeds begin at a thousand."""
PAIRS = "small:world:scenes?n=6000&seed=1&max_objects=2&lengths=short&paraphrases=0&negatives=false"
"""The same scenes with their captions, for a small image-text model."""
SMOKE_STEPS = 2


def hosted(recipe: ANY, cell: Cell, *, address: str = SCENES) -> ANY:
    """The recipe before the shared language model; small models of two steps in a smoke test or trace."""
    hosted = replace(recipe, language_model=address)
    return replace(hosted, small_steps=SMOKE_STEPS, small_image_steps=SMOKE_STEPS) if cell.smoke else hosted
