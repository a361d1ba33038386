"""Self-distillation over prototypes with a centred, sharpened teacher (DINO, 2104.14294; iBOT, 2111.07832).

    p_t = softmax((z_t - c) / tau_t),   p_s = softmax(z_s / tau_s),   loss = mean of -sum_k p_t log p_s
    c <- m c + (1 - m) mean over the global batch(z_t)

The centre keeps one prototype from winning everywhere, the low teacher temperature keeps them from winning evenly. Without either the
pair collapses. Uniform answers of both give exactly log K.

With a mask, each item is the mean over its own places (weights of 1 / number of masked patches, iBOT and DINOv2), so that an image with
few hidden patches weighs as much as one with many.

What implementations get wrong: a centre of one process, so that teachers drift apart; a gradient through the teacher; for masked
patches, a mean that counts visible ones; images without a hidden patch left out of the mean (they count as zeros, as released).

Letters: N items of this process, V views, M places that were hidden, K prototypes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes


def self_distillation(
    student_NVK: Tensor,
    teacher_NVK: Tensor,
    centre_K: Tensor,
    *,
    student_tau: float = 0.1,
    teacher_tau: float = 0.04,
    mask_NV: Tensor | None = None,
    average: Literal["items", "places"] = "items",
    process_group: Group = None,
) -> Tensor:
    """The mean over items and views. A teacher [N, 1, K] is compared with every view; the teacher has no gradient.

    mask_NV   bool, False where a view is padding; None: all count
    average   of what the mask leaves: "items" first over each item's own and then over all items, those without any counting 0;
              "places" over all places of the global batch alike

    Every process brings equally many items and views; 0, with a gradient of zeros, where nothing counts.
    """
    if student_tau <= 0 or teacher_tau <= 0:
        raise ConfigError(f"temperatures are {student_tau} and {teacher_tau} (expected above 0)")
    if student_NVK.ndim != 3 or teacher_NVK.ndim != 3 or teacher_NVK.shape[1] not in (1, student_NVK.shape[1]):
        raise ShapeError(
            f"answers must be [N, V, K] and [N, V or 1, K], got {list(student_NVK.shape)} and {list(teacher_NVK.shape)}"
        )
    dtype = torch.promote_types(student_NVK.dtype, torch.float32)
    share_NVK = ((teacher_NVK.detach().to(dtype) - centre_K.to(dtype)) / teacher_tau).softmax(-1)
    loss_NV = -(share_NVK * (student_NVK.to(dtype) / student_tau).log_softmax(-1)).sum(-1)
    if average not in ("items", "places"):
        raise ConfigError(f"average must be 'items' or 'places', got {average!r}")
    if mask_NV is None:
        return mean_over_processes(loss_NV.mean(), process_group)
    if mask_NV.shape != loss_NV.shape:
        raise ShapeError(f"mask_NV must be {list(loss_NV.shape)}, one value a view; got {list(mask_NV.shape)}")
    loss_NV = loss_NV.masked_fill(~mask_NV, 0)
    if average == "items":
        return mean_over_processes((loss_NV.sum(1) / mask_NV.sum(1).clamp_min(1)).mean(), process_group)
    count = mean_over_processes(mask_NV.sum().to(dtype), process_group)
    return mean_over_processes(loss_NV.sum(), process_group) / count.clamp_min(torch.finfo(dtype).tiny)


@torch.no_grad()
def updated_centre(
    centre_K: Tensor,
    teacher_NVK: Tensor,
    *,
    momentum: float = 0.9,
    mask_NV: Tensor | None = None,
    process_group: Group = None,
) -> Tensor:
    """The centre after this step's teacher answers of all processes, those where the mask is True. `centre_K` itself stays as it is,
    and so does its value where the mask leaves nothing."""
    if not 0 <= momentum <= 1:
        raise ConfigError(f"momentum is {momentum} (expected 0..1)")
    teacher_NVK = teacher_NVK.to(centre_K)
    if mask_NV is None:
        return torch.lerp(mean_over_processes(teacher_NVK.flatten(0, 1).mean(0), process_group), centre_K, momentum)
    sum_K = mean_over_processes(teacher_NVK.masked_fill(~mask_NV[..., None], 0).sum((0, 1)), process_group)
    count = mean_over_processes(mask_NV.sum().to(centre_K), process_group)
    moved_K = torch.lerp(sum_K / count.clamp_min(torch.finfo(count.dtype).tiny), centre_K, momentum)
    return torch.where(count > 0, moved_K, centre_K)
