"""Contrast of points with the pixels that they are seen at (Text4Point, 2301.07584).  Letters: B frames, M pairs, D width."""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.objectives.gather import Group, world
from diptych.objectives.pairs.info_nce import Directions, info_nce

PIXELS = 1 << 32
"""More than a picture has."""


def point_pixel_contrast(
    point_BMD: Tensor,
    pixel_BMD: Tensor,
    pixel_id_BM: Tensor | None = None,
    *,
    scale: Tensor | float,
    directions: Directions = "both",
    process_group: Group = None,
) -> Tensor:
    """InfoNCE over all pairs of all frames; points of one pixel of one frame are no negatives of each other.

    point_BMD, pixel_BMD  unit-norm features, M pairs a frame
    pixel_id_BM  number of each pair's pixel in its frame; None takes all pairs as different
    """
    group_N = None
    if pixel_id_BM is not None:
        frames = len(pixel_id_BM)
        frame_B1 = torch.arange(frames, device=pixel_id_BM.device)[:, None] + world(process_group)[0] * frames
        group_N = (frame_B1 * PIXELS + pixel_id_BM).flatten()
    loss, _ = info_nce(
        point_BMD.flatten(0, 1),
        pixel_BMD.flatten(0, 1),
        scale=scale,
        group_N=group_N,
        directions=directions,
        process_group=process_group,
    )
    return loss
