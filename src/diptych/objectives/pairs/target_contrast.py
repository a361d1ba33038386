"""Contrastive loss against a target matrix of pair affinities: identities, equal texts, hierarchies, findings.

With a_i the anchors, k_j the keys, z_ij = s a_i . k_j over the cells that are kept, p_i = softmax(z_i) and q_i the target row at sum 1:

    cross-entropy   l_i = - sum_j q_ij log p_ij                            wants p to cover all of q
    reverse KL      l_i = sum_j p_ij (log p_ij - log(q_ij + eps))          wants no p outside q (CMPM, Zhang and Lu, ECCV 2018)

`info_nce` is the first with q one-hot and both sides at norm 1, in tiles and with queues; this forms the whole matrix. In CMPM the anchor
keeps its length, which is then a temperature of its own, and only the other side has norm 1.

What implementations get wrong: the direction of the divergence, which matters (reverse KL may ignore positives, cross-entropy may
not); the mask of positives divided by its L2 norm instead of its sum, so that q is not a distribution and the loss can be
negative; groups that are positives in one direction and negatives in the other; rows without any target, whose log eps then
dominates the mean.

Letters: N own images, M own texts, C texts of all processes, R images of all processes, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, all_gather, check_equal_rows, gather_rows, mean_over_processes, world
from diptych.objectives.pairs.pairing import as_scalar

Divergence = Literal["cross_entropy", "reverse_kl"]
Normalise = Literal["both", "other", "none"]
TargetNorm = Literal["sum", "l2"]
Directions = Literal["both", "image_to_text", "text_to_image"]


def target_contrast(
    image_ND: Tensor,
    text_MD: Tensor,
    target_NC: Tensor,
    *,
    scale: Tensor | float = 1.0,
    ignore_NC: Tensor | None = None,
    divergence: Divergence = "cross_entropy",
    normalise: Normalise = "both",
    target_norm: TargetNorm = "sum",
    eps: float = 1e-8,
    directions: Directions = "both",
    reduction: Literal["mean", "sum"] = "mean",
    process_group: Group = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch and its parts.

    image_ND, text_MD  features of any length; any floating type, computed in float32 at least
    target_NC    own images by the texts of all processes in rank order: bool, multi-hot or weights >= 0. Text to image reads its columns
    scale        factor of the similarities: 1 for none, a number, or a learned tensor of one element
    ignore_NC    bool, True leaves a cell out of every sum of both directions
    divergence   "cross_entropy", or "reverse_kl", which `eps` keeps finite
    normalise    which features come to norm 1: "both"; "other", the keys but not the anchors, so that a direction's similarity is the
                 projection of its anchor on the unit key; "none"
    target_norm  what target rows are divided by: their "sum", or their "l2" norm as the code released with CMPM's followers does
    reduction    of the two directions; "sum" as CMPM has it

    A row, or column, without any target takes no part in the mean. With several processes every one brings equally many images and texts;
    the loss is the global mean, and gradients averaged over processes are those of it.

    parts (detached, global): image_to_text and text_to_image, of the directions asked for; positive_similarity, the mean cosine of the
    pairs whose target is above 0.

    Raises ShapeError, or ConfigError for options, targets below 0, or a batch without any target.
    """
    _check_options(divergence, normalise, target_norm, directions, reduction)
    rank, count = world(process_group)
    if image_ND.ndim != 2 or text_MD.ndim != 2 or image_ND.shape[1] != text_MD.shape[1]:
        raise ShapeError(f"features must be [N, D] and [M, D] with one D; got {list(image_ND.shape)} and {list(text_MD.shape)}")
    check_equal_rows(process_group, image_ND=image_ND, text_MD=text_MD)
    shape = [len(image_ND), count * len(text_MD)]
    for name, dense in (("target_NC", target_NC), ("ignore_NC", ignore_NC)):
        if dense is not None and list(dense.shape) != shape:
            raise ShapeError(f"{name} must be {shape}, own images by the texts of all processes; got {list(dense.shape)}")
    dtype = torch.promote_types(torch.promote_types(image_ND.dtype, text_MD.dtype), torch.float32)
    target_NC = target_NC.to(dtype)
    on_host = target_NC.device.type == "cpu"  # on a GPU the check would synchronise
    if on_host and (bool((target_NC < 0).any()) or not bool(target_NC.isfinite().all())):
        raise ConfigError("targets must be finite and not below 0")
    keep_NC = torch.ones_like(target_NC, dtype=torch.bool) if ignore_NC is None else ~ignore_NC.bool()
    target_NC = target_NC * keep_NC
    columns = slice(rank * len(text_MD), (rank + 1) * len(text_MD))
    target_MR, keep_MR = (all_gather(x, process_group).flatten(0, 1)[:, columns].T for x in (target_NC, keep_NC))
    scale_1 = as_scalar(scale, "scale", device=image_ND.device).to(dtype).reshape(())
    text_CD, image_RD = (gather_rows(x, process_group) for x in (text_MD, image_ND))
    terms: dict[str, Tensor] = {}
    with torch.autocast(image_ND.device.type, enabled=False):
        for name, anchor, key, target, keep in (
            ("image_to_text", image_ND, text_CD, target_NC, keep_NC),
            ("text_to_image", text_MD, image_RD, target_MR, keep_MR),
        ):
            if directions in ("both", name):
                logit = scale_1 * _similarity(anchor.to(dtype), key.to(dtype), normalise)
                row_loss, there = _rows(logit, target, keep, divergence, target_norm, eps)
                terms[name] = _mean(row_loss, there, process_group)
    total = torch.stack(list(terms.values())).sum()
    parts = {name: value.detach() for name, value in terms.items()}
    parts["positive_similarity"] = _positive_similarity(image_ND, text_CD, target_NC, process_group)
    return total / len(terms) if reduction == "mean" else total, parts


