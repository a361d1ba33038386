"""Losses of RelationBooth (2410.23280): latents at matching key points, and attention of the predicate outside the things it relates.

Letters: B batch, R reference pictures, K key points, C channel, H W, T steps of noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from diptych.core.errors import ShapeError

EPS = 1e-5


def key_point_matching(
    clean_BCHW: Tensor,
    reference_BRCHW: Tensor,
    target_BRK2: Tensor,
    point_BRK2: Tensor,
    *,
    visible_BRK: Tensor | None = None,
    scale: Literal["latents", "channels"] = "latents",
) -> Tensor:
    """Squared difference [B] between the estimated clean latents at the key points of the target picture and the latents of each reference
    picture at its own, mean over references, key points and channels.

    target_BRK2, point_BRK2  x and y as shares of the picture's sides; a point on the far edge is that of the last cell
    visible_BRK  weights of the key points, 1 or 0; None counts all
    scale        "latents": shares times the sides of the latents; "channels": for the reference pictures times the number of
                 channels, as the released code does, whose tensor is permuted between both gathers
    """
    found_BRKC = torch.stack([latents_at(clean_BCHW, target_BRK2[:, at]) for at in range(target_BRK2.shape[1])], 1)
    sides = None if scale == "latents" else (clean_BCHW.shape[1],) * 2
    wanted_BRKC = torch.stack(
        [latents_at(reference_BRCHW[:, at], point_BRK2[:, at], sides) for at in range(point_BRK2.shape[1])], 1
    )
    gap_BRK = (found_BRKC.float() - wanted_BRKC.float()).square().mean(-1)
    if visible_BRK is None:
        return gap_BRK.mean((1, 2))
    visible_BRK = visible_BRK.to(gap_BRK.dtype)
    return (gap_BRK * visible_BRK).sum((1, 2)) / visible_BRK.sum((1, 2)).clamp(min=1.0)


def latents_at(latent_BCHW: Tensor, point_BK2: Tensor, sides: tuple[int, int] | None = None) -> Tensor:
    """Latents [B, K, C] of the cells that points lie in. `sides`: height and width that shares are multiplied with; None takes those of the
    latents. Cells outside are moved to the edge."""
    height, width = latent_BCHW.shape[-2:]
    tall, wide = sides or (height, width)
    x_BK = (point_BK2[..., 0] * wide).long().clamp(0, width - 1)
    y_BK = (point_BK2[..., 1] * tall).long().clamp(0, height - 1)
    row_B1 = torch.arange(len(latent_BCHW), device=latent_BCHW.device)[:, None]
    gathered_BKC: Tensor = latent_BCHW.permute(0, 2, 3, 1)[row_B1, y_BK, x_BK]
    return gathered_BKC


def attention_outside(maps: Sequence[Tensor], mask_BHW: Tensor, *, overwritten: bool = False) -> Tensor:
    """Mean over layers of the attention outside a mask minus that inside, [B].

    maps         of the predicate's tokens, [B, h, w] for each layer, of any sizes
    mask_BHW     1 on the things, 0 elsewhere
    overwritten  each layer's mask is resized from that of the layer before, as released, and not from the whole one
    """
    if not maps:
        raise ShapeError("there is no attention map (expected one layer or more)")
    terms = []
    mask_B1HW = mask_BHW[:, None].float()
    for map_BHW in maps:
        resized_B1HW = functional.interpolate(mask_B1HW, size=map_BHW.shape[-2:], mode="nearest")
        mask_B1HW = resized_B1HW if overwritten else mask_B1HW
        inside_BHW = resized_B1HW[:, 0].to(map_BHW.dtype)
        outside_BHW = 1 - inside_BHW
        outside_B, inside_B = (
            (map_BHW * part_BHW).sum((1, 2)) / (part_BHW.sum((1, 2)) + EPS) for part_BHW in (outside_BHW, inside_BHW)
        )
        terms.append(outside_B - inside_B)
    return torch.stack(terms).mean(0)


def gated_mean(loss_B: Tensor, timestep_B: Tensor, last: int) -> Tensor:
    """Mean over the batch of a loss [B] that rows above step `last` have none of: the released condition, taken for each row."""
    return (loss_B * (timestep_B <= last).to(loss_B.dtype)).mean()
