"""The loss of image-text pairs by its name: softmax (CLIP), smoothed softmax (ALIGN), sigmoid (SigLIP), or a function of one's own.

A function of one's own is called as

    loss(image_ND, text_ND, *, scale, bias, group_N, weight_N) -> Tensor

with unit rows, scale [1], bias [1] or None, int64 groups, weights [N] or None, and returns the mean over the global batch, as
`info_nce` does.

Letters: N items, D width, Q rows of a queue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.pairing import Same
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs

LossName = Literal["softmax", "smoothed", "sigmoid"]
LOSS_NAMES: tuple[str, ...] = get_args(LossName)
OwnLoss = Callable[..., Tensor]


@dataclass(frozen=True, slots=True)
class ExtraKeys:
    """Features of earlier steps that are further negatives, and their groups: [Q, D] and [Q] for either side."""

    image_QD: Tensor
    image_group_Q: Tensor
    text_QD: Tensor
    text_group_Q: Tensor


def chosen_loss(
    loss: str | OwnLoss,
    image_ND: Tensor,
    text_ND: Tensor,
    *,
    scale: Tensor,
    bias: Tensor | None,
    group_N: Tensor,
    same: Same = "mask",
    smoothing: float = 0.0,
    weight_N: Tensor | None = None,
    extra: ExtraKeys | None = None,
) -> Tensor:
    """Mean loss of pairs over the global batch.

    loss       a name, or a function as above
    smoothing  share of the target that "smoothed" spreads over the batch
    extra      further negatives, of images and texts; a sigmoid takes the texts alone

    Raises ConfigError for another name, a sigmoid without bias, or further negatives for a function that takes none.
    """
    if callable(loss):
        if extra is not None:
            raise ConfigError("a custom loss cannot use a queue")
        return loss(image_ND, text_ND, scale=scale, bias=bias, group_N=group_N, weight_N=weight_N)
    keys: dict[str, Any] = {}
    if extra is not None:
        keys = {"extra_text_KD": extra.text_QD, "extra_text_group_K": extra.text_group_Q}
    common: dict[str, Any] = {"scale": scale, "group_N": group_N, "group_M": group_N, "same": same, "weight_N": weight_N}
    if loss == "sigmoid":
        if bias is None:
            raise ConfigError("a sigmoid of pairs needs a learned bias, which these features do not have")
        return sigmoid_pairs(image_ND, text_ND, bias=bias, **common, **keys)[0]
    if loss not in LOSS_NAMES:
        raise ConfigError(f"loss is {loss!r} (expected {', '.join(LOSS_NAMES)}, or FILE.py:FUNCTION)")
    if extra is not None:
        keys |= {"extra_image_KD": extra.image_QD, "extra_image_group_K": extra.image_group_Q}
    return info_nce(image_ND, text_ND, smoothing=smoothing if loss == "smoothed" else 0.0, **common, **keys)[0]
