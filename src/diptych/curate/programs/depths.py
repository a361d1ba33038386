"""Programs about depth and masks: nearer and farther points and objects, and which of two points lies on the same object."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.curate.programs.graph import Depth, ImageGraph
from diptych.curate.programs.questions import Ask, Need, Program, ProgramQuestion, Settings, Slot, printed_point
from diptych.data.masks import Mask

Rng = np.random.Generator
Pixel = tuple[int, int]
"""(row, column)"""
Which = Literal["closer", "farther"]


def compare_points(which: Which) -> Ask:
    """Asks which of two points is closer or farther: one question per image, none if no sampled pair differs enough."""

    def ask(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
        depth_HW = _depth(graph)
        points = _first_points(depth_HW, settings, rng) if "first_points" in settings.habits else _points(depth_HW, settings, rng)
        if points is None:
            return []
        nearer, other = points if "inverted_points" not in settings.habits else points[::-1]
        return [_pair(f"{which}_point", which, nearer, other, {}, {})]

    return ask


def _points(depth_HW: Depth, settings: Settings, rng: Rng) -> tuple[str, str] | None:
    """Two printed points, nearer first, whose depths at the printed coordinates differ by the gap; None after the retries."""
    height, width = depth_HW.shape
    for _ in range(settings.retries + 1):
        pixels = [(int(rng.integers(height)), int(rng.integers(width))) for _ in range(2)]
        texts = [_printed(pixel, height, width) for pixel in pixels]
        depths = [float(depth_HW[printed_pixel(pixel, height, width)]) for pixel in pixels]
        if texts[0] != texts[1] and abs(depths[0] - depths[1]) >= settings.gap:
            return (texts[0], texts[1]) if depths[0] > depths[1] else (texts[1], texts[0])
    return None


def _first_points(depth_HW: Depth, settings: Settings, rng: Rng) -> tuple[str, str] | None:
    """Points as in the released code: the first pair is printed, the last one is compared, and no pair is rejected."""
    height, width = depth_HW.shape

    def draw() -> Pixel:
        return int(rng.integers(height)), int(rng.integers(width))

    pixels = [draw(), draw()]
    texts = [_printed(pixel, height, width) for pixel in pixels]
    for _ in range(settings.retries):
        if texts[0] == texts[1]:
            pixels[1] = draw()
            texts = [_printed(pixel, height, width) for pixel in pixels]
    if texts[0] == texts[1]:
        return None
    for _ in range(settings.retries):
        if abs(float(depth_HW[pixels[0]]) - float(depth_HW[pixels[1]])) >= settings.gap:
            break
        pixels = [draw(), draw()]
    # on a tie the second point counts as nearer here, and as farther under the inverted comparison; both as released
    return (texts[0], texts[1]) if depth_HW[pixels[0]] >= depth_HW[pixels[1]] else (texts[1], texts[0])


def compare_objects(which: Which) -> Ask:
    """Which of two objects with unique labels, whose boxes do not meet, is closer or farther."""

    def ask(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
        depth_N, asked = object_depths(graph), []
        for one, other in graph.apart(2, "both", rng, settings.most):
            one_depth, other_depth = depth_N[one], depth_N[other]
            if one_depth is None or other_depth is None or abs(one_depth - other_depth) < settings.gap:
                continue
            nearer, farther = (one, other) if one_depth > other_depth else (other, one)
            labels = graph.labels[nearer], graph.labels[farther]
            asked.append(_pair(f"{which}_object", which, *labels, {}, {"object": labels}))
        return asked

    return ask


def compare_to_anchor(which: Which) -> Ask:
    """Which of two objects is closer to a third in depth, or farther from it: their distances differ by the gap."""

    def ask(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
        depth_N, asked = object_depths(graph), []
        for rows in graph.apart(3, "both", rng, settings.most):
            depths = [(depth, row) for row in rows if (depth := depth_N[row]) is not None]
            if len(depths) < 3:
                continue
            (low, far), (middle, between), (high, near) = sorted(depths, key=lambda one: one[0])
            if abs((middle - low) - (high - middle)) < settings.gap:
                continue
            first = rng.random() < 0.5
            if middle - low > high - middle:
                anchor, closer, farther = (near, between, far) if first else (between, near, far)
            else:
                anchor, closer, farther = (far, between, near) if first else (between, far, near)
            anchor_label, *labels = (graph.labels[row] for row in (anchor, closer, farther))
            metadata = {"object": (anchor_label, *labels)}
            program = f"{which}_to_anchor_object"
            asked.append(_pair(program, which, labels[0], labels[1], {"anchor": anchor_label}, metadata))
        return asked

    return ask


def compare_segments(which: Literal["same", "different"]) -> Ask:
    """Which of two points at the same distance from an anchor lies on the anchor's object, or does not: a question an object."""

    def ask(graph: ImageGraph, settings: Settings, rng: Rng) -> list[ProgramQuestion]:
        asked = []
        owner_HW = label_mask(graph.pixel_masks)
        for number in np.unique(owner_HW[owner_HW > 0]).tolist():
            points = segment_points(owner_HW == number, settings.retries, rng)
            if points is None:
                continue
            anchor, same, different = points
            right, wrong = (same, different) if which == "same" else (different, same)
            slots: dict[str, Slot] = {"candidates": (same, different), "anchor": anchor}
            asked.append(ProgramQuestion(f"{which}_object_segment", slots, (right,), right, (wrong,), {}))
        return asked

    return ask


