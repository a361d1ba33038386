"""Several views of an image, and patches to hide.  Letters: B batch, V views, C channel, H W, P patches, M hidden ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError
from diptych.data.load.batch import pixels
from diptych.data.media.transforms import Preprocess, crop_box, flipped, random_crop, resized

RATIO = (0.75, 4 / 3)
"""Width over height of a random crop, as in `data.media.transforms.random_crop`."""


def local_views(
    draws: Draws, preprocess: Preprocess, *, count: int, size: int, scale: tuple[float, float], flip: bool = False
) -> Tensor:
    """[B, V, C, size, size]: small random parts of each image. The draw's own generator decides; call it after the global view.

    flip  half of the parts are mirrored, each by a draw of its own
    """
    if count < 1:
        return torch.zeros(len(draws), 0, 3, size, size)
    parts = []
    for draw in draws:
        for _ in range(count):
            part_HWC = random_crop(pixels(draw), size, draw.rng, scale)
            parts.append(flipped(part_HWC, draw.rng) if flip else part_HWC)
    return preprocess.normalise(np.stack(parts)).reshape(len(draws), count, 3, size, size)


@dataclass(frozen=True, slots=True)
class View:
    """A part of an image as one step sees it: its pixels [H, W, 3], where it was cut (top, left, height, width in pixels of the image),
    and whether it was mirrored left to right."""

    image_HWC: npt.NDArray[np.uint8]
    box: tuple[int, int, int, int]
    mirrored: bool


def placed_view(draw: Draw, size: int, crop_scale: tuple[float, float], flip: bool) -> View:
    """Random view as `data.load.batch.view` gives it, from the same random draws, together with its crop box."""
    image_HWC = pixels(draw)
    height, width = image_HWC.shape[:2]
    box, mirrored = (0, 0, height, width), False
    if crop_scale[0] < 1:
        box = crop_box(height, width, draw.rng, crop_scale, RATIO)
        top, left, height, width = box
        image_HWC = image_HWC[top : top + height, left : left + width]
        if image_HWC.shape[:2] != (size, size):
            image_HWC = resized(image_HWC, size)
    if flip:
        before = image_HWC
        image_HWC = flipped(image_HWC, draw.rng)
        mirrored = image_HWC is not before
    return View(image_HWC, box, mirrored)


def patches_in(of: View, where: View, side: int) -> Tensor:
    """[P, 4]: the patches of one view of an image in another of its views: cxcywh, the other one being the square from 0 to 1.

    side  patches a side of the first, P = side^2, row by row. A place outside the other view is below 0 or above 1.
    """
    middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    y_P, x_P = (axis.reshape(-1) for axis in torch.meshgrid(middle, middle, indexing="ij"))
    top, left, height, width = of.box
    other_top, other_left, other_height, other_width = where.box
    x_P = 1 - x_P if of.mirrored else x_P
    y_P = (top + y_P * height - other_top) / other_height
    x_P = (left + x_P * width - other_left) / other_width
    x_P = 1 - x_P if where.mirrored else x_P
    sizes = (torch.full_like(x_P, width / other_width / side), torch.full_like(y_P, height / other_height / side))
    return torch.stack((x_P, y_P, *sizes), 1).float()


def hidden_patches(draws: Draws, *, patches: int, share: float, spread: float = 0.0) -> tuple[Tensor, Tensor]:
    """hidden_BP bool and place_BM int64: round(share * patches) patches of each image at random, in order.

    With a spread, each image's share is drawn evenly from share - spread to share + spread, and place_BM ends in -1 where an image
    has fewer than the most that can be.
    """
    if not 0 <= share - abs(spread) <= share + abs(spread) < 1:
        raise ConfigError(f"the share of hidden patches is {share} +- {spread} (expected at least 0, below 1)")
    place_BM = torch.full((len(draws), round((share + abs(spread)) * patches)), -1, dtype=torch.int64)
    hidden_BP = torch.zeros(len(draws), patches, dtype=torch.bool)
    for row, draw in enumerate(draws):
        count = round((share + draw.rng.uniform(-spread, spread) if spread else share) * patches)
        place_BM[row, :count] = torch.from_numpy(np.sort(draw.rng.permutation(patches)[:count]))
        hidden_BP[row, place_BM[row, :count]] = True
    return hidden_BP, place_BM
