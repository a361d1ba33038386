"""Similarity distillation: a student's similarities against a teacher's (CTP's topology preservation, CLIP distillation).

With unit rows of the model (x, y) and of a reference (x', y'), for each row i over all columns j of the global batch

    t2t, i2i   own entry left out           p_ij = softmax_j(x'_i . y'_j / tau),   q_ij = softmax_j(x_i . y_j / tau)
    i2t, t2i   own entry kept               loss = mean_i sum_j p_ij (log p_ij - log q_ij)

The features themselves are not constrained: the space may rotate. Zero when both models give equal similarities. The reference has no
gradient. `clip_distillation` is the mean of i2t and t2i alone, as a cross-entropy, with a scale for each model.

What implementations get wrong: the student's scale on the teacher's similarities, which flattens the targets; KL in the other
direction; a mean over all entries in place of rows; rows of one process only, which compares other neighbourhoods on every number
of processes.

Letters: N rows of this process, M columns of all processes, T rows of a tile, D width.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, check_equal_rows, gather_rows, mean_over_processes, world


def similarity_kl(
    query_ND: Tensor,
    key_ND: Tensor,
    reference_query_ND: Tensor,
    reference_key_ND: Tensor,
    *,
    scale: Tensor | float,
    reference_scale: Tensor | float | None = None,
    own: bool = True,
    divergence: Literal["kl", "cross_entropy"] = "kl",
    tile: int = 512,
    process_group: Group = None,
) -> Tensor:
    """The mean over the rows of all processes of KL(reference || model) between rows of scaled similarities.

    scale            1 / tau of the model
    reference_scale  of the reference; None: the model's (as CTP has it)
    own              False leaves each row's own column out
    divergence       "cross_entropy" adds the reference's entropy, a constant: equal gradients, another value
    tile             rows at a time: their products are formed again in backward, so memory grows with the batch and not with its square

    Model and reference may differ in width. After averaging over processes, gradients are those of the global mean.
    """
    if divergence not in ("kl", "cross_entropy"):
        raise ConfigError(f"divergence must be 'kl' or 'cross_entropy', got {divergence!r}")
    if tile < 1:
        raise ConfigError(f"tile must be 1 or more rows, got {tile}")
    if (
        query_ND.shape != key_ND.shape
        or reference_query_ND.shape != reference_key_ND.shape
        or len(query_ND) != len(reference_key_ND)
    ):
        shapes = [list(x.shape) for x in (query_ND, key_ND, reference_query_ND, reference_key_ND)]
        raise ShapeError(f"rows of model and reference must be [N, D] with one N, got {shapes}")
    rank, count = world(process_group)
    if not own and len(query_ND) * count < 2:
        raise ShapeError("a row without its own column needs another one: got a batch of 1")
    check_equal_rows(process_group, query_ND=query_ND)
    key_MD = gather_rows(key_ND, process_group)
    reference_MD = gather_rows(reference_key_ND.detach(), process_group)
    offset = rank * len(query_ND)
    total = query_ND.new_zeros((), dtype=torch.promote_types(query_ND.dtype, torch.float32))
    for start in range(0, len(query_ND), tile):
        rows = slice(start, start + tile)
        skip = -1 if own else offset + start
        scales = (scale, scale if reference_scale is None else reference_scale)
        given = (query_ND[rows], key_MD, reference_query_ND[rows].detach(), reference_MD, scales, skip, divergence)
        one_tile = len(query_ND) <= tile
        total = total + (_tile_sum(*given) if one_tile else checkpoint(_tile_sum, *given, use_reentrant=False))
    return mean_over_processes(total / len(query_ND), process_group)


def _tile_sum(
    query_TD: Tensor,
    key_MD: Tensor,
    reference_TD: Tensor,
    reference_MD: Tensor,
    scales: tuple[Tensor | float, Tensor | float],
    skip: int,
    divergence: str,
) -> Tensor:
    """The sum over the rows of a tile; the own column of its first row is `skip`, -1 keeps all."""
    own_TM = torch.zeros(len(query_TD), len(key_MD), dtype=torch.bool, device=query_TD.device)
    if skip >= 0:
        own_TM.diagonal(skip)[: len(query_TD)] = True
    log_p_TM = _log_shares(reference_TD, reference_MD, scales[1], own_TM).detach()
    log_q_TM = _log_shares(query_TD, key_MD, scales[0], own_TM)
    gap_TM = log_p_TM - log_q_TM if divergence == "kl" else -log_q_TM
    return (log_p_TM.exp() * gap_TM).masked_fill(own_TM, 0).sum()


def _log_shares(x_TD: Tensor, y_MD: Tensor, scale: Tensor | float, out_TM: Tensor) -> Tensor:
    dtype = torch.promote_types(x_TD.dtype, torch.float32)
    with torch.autocast(x_TD.device.type, enabled=False):
        return (scale * x_TD.to(dtype) @ y_MD.to(dtype).T).masked_fill(out_TM, -1e30).log_softmax(1)


def topology(
    image_ND: Tensor,
    text_ND: Tensor,
    reference_image_ND: Tensor,
    reference_text_ND: Tensor,
    *,
    scale: Tensor | float,
    reference_scale: Tensor | float | None = None,
    tile: int = 512,
    process_group: Group = None,
) -> Tensor:
    """Half the sum of both directions across modalities plus half the sum of both within (CTP): the four terms above. Arguments are
    those of `similarity_kl`; CTP has one scale for both models."""
    image, text = (image_ND, reference_image_ND), (text_ND, reference_text_ND)
    scales: dict[str, Any] = {"scale": scale, "reference_scale": reference_scale}
    terms = [
        similarity_kl(q, k, rq, rk, **scales, own=own, tile=tile, process_group=process_group)
        for (q, rq), (k, rk), own in ((image, text, True), (text, image, True), (image, image, False), (text, text, False))
    ]
    return torch.stack(terms).sum() / 2


def clip_distillation(
    image_ND: Tensor,
    text_ND: Tensor,
    teacher_image_ND: Tensor,
    teacher_text_ND: Tensor,
    *,
    scale: Tensor | float,
    teacher_scale: Tensor | float,
    tile: int = 512,
    process_group: Group = None,
) -> Tensor:
    """A dual encoder learns from another how much each text belongs to each image, and each image to each text.

    The mean over images of the cross-entropy between the teacher's softmax over texts and the student's, the same over images for
    texts, and the mean of both: the `distill_loss` of open_clip's `DistillClipLoss`, which is added to the contrastive loss with weight 1.
    All features are unit-norm; the teacher may be of another width. Gradients reach the student and `scale` only.
    """
    image, text = (image_ND, teacher_image_ND), (text_ND, teacher_text_ND)
    terms = [
        similarity_kl(
            q,
            k,
            rq,
            rk,
            scale=scale,
            reference_scale=teacher_scale,
            divergence="cross_entropy",
            tile=tile,
            process_group=process_group,
        )
        for (q, rq), (k, rk) in ((image, text), (text, image))
    ]
    return torch.stack(terms).mean()