def object_depths(graph: ImageGraph) -> list[float | None]:
    """Depth of each object: the value that is most frequent inside its mask, the smallest of equally frequent ones; None for an
    empty mask."""
    if "depths" not in graph.memory:
        depth_HW = _depth(graph)
        inside = [depth_HW[mask_HW] for mask_HW in graph.pixel_masks]
        graph.memory["depths"] = [float(np.bincount(values).argmax()) if values.size else None for values in inside]
    depths: list[float | None] = graph.memory["depths"]
    return depths


def label_mask(mask_NHW: Mask) -> npt.NDArray[np.int32]:
    """Index of the mask at each pixel, counted from 1; 0 for no mask, the last one where masks overlap. int32 [H, W]"""
    owner_HW = np.zeros(mask_NHW.shape[1:], np.int32)
    for number, mask_HW in enumerate(mask_NHW, start=1):
        owner_HW[mask_HW] = number
    return owner_HW


def segment_points(mask_HW: Mask, retries: int, rng: Rng) -> tuple[str, str, str] | None:
    """(anchor, point of the same mask, point outside at the same distance) as printed; None after `retries` draws of the second,
    each with as many of the third."""
    height, width = mask_HW.shape
    rows, columns = np.nonzero(mask_HW)

    def inside() -> Pixel:
        pixel = int(rng.integers(len(rows)))
        return int(rows[pixel]), int(columns[pixel])

    def lies_in(pixel: Pixel) -> bool:
        return bool(mask_HW[printed_pixel(pixel, height, width)])

    anchor = inside()
    for _ in range(retries):
        same = inside()
        texts = [_printed(pixel, height, width) for pixel in (anchor, same)]
        if texts[0] == texts[1] or not (lies_in(anchor) and lies_in(same)):
            continue
        length = math.dist(anchor, same)
        for _ in range(retries):
            angle = rng.uniform(0, 2 * math.pi)
            other = anchor[0] + int(math.sin(angle) * length), anchor[1] + int(math.cos(angle) * length)
            if not (0 <= other[0] < height and 0 <= other[1] < width) or mask_HW[other] or lies_in(other):
                continue
            text = _printed(other, height, width)
            if text not in texts:
                return texts[0], texts[1], text
    return None


def printed_pixel(pixel: Pixel, height: int, width: int) -> Pixel:
    """The pixel that a point denotes after rounding to two decimals."""
    row, column = (round(round(value / size, 2) * size) for value, size in zip(pixel, (height, width), strict=True))
    return min(row, height - 1), min(column, width - 1)


def _printed(pixel: Pixel, height: int, width: int) -> str:
    return printed_point(pixel[1], pixel[0], width, height)


def _depth(graph: ImageGraph) -> Depth:
    if graph.depth_HW is None:
        raise ValueError(f"'{graph.uid}' has no depth: programs with needs are only asked of graphs that have them")
    return graph.depth_HW


def _pair(
    program: str, which: Which, nearer: str, farther: str, slots: dict[str, str], metadata: dict[str, tuple[str, ...]]
) -> ProgramQuestion:
    right, wrong = (nearer, farther) if which == "closer" else (farther, nearer)
    return ProgramQuestion(program, {"candidates": (nearer, farther), **slots}, (right,), right, (wrong,), metadata)


_AREAS: tuple[Need, ...] = ("boxes", "masks", "depth")
DEPTH_PROGRAMS = (
    Program("closer_point", "which of two points is closer", compare_points("closer"), ("depth",), False),
    Program("farther_point", "which of two points is farther", compare_points("farther"), ("depth",), False),
    Program("closer_object", "which of two objects is closer", compare_objects("closer"), _AREAS),
    Program("farther_object", "which of two objects is farther", compare_objects("farther"), _AREAS),
    Program("closer_to_anchor_object", "which of two objects is closer in depth to a third", compare_to_anchor("closer"), _AREAS),
    Program("farther_to_anchor_object", "which is farther in depth from a third", compare_to_anchor("farther"), _AREAS),
    Program("same_object_segment", "which of two points lies on an object", compare_segments("same"), ("masks",), False),
    Program("different_object_segment", "which of two points does not", compare_segments("different"), ("masks",), False),
)
