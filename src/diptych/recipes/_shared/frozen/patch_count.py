"""Number of patches of an image tower, known before the tower is built."""

from __future__ import annotations

import json
from functools import lru_cache

import torch

from diptych.core.errors import ConfigError
from diptych.models.towers.towers import image_tower
from diptych.models.towers.vit import VisionTransformer


@lru_cache(maxsize=8)
def patches_of(spec: str) -> int:
    """Patches of the vision transformer with these options, in JSON."""
    with torch.device("meta"):
        tower = image_tower(**json.loads(spec))
    if not isinstance(tower, VisionTransformer):
        raise ConfigError(f"{type(tower).__name__} has no patches to hide (expected vit_...)")
    return tower.grid[0] * tower.grid[1]
