"""Annotated graph of an image, as question programs read it: labels, boxes, attributes, relations, masks and depth.

Attributes are split at " and ", "grey" becomes "gray", and attributes that no attribute type lists are dropped, as are the
relations in `LEFT_OUT`. Depth is uint8, larger is nearer; other dtypes are rescaled per image from their minimum and maximum.

Letters: N regions, H and W pixels.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import networkx as nx
import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import ArrayImage, ImageSource, content_untold
from diptych.core.sample import Sample
from diptych.core.scene_graph import Box
from diptych.curate.programs.attribute_types import AttributeTypes
from diptych.data.masks import Mask, pixels_of
from diptych.data.media.decode import upright_size

DEPTH = "depth"
"""Name of a sample's depth map among its media."""
LEFT_OUT = ("of",)
"""Relations that carry no visual information."""
ENUMERATED = 20_000
"""Subsets of objects that are listed one by one; of more, some are drawn at random."""

Depth = npt.NDArray[np.uint8]
Axis = Literal["x", "y", "both"]


@dataclass(frozen=True)
class ImageGraph:
    """One image's graph.

    boxes      xyxy in pixels, one per label
    relations  (subject, predicate, object), positions among the labels
    masks      one mask per region, as a run-length code or polygons; None if a region has no mask
    depth_HW   uint8, larger is nearer; None without a depth map
    """

    uid: str
    width: int
    height: int
    labels: tuple[str, ...]
    boxes: tuple[Box, ...]
    attributes: tuple[tuple[str, ...], ...]
    relations: tuple[tuple[int, str, int], ...]
    masks: tuple[Any, ...] | None = None
    depth_HW: Depth | None = None
    memory: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """Intermediate results of programs that others need again."""

    @cached_property
    def pixel_masks(self) -> Mask:
        """Masks of all objects, bool [N, H, W]. Raises DataError for a graph without masks."""
        if self.masks is None:
            raise DataError(f"'{self.uid}' has no masks", field="mask", expected="a mask for every region")
        shape = (len(self.labels), self.height, self.width)
        mask_NHW = np.zeros(shape, bool)
        for row, mask in enumerate(self.masks):
            mask_NHW[row] = pixels_of(mask, self.height, self.width)
        return mask_NHW

    @cached_property
    def counts(self) -> Counter[str]:
        """Counts of the labels."""
        return Counter(self.labels)

    @cached_property
    def unique(self) -> list[int]:
        """Objects whose label occurs once."""
        return [row for row, label in enumerate(self.labels) if self.counts[label] == 1]

    @cached_property
    def without_containers(self) -> list[int]:
        """Objects whose box contains no other box."""
        boxes = self.boxes
        return [i for i in range(len(boxes)) if not any(i != j and _contains(boxes[i], boxes[j]) for j in range(len(boxes)))]

    @cached_property
    def related(self) -> dict[tuple[int, int], tuple[str, ...]]:
        """Predicates by (subject, object), each once, in order."""
        holds: dict[tuple[int, int], dict[str, None]] = defaultdict(dict)
        for subject, predicate, other in self.relations:
            holds[subject, other].setdefault(predicate)
        return {pair: tuple(names) for pair, names in holds.items()}

    def components(self) -> list[list[int]]:
        """Objects that relations connect, the smallest group first; an object without relations is a group."""
        graph = nx.Graph()
        graph.add_nodes_from(range(len(self.labels)))
        graph.add_edges_from((subject, other) for subject, _, other in self.relations)
        return sorted((sorted(group) for group in nx.connected_components(graph)), key=len)

    def apart(self, n: int, axis: Axis, rng: np.random.Generator, most: int = 0) -> list[tuple[int, ...]]:
        """Subsets of `n` objects with unique labels that do not overlap: in x, in y, or (both) whose boxes do not meet.

        most  maximum number of subsets, sampled at random if there are more; 0 returns all
        """
        clear = {pair for pair in combinations(self.unique, 2) if not _overlap(self.boxes[pair[0]], self.boxes[pair[1]], axis)}

        def fits(subset: tuple[int, ...]) -> bool:
            return all(pair in clear for pair in combinations(subset, 2))

        if not most or math.comb(len(self.unique), n) <= ENUMERATED:
            return drawn([subset for subset in combinations(self.unique, n) if fits(subset)], most, rng)
        chosen: dict[tuple[int, ...], None] = {}
        for _ in range(20 * most):
            subset = tuple(sorted(rng.choice(self.unique, n, replace=False).tolist()))
            if fits(subset):
                chosen.setdefault(subset)
            if len(chosen) == most:
                break
        return list(chosen)