def same_id_targets(group_N: Tensor, process_group: Group = None) -> Tensor:
    """Targets target_NC, bool: True where a local row and a column of any process share an id (identity, patient, or equal
    text)."""
    return group_N[:, None] == gather_rows(group_N, process_group)


def _similarity(anchor_ND: Tensor, key_CD: Tensor, normalise: Normalise) -> Tensor:
    if normalise == "both":
        anchor_ND = F.normalize(anchor_ND, dim=-1)
    if normalise != "none":
        key_CD = F.normalize(key_CD, dim=-1)
    return anchor_ND @ key_CD.T


def _rows(
    logit_NC: Tensor, target_NC: Tensor, keep_NC: Tensor, divergence: Divergence, target_norm: TargetNorm, eps: float
) -> tuple[Tensor, Tensor]:
    """Loss [N] of each row, and a mask of the rows with a target."""
    there_N = (target_NC > 0).any(1)
    length_N1 = target_NC.norm(p=1 if target_norm == "sum" else 2, dim=1, keepdim=True)
    q_NC = target_NC / length_N1.masked_fill(~there_N[:, None], 1)
    open_NC = keep_NC | ~keep_NC.any(1, keepdim=True)  # a row of ignored cells alone: any finite softmax, it is not in the mean
    log_p_NC = logit_NC.masked_fill(~open_NC, -torch.inf).log_softmax(1).masked_fill(~open_NC, 0)
    if divergence == "cross_entropy":
        return -(q_NC * log_p_NC).sum(1), there_N
    p_NC = log_p_NC.exp() * open_NC
    return (p_NC * (log_p_NC - (q_NC + eps).log())).sum(1), there_N


def _mean(value_N: Tensor, there_N: Tensor, process_group: Group) -> Tensor:
    count = mean_over_processes(there_N.sum().to(value_N), process_group)
    if count.device.type == "cpu" and not bool(count > 0):
        raise ConfigError("no row has a target (expected one above 0 somewhere in a cell that is not ignored)")
    return mean_over_processes(value_N.masked_fill(~there_N, 0).sum(), process_group) / count


@torch.no_grad()
def _positive_similarity(image_ND: Tensor, text_CD: Tensor, target_NC: Tensor, process_group: Group) -> Tensor:
    cosine_NC = _similarity(image_ND.to(target_NC.dtype), text_CD.to(target_NC.dtype), "both")
    positive_NC = target_NC > 0
    total, count = mean_over_processes(
        torch.stack([(cosine_NC * positive_NC).sum(), positive_NC.sum().to(cosine_NC)]), process_group
    ).unbind()
    return total / count


def _check_options(divergence: str, normalise: str, target_norm: str, directions: str, reduction: str) -> None:
    for name, value, allowed in (
        ("divergence", divergence, ("cross_entropy", "reverse_kl")),
        ("normalise", normalise, ("both", "other", "none")),
        ("target_norm", target_norm, ("sum", "l2")),
        ("directions", directions, ("both", "image_to_text", "text_to_image")),
        ("reduction", reduction, ("mean", "sum")),
    ):
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r} (expected {' | '.join(allowed)})")
