"""Depth map of a rendered scene: nearer things have larger values, the background has 0."""

from __future__ import annotations

import numpy as np

from diptych.core.media import ArraySource, MediaItem
from diptych.worlds.scenes.layout import Scene
from diptych.worlds.scenes.rendering import Pixels, RenderedScene


def depth_map(scene: Scene, drawing: RenderedScene) -> Pixels:
    """Depth uint8 [H, W]: of n things the one at the back has 255 / n, the one in front 255, the background 0."""
    depth_HW = np.zeros(drawing.visible_NHW.shape[1:], np.uint8)
    for thing, mask_HW in zip(scene.things, drawing.visible_NHW, strict=True):
        depth_HW[mask_HW] = round(255 * (thing.depth + 1) / len(scene.things))
    return depth_HW


def depth_item(scene: Scene, drawing: RenderedScene, name: str) -> MediaItem:
    """The depth map as a medium: a raster of one band."""
    return MediaItem("raster", (ArraySource(depth_map(scene, drawing), name),))
