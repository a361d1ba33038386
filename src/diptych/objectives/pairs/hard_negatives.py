"""Contrastive losses with hard negative texts: NegCLIP's wide matrix (2210.01936), SVLC's per-image negatives (2211.11733).

    wide      CE(scale [v.t | v.n], own text) for images, over the texts *and* the negatives of the whole batch; for texts, over the images
    own       mean over images with negatives of CE(scale [v_i.t_i, v_i.n_i1, ...], first)

What implementations get wrong: with several processes the released NegCLIP puts the first process's negatives where the labels of the
second point, and the released SVLC cuts the negatives off before it gathers them; a missing negative is encoded as an empty text,
which then repels images. Here the columns of all texts come first and then all negatives, for any number of processes, and
missing negatives are excluded from all sums.

Letters: N images of this process, K negatives per image at most, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.gather import Group, all_gather, mean_over_processes, world
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.pairing import Same, as_scalar

NOBODY = -1
"""Group id of a negative text: matches no image."""


def wide_info_nce(
    image_ND: Tensor,
    text_ND: Tensor,
    negative_NKD: Tensor,
    there_NK: Tensor,
    *,
    scale: Tensor | float,
    group_N: Tensor | None = None,
    same: Same = "mask",
    process_group: Group = None,
) -> Tensor:
    """CLIP's loss, in which every image is compared with the negatives of all images too. Negatives have no loss of their own.

    there_NK  bool, True for existing negatives; the others are excluded from every sum. Group ids are 0 or more
    """
    _check(image_ND, text_ND, negative_NKD, there_NK)
    text_MD = torch.cat([text_ND, negative_NKD.flatten(0, 1)])
    group_M = None
    if group_N is not None:
        group_M = torch.cat([group_N, group_N.new_full((there_NK.numel(),), NOBODY)])
    loss, _ = info_nce(
        image_ND,
        text_MD,
        scale=scale,
        group_N=group_N,
        group_M=group_M,
        same=same,
        keep_NM=_kept(there_NK, process_group),
        process_group=process_group,
    )
    return loss


def own_negatives(
    image_ND: Tensor,
    text_ND: Tensor,
    negative_NKD: Tensor,
    there_NK: Tensor,
    *,
    scale: Tensor | float,
    process_group: Group = None,
) -> Tensor:
    """Mean over the images of all processes that have negatives of -log softmax of their own text against their own negatives.

    With one negative it is softplus(scale (v.n - v.t)). 0 if no image has one.
    """
    _check(image_ND, text_ND, negative_NKD, there_NK)
    factor = as_scalar(scale, "scale", device=image_ND.device).to(torch.promote_types(image_ND.dtype, torch.float32))
    with torch.autocast(image_ND.device.type, enabled=False):
        image_ND, text_ND, negative_NKD = (
            x.to(torch.promote_types(x.dtype, torch.float32)) for x in (image_ND, text_ND, negative_NKD)
        )
        own_N1 = (image_ND * text_ND).sum(-1, keepdim=True) * factor
        # Mask after scaling: otherwise the gradient of the scale would be 0 times infinity.
        other_NK = (torch.einsum("nd,nkd->nk", image_ND, negative_NKD) * factor).masked_fill(~there_NK, -torch.inf)
        logit_NK = torch.cat([own_N1, other_NK], 1)
        each_N = logit_NK.logsumexp(1) - logit_NK[:, 0]
    any_N = there_NK.any(1).to(each_N.dtype)
    count = mean_over_processes(any_N.sum(), process_group).detach()
    return mean_over_processes((each_N * any_N).sum(), process_group) / count.clamp(min=1e-12)


def _kept(there_NK: Tensor, process_group: Group) -> Tensor | None:
    """Mask [N, M] of local images by the texts of all processes, then their negatives; None if none is missing."""
    all_M = all_gather(there_NK.to(torch.uint8), process_group).flatten().bool()
    if all_M.device.type == "cpu" and bool(all_M.all()):  # on a GPU this would synchronise
        return None
    rows, count = len(there_NK), world(process_group)[1]
    text_N = all_M.new_ones(rows * count)
    return torch.cat([text_N, all_M]).expand(rows, -1)


def _check(image_ND: Tensor, text_ND: Tensor, negative_NKD: Tensor, there_NK: Tensor) -> None:
    if image_ND.shape != text_ND.shape or negative_NKD.shape[::2] != image_ND.shape or there_NK.shape != negative_NKD.shape[:2]:
        raise ShapeError(
            f"expected images and texts [N, D], negatives [N, K, D] and which are there [N, K]; got {list(image_ND.shape)}, "
            f"{list(text_ND.shape)}, {list(negative_NKD.shape)} and {list(there_NK.shape)}"
        )
