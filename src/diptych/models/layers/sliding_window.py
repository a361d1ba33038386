"""Sliding-window scores of a large image, averaged where windows overlap.

Letters: B batch of one, C channel, H W pixels, K classes, S side of the window, R Q rows and columns of a window's scores.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def sliding_window_mean(image_BCHW: Tensor, size: int, stride: int, scores: Callable[[Tensor], Tensor]) -> Tensor:
    """Return [K, H, W]: the mean of `scores` over all windows that contain a pixel.

    size    of the square window in pixels; an image with a shorter side is read in windows of that side
    scores  maps an image [B, C, S, S] to [B, K, R, Q] at any resolution, which is resized to that of the window
    """
    high, wide = image_BCHW.shape[-2:]
    total_BKHW: Tensor | None = None
    count_HW = torch.zeros(high, wide, device=image_BCHW.device)
    for top in window_starts(high, size, stride):
        for left in window_starts(wide, size, stride):
            part = slice(top, min(top + size, high)), slice(left, min(left + size, wide))
            shown = part[0].stop - top, part[1].stop - left
            found_BKRQ = scores(image_BCHW[..., part[0], part[1]])
            score_BKSS = F.interpolate(found_BKRQ, size=shown, mode="bilinear", align_corners=False)
            if total_BKHW is None:
                total_BKHW = score_BKSS.new_zeros(1, score_BKSS.shape[1], high, wide)
            total_BKHW[..., part[0], part[1]] += score_BKSS
            count_HW[part] += 1
    assert total_BKHW is not None
    return (total_BKHW / count_HW)[0]


def window_starts(side: int, size: int, stride: int) -> list[int]:
    """Return the start positions of a sliding window; the last window ends at the border of the image.

    >>> window_starts(100, 64, 40), window_starts(64, 64, 40)
    ([0, 36], [0])
    """
    steps = max(side - size + stride - 1, 0) // stride + 1
    return [max(min(step * stride + size, side) - size, 0) for step in range(steps)]
