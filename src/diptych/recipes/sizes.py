"""One size for the small presets of recipes over pairs, so that what differs between two of them is the method."""

from __future__ import annotations

from typing import Any

from diptych.recipes.clip import CLIP

SAME = (
    "image_tower", "text_tower", "width", "image_size", "text_length", "tokenizer", "pieces", "batch_size", "steps", "lr", "warmup",
    "weight_decay", "clip_norm", "crop",
)  # fmt: skip


def tiny_clip(**changes: Any) -> dict[str, Any]:
    """Towers, texts, budget and optimiser of `clip`'s small preset as keyword arguments, with changes."""
    same = CLIP.tiny()
    return {**{name: getattr(same, name) for name in SAME}, **changes}
