"""Pictures and masks placed on a black square at random, as the released RelationBooth augments them (2410.23280).

Letters: H W pixels, K masks, S side of the masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import resize

Pixels = npt.NDArray[np.uint8]
CROPPED = 0.5
"""Share of the pictures that are cropped before they are placed."""


def placed_on_black(
    image_HWC: Pixels, masks: Sequence[npt.NDArray[np.bool_]], size: int, mask_side: int, rng: np.random.Generator
) -> tuple[Pixels, Tensor]:
    """uint8 [size, size, 3], and bool masks [K, S, S] that went through the same.

    The short side is resized to `size`; half the pictures are cropped, wide ones to a random square, tall ones at the bottom; the short
    side is resized to `size - 1`, or the long one to `size`; and what comes out lies at a random place on black. Masks are then sampled
    bilinearly at the smaller side and cut at one half.
    """
    parts = [Image.fromarray(image_HWC), *(Image.fromarray(mask_HW.astype(np.uint8) * 255) for mask_HW in masks)]
    parts = [resize(part, size) for part in parts]
    width, height = parts[0].size
    if rng.random() < CROPPED:
        if height > width:
            box = (0, 0, width, width + int(rng.integers(height - width + 1)))
        else:
            left = int(rng.integers(width - size + 1))
            box = (left, 0, left + size, size)
        parts = [part.crop(box) for part in parts]
    parts = [resize(part, size - 1, max_size=size) for part in parts]
    width, height = parts[0].size
    top, left = int(rng.integers(size - height + 1)), int(rng.integers(size - width + 1))
    canvases = []
    for part in parts:
        canvas = Image.new(part.mode, (size, size))
        canvas.paste(part, (left, top))
        canvases.append(np.asarray(canvas))
    if not masks:
        return canvases[0], torch.zeros(0, mask_side, mask_side, dtype=torch.bool)
    mask_KHW = torch.from_numpy(np.stack(canvases[1:])).double() / 255
    return canvases[0], functional.interpolate(mask_KHW[None], (mask_side, mask_side), mode="bilinear")[0] >= 0.5


def mask_boxes(mask_KSS: Tensor) -> Tensor:
    """Boxes [K, 4] from the first to the last row and column of each mask, as shares of the sides; zeros for an empty mask. The last row
    and column count as ends, so that boxes are one cell smaller than the masks, as in the release."""
    boxes = []
    for mask_SS in mask_KSS:
        rows, columns = mask_SS.any(1).nonzero(), mask_SS.any(0).nonzero()
        corners = (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else (0, 0, 0, 0)
        boxes.append([float(corner) / size for corner, size in zip(corners, (*mask_SS.shape[::-1],) * 2, strict=True)])
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
