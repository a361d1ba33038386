"""Rendered data with perfect ground truth: a seed gives the same bytes everywhere, and truth is computed, never detected.

>>> data = resolve("world:scenes?n=200&seed=3&size=64")
>>> len(data.split("train")), len(data.split("val")), len(data.split("test"))
(200, 50, 50)
"""

from __future__ import annotations

from diptych.worlds.links.world import LinkWorld, links
from diptych.worlds.rendered import RenderedDataset
from diptych.worlds.resolve import resolve
from diptych.worlds.scenes.world import SceneWorld, scenes

__all__ = ["LinkWorld", "RenderedDataset", "SceneWorld", "links", "resolve", "scenes"]
