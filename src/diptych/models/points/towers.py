"""Build point towers from their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diptych.models.points.point_bert import PointBERT, PointBERTSettings
from diptych.models.points.pointnext import PointNeXt, PointNeXtSettings
from diptych.models.points.uni3d import Uni3DSettings, Uni3DTower

TowerSettings = PointBERTSettings | PointNeXtSettings | Uni3DSettings
PointTower = PointBERT | PointNeXt | Uni3DTower


def tower_settings(plain: Mapping[str, Any]) -> TowerSettings:
    """Return settings of a tower from the output of their `to_json`."""
    if "radius" in plain:
        return PointNeXtSettings.from_json(plain)
    return Uni3DSettings.from_json(plain) if "model" in plain else PointBERTSettings.from_json(plain)


def point_tower(settings: TowerSettings) -> PointTower:
    """Return a newly initialised tower of these sizes."""
    if isinstance(settings, PointNeXtSettings):
        return PointNeXt(settings)
    return Uni3DTower(settings) if isinstance(settings, Uni3DSettings) else PointBERT(settings)
