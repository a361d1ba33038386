"""Changes to scenes of `world:links`: boxes of two annotators, captions as a model writes them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.worlds.links.world import PREDICATES
from diptych.worlds.scenes.captions import with_article

TWICE = 0.5
"""Share of the shapes that have two boxes."""
WRONG, MISSING = 0.2, 0.1
"""Shares of the links that a hasty caption names by another predicate, and does not name."""


def annotated_twice(sample: Sample) -> Sample:
    """Half of the shapes have a second box, a pixel or so off, that no relation points at, as things of Visual Genome often have. The
    same every time."""
    if not isinstance(sample.image, ArrayImage):
        raise DataError(f"'{sample.uid}' is not a rendered scene", expected="a sample of world:links")
    side = sample.image.pixels_HWC.shape[0]
    rng = keyed_rng("annotated twice", sample.uid)
    second = []
    for region in sample.regions:
        if rng.random() < TWICE:
            x0, y0, x1, y1 = (np.array(region.box) + rng.uniform(-1, 1, 4)).clip(0, side).tolist()
            second.append(replace(region, box=(x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)), mask=None))
    return replace(sample, regions=(*sample.regions, *second))


def captioned_in_haste(sample: Sample) -> Sample:
    """A caption as a model writes it: some links by another predicate, some not at all. The same every time.

    A shape is named by its colour too, as in the world's own captions. A caption without a link left says nothing.
    """
    rng = keyed_rng("captioned in haste", sample.uid)
    nouns = [with_article(" ".join((*region.attributes, region.label))) for region in sample.regions]
    named = []
    for relation in sample.relations:
        others = [name for name in PREDICATES if name != relation.predicate]
        wrong, missing, other = rng.random() < WRONG, rng.random() < MISSING, others[int(rng.integers(len(others)))]
        if not missing:
            named.append(f"{nouns[relation.subject]} {other if wrong else relation.predicate} {nouns[relation.object]}")
    return replace(sample, texts=(Text(" and ".join(named) or "a picture of shapes", "en", "synthetic"),))
