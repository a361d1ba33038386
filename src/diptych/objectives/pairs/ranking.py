"""Triplet ranking loss with semi-hard negatives: an anchor is nearer to its own text than to another person's (LGUR, 2207.07802;
UniPT).

For each image the negatives are the texts of other identities whose hinge  margin - s_ii + s_ij  lies above 0 and below the
margin: they are farther than its own text, but not by the margin. One of them is drawn; anchors without any have no loss.
Likewise for each text.

What implementations get wrong: negatives of the same identity; a sum over anchors instead of a mean, so that the loss grows with
the batch; an arbitrary triplet if no anchor has a semi-hard negative, which trains on an easy or a wrong pair (as released); the
negative of text i, image j, selected by s_ji but penalised with s_ij, which is image i against text j (as released; `cells`).

Letters: N pairs, W processes, C texts of all processes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, gather_rows, mean_over_processes, world

Cells = Literal["paper", "released"]


def semi_hard_ranking(
    image_ND: Tensor,
    text_ND: Tensor,
    group_N: Tensor,
    draw_N2: Tensor,
    *,
    margin: float = 0.2,
    reduction: Literal["mean", "sum"] = "mean",
    cells: Cells = "paper",
    process_group: Group = None,
) -> Tensor:
    """Semi-hard ranking loss of both directions together.

    image_ND, text_ND  features of any length; cosines are compared
    group_N    identities
    draw_N2    numbers in [0, 1) that choose among the semi-hard negatives of each image and of each text
    reduction  "mean" over pairs, or the "sum" over them, as released
    cells      cosine in the hinge of a text's negative: its own ("paper"), or that of the pair's image with the negative's text
               ("released")
    """
    if image_ND.shape != text_ND.shape or group_N.shape != image_ND.shape[:1] or draw_N2.shape != (len(image_ND), 2):
        raise ShapeError(
            f"images, texts, groups and draws must be [N, D], [N, D], [N] and [N, 2]; got {list(image_ND.shape)}, "
            f"{list(text_ND.shape)}, {list(group_N.shape)} and {list(draw_N2.shape)}"
        )
    if margin <= 0 or reduction not in ("mean", "sum") or cells not in get_args(Cells):
        raise ConfigError(
            f"margin is {margin}, reduction {reduction!r} and cells {cells!r} (expected above 0, mean | sum, paper | released)"
        )
    dtype = torch.promote_types(image_ND.dtype, torch.float32)
    image_ND, text_ND = (F.normalize(x.to(dtype), dim=-1) for x in (image_ND, text_ND))
    group_C = gather_rows(group_N, process_group)
    rank, count = world(process_group)
    own_N = rank * len(group_N) + torch.arange(len(group_N), device=group_N.device)
    total = image_ND.new_zeros(())
    for side, (anchor_ND, key_ND) in enumerate(((image_ND, text_ND), (text_ND, image_ND))):
        cosine_NC = anchor_ND @ gather_rows(key_ND, process_group).T
        hinge_NC = margin - cosine_NC.gather(1, own_N[:, None]) + cosine_NC
        fits_NC = (hinge_NC > 0) & (hinge_NC < margin) & (group_N[:, None] != group_C)
        chosen_NC = _drawn(fits_NC, draw_N2[:, side])
        if side and cells == "released":
            other_NC = key_ND @ gather_rows(anchor_ND, process_group).T
            hinge_NC = margin - other_NC.gather(1, own_N[:, None]) + other_NC
        each_N = hinge_NC.relu().masked_fill(~chosen_NC, 0).sum(1)
        total = total + mean_over_processes(each_N.sum(), process_group)
    return total * count if reduction == "sum" else total / len(group_N)


def _drawn(fits_NC: Tensor, draw_N: Tensor) -> Tensor:
    """Mask of the cell drawn in each row among those that fit; empty for rows without any."""
    many_N = fits_NC.sum(1)
    wanted_N = (draw_N * many_N).floor().long().clamp_max((many_N - 1).clamp_min(0)) + 1
    return fits_NC & (fits_NC.cumsum(1) == wanted_N[:, None])
