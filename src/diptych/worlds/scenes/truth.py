"""The complete graph of a rendered scene, computed from its masks: independent of how the scene was planned.

A relation that is not listed does not hold. The rules, with distances in pixels of the image:

left of, above   the boxes' extents on that axis are disjoint (one pixel of overlap is forgiven)
inside           the silhouette lies within the other's and in front of it
touching         silhouettes meet, or overlap in a strip one pixel thin (at 64) or in a tenth of the smaller one
on               touching, the lower edge at the other's upper edge, and half of the narrower width shared
in front of      silhouettes overlap by more than that, without being inside, and this one hides the other
bigger than      its silhouette has at least 1.25 times the area
same colour as   equal colour names (drawn shapes only)
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.scene_graph import Box, Region, Relation
from diptych.data.masks import Mask, box_of, encode, touch
from diptych.worlds.scenes.layout import INVERSE, Scene
from diptych.worlds.scenes.rendering import RenderedScene

BIGGER = 1.25
MEETING = 0.1  # overlap, as a share of the smaller silhouette, up to which things touch rather than hide each other


@dataclass(frozen=True, slots=True)
class Truth:
    """Regions in the order of the things, and every relation that holds."""

    regions: tuple[Region, ...]
    relations: tuple[Relation, ...]
    holds: frozenset[tuple[int, str, int]]


def truth(scene: Scene, drawing: RenderedScene) -> Truth:
    """Boxes and masks of what can be seen; relations from whole silhouettes."""
    boxes = [box_of(mask) for mask in drawing.visible_NHW]
    regions = []
    for thing, box, mask in zip(scene.things, boxes, drawing.visible_NHW, strict=True):
        if box is None:
            raise AssertionError(f"{thing.noun} is hidden altogether; layouts must not do that")
        regions.append(Region(box, thing.label, thing.attributes, mask=encode(mask)))
    triples: list[tuple[int, str, int]] = []
    areas = [int(mask.sum()) for mask in drawing.whole_NHW]
    extents = [box_of(mask) for mask in drawing.whole_NHW]
    for a in range(len(scene.things)):
        for b in range(a + 1, len(scene.things)):
            box_a, box_b = extents[a], extents[b]
            if box_a is None or box_b is None:
                continue
            for predicate, forward in _spatial(drawing, a, b, box_a, box_b, areas, scene):
                first, second = (a, b) if forward else (b, a)
                triples.append((first, predicate, second))
                if predicate in INVERSE:
                    triples.append((second, INVERSE[predicate], first))
                elif predicate in ("touching", "same colour as"):
                    triples.append((second, predicate, first))
    triples.sort()
    return Truth(tuple(regions), tuple(Relation(*triple) for triple in triples), frozenset(triples))


def _spatial(
    drawing: RenderedScene, a: int, b: int, box_a: Box, box_b: Box, areas: list[int], scene: Scene
) -> list[tuple[str, bool]]:
    """(predicate, whether it runs from a to b) of one pair; inverses are left to the caller."""
    spatial: list[tuple[str, bool]] = []
    for axis, predicate in ((0, "left of"), (1, "above")):
        if box_a[axis + 2] <= box_b[axis] + 1:
            spatial.append((predicate, True))
        elif box_b[axis + 2] <= box_a[axis] + 1:
            spatial.append((predicate, False))
    if max(areas[a], areas[b]) >= BIGGER * min(areas[a], areas[b]):
        spatial.append(("bigger than", areas[a] > areas[b]))
    if scene.things[a].colour and scene.things[a].colour == scene.things[b].colour:
        spatial.append(("same colour as", True))
    apart = any(box_a[k] > box_b[k + 2] or box_b[k] > box_a[k + 2] for k in (0, 1))
    if apart:
        return spatial
    mask_a, mask_b = drawing.whole_NHW[a], drawing.whole_NHW[b]
    both = mask_a & mask_b
    shared = int(both.sum())
    front_is_a = scene.things[a].depth > scene.things[b].depth
    if shared == (areas[a] if front_is_a else areas[b]):
        spatial.append(("inside", front_is_a))
    elif shared > MEETING * min(areas[a], areas[b]) and not _thin(both):
        spatial.append(("in front of", front_is_a))
    elif touch(mask_a, mask_b):
        spatial.append(("touching", True))
        common = min(box_a[2], box_b[2]) - max(box_a[0], box_b[0])
        if common >= 0.5 * min(box_a[2] - box_a[0], box_b[2] - box_b[0]):
            if abs(box_a[3] - box_b[1]) <= 1.5:
                spatial.append(("on", True))
            elif abs(box_b[3] - box_a[1]) <= 1.5:
                spatial.append(("on", False))
    return spatial


def _thin(mask_HW: Mask) -> bool:
    box = box_of(mask_HW)
    return box is None or min(box[2] - box[0], box[3] - box[1]) <= max(1.0, mask_HW.shape[0] / 64)
