"""Changes to scenes of `world:links`: nouns with their colours, and boxes as a hasty annotator draws them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample

JITTER = 0.25
"""Of a shape's side, by which each edge of a box is off at most."""


def with_colours(sample: Sample) -> Sample:
    """Every shape is named by its colour as well: 48 names in place of 6."""
    return replace(sample, regions=tuple(replace(r, label=f"{r.attributes[0]} {r.label}") for r in sample.regions))


def jittered(sample: Sample) -> Sample:
    """Each edge of a box is off by up to a quarter of the shape. The same every time."""
    if not isinstance(sample.image, ArrayImage):
        raise DataError(f"'{sample.uid}' is no rendered scene", expected="a sample of world:links")
    side = sample.image.pixels_HWC.shape[0]
    rng = keyed_rng("jittered", sample.uid)
    moved = []
    for region in sample.regions:
        x0, y0, x1, y1 = region.box
        side_4 = np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
        x0, y0, x1, y1 = (np.array(region.box) + rng.uniform(-JITTER, JITTER, 4) * side_4).clip(0, side).tolist()
        moved.append(replace(region, box=(x0, y0, x1, y1), mask=None))
    return replace(sample, regions=tuple(moved))