def drawn(items: Sequence[Any], most: int, rng: np.random.Generator) -> list[Any]:
    """At most `most` of the items, in their order, each as likely as any other; 0 returns all."""
    if not most or len(items) <= most:
        return list(items)
    return [items[row] for row in sorted(rng.choice(len(items), most, replace=False).tolist())]


def graph_of(sample: Sample, types: AttributeTypes, *, depth: bool = True) -> ImageGraph:
    """The graph of a sample. Raises DataError for a sample without a picture, or with depth of another size.

    depth  read the depth map
    """
    if sample.image is None:
        raise DataError(f"sample '{sample.uid}' has no picture", field="image", expected="an image with every graph")
    height, width = picture_size(sample.image)
    regions = sample.regions
    return ImageGraph(
        sample.uid,
        width,
        height,
        tuple(region.label for region in regions),
        tuple(region.box for region in regions),
        tuple(types.normalised(region.attributes) for region in regions),
        tuple((r.subject, r.predicate, r.object) for r in sample.relations if r.predicate not in LEFT_OUT),
        tuple(region.mask for region in regions) if regions and all(region.mask is not None for region in regions) else None,
        depth_of(sample, height, width) if depth else None,
    )


def picture_size(image: ImageSource) -> tuple[int, int]:
    """Height and width in pixels as it is shown, from the header of an encoded picture. Raises DecodeError."""
    if isinstance(image, ArrayImage):
        height, width = image.pixels_HWC.shape[:2]
        return height, width
    with content_untold(image):
        width, height = upright_size(image.read(), name=image.name)
    return height, width


def depth_of(sample: Sample, height: int, width: int) -> Depth | None:
    """Depth map of a sample, uint8 [H, W], larger is nearer; None if it has none. Raises DataError if its size differs."""
    item = sample.media.get(DEPTH)
    if item is None:
        return None
    try:
        depth_HWC = item.decode()
    except DecodeError as error:
        raise DataError(f"sample '{sample.uid}': {error}", field=DEPTH, expected="a grid of numbers") from error
    if depth_HWC.shape[:2] != (height, width):
        came = list(depth_HWC.shape[:2])
        raise DataError(
            f"sample '{sample.uid}' has depth of {came} pixels", field=DEPTH, expected=f"[{height}, {width}], as its image"
        )
    return stretched_depth(depth_HWC[..., 0])


def stretched_depth(depth_HW: npt.NDArray[Any]) -> Depth:
    """Depth as uint8: bytes unchanged, other dtypes rescaled from their minimum (0) to their maximum (255)."""
    if depth_HW.dtype == np.uint8:
        return np.asarray(depth_HW, np.uint8)
    low, high = float(depth_HW.min()), float(depth_HW.max())
    if high == low:
        return np.zeros(depth_HW.shape, np.uint8)
    return ((depth_HW.astype(np.float64) - low) / (high - low) * 255.0).astype(np.uint8)


def _contains(one: Box, other: Box) -> bool:
    return one[0] <= other[0] and one[1] <= other[1] and one[2] >= other[2] and one[3] >= other[3]


def _overlap(one: Box, other: Box, axis: Axis) -> bool:
    in_x = one[0] < other[2] and other[0] < one[2]
    in_y = one[1] < other[3] and other[1] < one[3]
    return in_x if axis == "x" else in_y if axis == "y" else in_x and in_y
