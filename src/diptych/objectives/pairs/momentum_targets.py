"""Contrastive loss with a momentum model's keys, queue and soft targets (ALBEF, 2107.07651; BLIP, 2201.12086).

    z_n = a_n . [k; q] / tau,   y_n = alpha softmax(t_n . [k; q] / tau) + (1 - alpha) one-hot(n)
    l = mean_n - sum_j y_nj log softmax(z_n)_j

a: the model's embeddings of one modality. k: the momentum model's embeddings of the other modality (batches of all processes), q:
its queue of earlier ones. t: the momentum model's embeddings of the same modality as a. Targets carry no gradient.

Letters: N items, K keys of the queue, C all keys, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, all_gather, mean_over_processes, world


def momentum_contrast(
    anchor_ND: Tensor,
    teacher_ND: Tensor,
    key_ND: Tensor,
    queue_KD: Tensor,
    *,
    temperature: Tensor | float,
    alpha: Tensor | float,
    group_N: Tensor | None = None,
    group_K: Tensor | None = None,
    same: Literal["mask", "negative"] = "negative",
    keys: Literal["all", "own"] = "all",
    process_group: Group = None,
) -> Tensor:
    """Mean loss over the global batch; one direction, so call it for images and for texts.

    teacher_ND  the momentum model's embeddings of the anchors' own modality; key_ND those of the other modality, in the same row
                order
    same        other keys of an anchor's group are left out ("mask") or used as ordinary negatives, as published
    keys        beside the queue those of "all" processes, or of its "own" alone, as in the released ALBEF and BLIP, whose other processes'
                keys come through the queue a step later
    """
    if not anchor_ND.shape == teacher_ND.shape == key_ND.shape or queue_KD.shape[1:] != anchor_ND.shape[1:]:
        raise ShapeError(
            f"anchors, teacher and keys must be [N, D] and the queue [K, D], got {list(anchor_ND.shape)}, {list(teacher_ND.shape)}, "
            f"{list(key_ND.shape)} and {list(queue_KD.shape)}"
        )
    if same not in ("mask", "negative"):
        raise ConfigError(f"same is {same!r} (expected mask | negative)")
    if keys not in ("all", "own"):
        raise ConfigError(f"keys is {keys!r} (expected all | own)")
    dtype = torch.promote_types(anchor_ND.dtype, torch.float32)

    def batches(own: Tensor) -> Tensor:
        return own if keys == "own" else all_gather(own, process_group).flatten(0, 1)

    count, first = len(anchor_ND), 0 if keys == "own" else world(process_group)[0] * len(anchor_ND)
    every_CD = torch.cat([batches(key_ND), queue_KD.detach()]).to(dtype)
    own_N = torch.arange(first, first + count, device=anchor_ND.device)
    may_NC = torch.ones(count, len(every_CD), dtype=torch.bool, device=anchor_ND.device)
    if same == "mask" and group_N is not None and group_K is not None:
        group_C = torch.cat([batches(group_N), group_K])
        may_NC = group_N[:, None] != group_C
        may_NC[torch.arange(count, device=own_N.device), own_N] = True
    student_NC = (anchor_ND.to(dtype) @ every_CD.T / temperature).masked_fill(~may_NC, float("-inf")).log_softmax(1)
    with torch.no_grad():
        share_NC = (teacher_ND.to(dtype) @ every_CD.T / temperature).masked_fill(~may_NC, float("-inf")).softmax(1)
        target_NC = alpha * share_NC
        target_NC[torch.arange(count, device=own_N.device), own_N] += 1 - alpha
    loss_N = -(target_NC * student_NC.masked_fill(~may_NC, 0.0)).sum(1)
    return mean_over_processes(loss_N.mean(), process_group)
