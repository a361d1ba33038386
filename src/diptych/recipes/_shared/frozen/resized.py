"""A start from weights in another resolution or with longer texts than they were trained at: learned positions are resized."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import replace
from typing import Any, TypeVar

R = TypeVar("R")
SIZES = {"image_size": ("image", "image_size"), "text_length": ("text", "length")}
"""Field -> the side whose tower has it as an option, and that option."""


def resized(before: R, after: R, asked: Collection[str]) -> R:
    """`after` with the image size and text length that `before` was asked for, where the towers of the weights take one.

    before, after  the recipe without and with what the weights decide
    asked          fields that were chosen by hand
    """
    held = getattr(after, "towers_from", "")
    sides: dict[str, Any] = json.loads(held) if held else {}
    changes: dict[str, Any] = {}
    for name, (side, option) in SIZES.items():
        requested = getattr(before, name, None)
        if name in asked and requested != getattr(after, name) and option in sides.get(side, {}).get("options", {}):
            sides[side]["options"][option] = changes[name] = requested
    return replace(after, **changes, towers_from=json.dumps(sides)) if changes else after  # type: ignore[type-var]
