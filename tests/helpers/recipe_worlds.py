"""The rendered world that a recipe can learn from."""

from __future__ import annotations

from diptych.core.registry import RECIPES

ROOMS = ("chat3d_v2", "sg3d_vlp", "text4point")
"""Recipes of clouds that want the frames of a room."""


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
