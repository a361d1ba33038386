"""Rectangles of patches to hide (BEiT, 2106.08254; as iBOT and DINOv2 draw them).  Letters: N images, P patches, M hidden ones."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

ASPECT = 0.3
LEAST = 4
"""Least height over width of a rectangle, the greatest being its inverse, and its least number of patches."""
TRIES = 10


def block_mask(rng: np.random.Generator, side: int, count: int) -> npt.NDArray[np.bool_]:
    """bool [side, side] with about `count` True: rectangles until there are as many, or none fits within ten tries."""
    mask = np.zeros((side, side), np.bool_)
    most = 0.5 * side * side
    while (left := count - int(mask.sum())) > 0:
        if not _add_block(rng, mask, min(left, most)):
            break
    return mask


def _add_block(rng: np.random.Generator, mask: npt.NDArray[np.bool_], most: float) -> bool:
    side = len(mask)
    for _ in range(TRIES):
        area = LEAST + (most - LEAST) * rng.random()
        aspect = math.exp(rng.uniform(math.log(ASPECT), -math.log(ASPECT)))
        high, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (wide < side and high < side):
            continue
        top, left = int(rng.integers(side - high + 1)), int(rng.integers(side - wide + 1))
        part = mask[top : top + high, left : left + wide]
        if 0 < high * wide - int(part.sum()) <= most:
            part[:] = True
            return True
    return False


def masked_images(
    rng: np.random.Generator, images: int, side: int, *, share: float, least: float, most: float
) -> npt.NDArray[np.bool_]:
    """bool [N, P] for a batch: `share` of its images are masked, the n-th of them by a number of patches drawn evenly from the n-th part of
    `least` to `most` of all patches, and which images those are is random, as DINOv2's collation does it."""
    count = int(images * share)
    edges = np.linspace(least, most, count + 1)
    masks = [block_mask(rng, side, int(side * side * rng.uniform(low, high))) for low, high in pairwise(edges.tolist())]
    masks += [np.zeros((side, side), np.bool_)] * (images - count)
    return np.stack([masks[number] for number in rng.permutation(images).tolist()]).reshape(images, -1)
