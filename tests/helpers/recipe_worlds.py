"""The rendered world that a recipe can learn from, and the recipe prepared on it."""

from __future__ import annotations

import dataclasses
from typing import Any

from diptych.core.registry import RECIPES
from diptych.worlds.resolve import resolve

ROOMS = ("chat3d_v2", "sg3d_vlp", "text4point")
"""Recipes of clouds that want the frames of a room."""
WORLDS = {"plip_person": "pedestrians?n=32&test=16"}


def world_of(slug: str) -> str:
    if slug in ROOMS:
        return "rooms"
    if slug == "dr_llava":
        return "tissue_dialogues"
    if slug in ("medslip", "arl"):
        return "chests"
    if slug == "reversion":
        return "exemplars"
    needs = RECIPES.load(slug).needs
    for need, world in (
        ("image_set", "image_sets"),
        ("figures", "figures"),
        ("grounding", "screens"),
        ("images", "statements"),
        ("goal", "kitchens"),
        ("problem", "sudoku"),
        ("cloud", "solids"),
        ("questions", "questions"),
        ("clip", "clips"),
    ):
        if need in needs:
            return world
    return "scenes"


def tiny(slug: str) -> tuple[Any, Any]:
    """A prepared recipe of the smallest size, and its training rows."""
    data = resolve(f"world:{WORLDS.get(slug) or world_of(slug) + '?n=24'}").split("train")
    recipe: Any = RECIPES.load(slug).tiny()
    small = {f.name: 1 for f in dataclasses.fields(recipe) if f.name.startswith("small_") and f.name.endswith("steps")}
    return dataclasses.replace(recipe, batch_size=8, **small).prepare(data), data
