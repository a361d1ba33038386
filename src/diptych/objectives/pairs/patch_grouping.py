"""Text-to-patch grouping loss (DreamLIP, 2403.17007): contrasts the texts of an image by the patches that they attend to.

With unit-norm patches u_p and texts t_k of an image, a_kp = t_k . u_p and

    b_kp = (a_kp - min_p a_kp) / (max_p a_kp - min_p a_kp),  zero below a threshold,     w_kp = b_kp / sum_p b_kp,
    g_k  = norm( sum_p w_kp u_p ),     loss = mean over images and k of ( CE(s g_k . t_:, k) + CE(s g_: . t_k, k) ) / 2

where both cross-entropies run over the K texts of the same image. Gradients flow through the weights.

What implementations get wrong: texts stacked as [K, N] and then viewed as [N, K], which hands an image the texts of others (here
features come as [N, K, D] and are never re-viewed); a text to which all patches are alike, whose weights are 0 / 0 (here they are
even); a text drawn twice, which is its own negative (here `text_id_NK` leaves the pair out).

Letters: N images, K texts per image, P patches, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.gather import Group, mean_over_processes, world
from diptych.objectives.pairs.info_nce import info_nce

EPS = 1e-10
"""Added to the range of similarities, as published."""
ALIKE = 8
"""Similarities within this many rounding units count as equal, so that rounding noise is not rescaled to weights."""


def group_patches(
    patch_NPD: Tensor, text_NKD: Tensor, *, threshold: float = 0.0, mask_NP: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Language-grouped image features: unit-norm [N, K, D], and the patch weights [N, K, P], which sum to 1.

    threshold   min-max similarities below it get weight 0; negative means 1 / P, P the real patches of the image
    mask_NP     False on patches that are padding
    """
    _check(patch_NPD, text_NKD, threshold, mask_NP)
    patch_NPD, text_NKD = _wide(patch_NPD), _wide(text_NKD)
    if mask_NP is None:
        mask_NP = torch.ones(patch_NPD.shape[:2], dtype=torch.bool, device=patch_NPD.device)
    real_N1P = mask_NP[:, None]
    score_NKP = text_NKD @ patch_NPD.transpose(1, 2)
    low_NK1 = score_NKP.masked_fill(~real_N1P, torch.inf).amin(2, keepdim=True)
    range_NK1 = score_NKP.masked_fill(~real_N1P, -torch.inf).amax(2, keepdim=True) - low_NK1
    share_NKP = (score_NKP - low_NK1) / (range_NK1 + EPS)
    patches_N11 = real_N1P.sum(2, keepdim=True).clamp_min(1)
    least = 1 / patches_N11 if threshold < 0 else threshold
    alike_NK1 = range_NK1 <= ALIKE * torch.finfo(score_NKP.dtype).eps
    share_NKP = share_NKP.masked_fill(~real_N1P | alike_NK1 | (share_NKP < least), 0)
    total_NK1 = share_NKP.sum(2, keepdim=True)
    even_N1P = real_N1P / patches_N11.to(score_NKP)
    weight_NKP = torch.where(total_NK1 > 0, share_NKP / total_NK1.where(total_NK1 > 0, 1), even_N1P)
    return torch.nn.functional.normalize(weight_NKP @ patch_NPD, dim=-1), weight_NKP


def patch_grouping(
    patch_NPD: Tensor,
    text_NKD: Tensor,
    *,
    scale: Tensor | float,
    threshold: float = 0.0,
    mask_NP: Tensor | None = None,
    text_id_NK: Tensor | None = None,
    negatives: Literal["image", "batch"] = "image",
    process_group: Group = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss between the texts of an image and the patch group of each, and its parts.

    patch_NPD, text_NKD  unit-norm; any floating type, computed in at least float32
    scale                the factor itself, a number or a tensor of one element
    threshold, mask_NP   as in `group_patches`
    text_id_NK           equal ids in a row mark the same text: its occurrences are not negatives of each other
    negatives            "image": the other texts of the same image, as published; "batch": all N * K texts of all processes, as
                         the released code has it. There, other images of the same concept count as negatives

    The loss is the global mean; averaged over processes, every gradient is that of the global mean. parts: accuracy, the share of
    texts whose own group is above those of all other texts (in the batch's form, of both directions the mean).
    """
    grouped_NKD, _ = group_patches(patch_NPD, text_NKD, threshold=threshold, mask_NP=mask_NP)
    text_NKD = _wide(text_NKD)
    images, texts = text_NKD.shape[:2]
    id_NK = torch.arange(texts, device=text_NKD.device).expand(images, texts) if text_id_NK is None else text_id_NK
    if id_NK.shape != (images, texts):
        raise ShapeError(f"text_id_NK must be {[images, texts]}, one number a text; got {list(id_NK.shape)}")
    equal_NKK = id_NK[:, :, None] == id_NK[:, None, :]
    if negatives == "batch":
        place_NK = equal_NKK.to(torch.uint8).argmax(2) + texts * torch.arange(images, device=id_NK.device)[:, None]
        group = (place_NK + world(process_group)[0] * images * texts).flatten()
        loss, parts = info_nce(
            grouped_NKD.flatten(0, 1),
            text_NKD.flatten(0, 1),
            scale=scale,
            group_N=group,
            group_M=group,
            process_group=process_group,
        )
        return loss, {"accuracy": (parts["accuracy_image_to_text"] + parts["accuracy_text_to_image"]) / 2}
    if negatives != "image":
        raise ConfigError(f"negatives must be 'image' or 'batch', got {negatives!r}")
    left_out_NKK = equal_NKK & ~torch.eye(texts, dtype=torch.bool, device=id_NK.device)
    score_NKK = (scale * (grouped_NKD @ text_NKD.transpose(1, 2))).masked_fill(left_out_NKK, -torch.inf)
    own_NK = score_NKK.diagonal(dim1=1, dim2=2)
    row_NK, column_NK = (score_NKK.log_softmax(axis).diagonal(dim1=1, dim2=2) for axis in (2, 1))
    each_NK = -(row_NK + column_NK) / 2
    with torch.no_grad():
        rival_NKK = score_NKK.masked_fill(torch.eye(texts, dtype=torch.bool, device=id_NK.device), -torch.inf)
        hit_NK = (own_NK > torch.maximum(rival_NKK.amax(1), rival_NKK.amax(2))).to(own_NK)
    loss, accuracy = (mean_over_processes(x.mean(), process_group) for x in (each_NK, hit_NK))
    return loss, {"accuracy": accuracy}


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(patch_NPD: Tensor, text_NKD: Tensor, threshold: float, mask_NP: Tensor | None) -> None:
    if patch_NPD.ndim != 3 or text_NKD.ndim != 3 or patch_NPD.shape[::2] != text_NKD.shape[::2]:
        shapes = f"{list(patch_NPD.shape)} and {list(text_NKD.shape)}"
        raise ShapeError(f"patches must be [N, P, D] and texts [N, K, D] with one N and one D; got {shapes}")
    if mask_NP is not None and mask_NP.shape != patch_NPD.shape[:2]:
        raise ShapeError(f"mask_NP must be {list(patch_NPD.shape[:2])}, one value a patch; got {list(mask_NP.shape)}")
    if threshold >= 1:
        raise ConfigError(f"threshold is {threshold:g} (expected below 1, the share of the best patch; negative means 1 / P)")
