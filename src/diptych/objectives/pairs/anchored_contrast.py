"""Contrast of one trained side with frozen anchors (ULIP, 2212.05171).  Letters: N items, D width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.objectives.gather import Group
from diptych.objectives.pairs.info_nce import info_nce

GradientDirections = Literal["both", "from_points"]


def anchored_contrast(
    point_ND: Tensor,
    anchors: Mapping[str, Tensor],
    *,
    scale: Tensor | float,
    gradient: GradientDirections = "both",
    process_group: Group = None,
) -> dict[str, Tensor]:
    """Symmetric InfoNCE of a trained side with each of its anchors, by the anchors' names; their sum is ULIP's loss.

    point_ND  unit-norm features of the trained side
    anchors   unit-norm features [N, D] by name; row i is the partner of point i, all other rows are negatives
    scale     one factor for all anchors
    gradient  "both" directions reach the features. "from_points": only the direction that compares a point with all anchors does, which is
              what the released gathering leaves with several processes, whose gathered points carry no gradient. The loss and the gradient
              of the scale are the same
    """
    if gradient not in get_args(GradientDirections):
        raise ConfigError(f"gradient is {gradient!r} (expected {' | '.join(get_args(GradientDirections))})")
    terms = {}
    for name, anchor_ND in anchors.items():
        if gradient == "both":
            terms[name], _ = info_nce(point_ND, anchor_ND, scale=scale, process_group=process_group)
            continue
        first, _ = info_nce(point_ND, anchor_ND, scale=scale, directions="image_to_text", process_group=process_group)
        second, _ = info_nce(point_ND.detach(), anchor_ND, scale=scale, directions="text_to_image", process_group=process_group)
        terms[name] = (first + second) / 2
    return terms
