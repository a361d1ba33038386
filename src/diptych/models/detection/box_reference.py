"""Reference boxes of decoder queries: position embeddings from a box, and its refinement per layer (DAB-DETR, 2201.12329).

Letters: B batch, Q queries, C 2 or 4 coordinates, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diptych.models.detection.feature_pyramid import PyramidTokens
from diptych.models.layers.mlp import MLP
from diptych.models.layers.sine_position import box_sine

EDGE = 1e-5
"""Boxes are kept so far from 0 and 1 before the inverse sigmoid."""


class BoxPosition(nn.Module):
    """The position of a query whose reference is a box: MLP(sine(box)), from the second layer on times MLP(content) (DAB-DETR).

    in_padded  take the box in 0..1 of the padded image, as released: a query's position then depends on how far its image happens
               to be padded, other than the positions of the image's places. Off: in 0..1 of the image itself
    """

    def __init__(self, width: int, *, in_padded: bool = False) -> None:
        super().__init__()
        self.width, self.in_padded = width, in_padded
        self.position = MLP((2 * width, width, width))
        self.scale = MLP((width, width, width))

    def forward(self, box_BQ4: Tensor, content_BQD: Tensor, pyramid: PyramidTokens, *, first: bool) -> Tensor:
        if self.in_padded:
            box_BQ4 = pyramid.in_levels(box_BQ4)[:, :, 0]
        position_BQD: Tensor = self.position(box_sine(box_BQ4, self.width))
        return position_BQD if first else self.scale(content_BQD) * position_BQD


def refine_reference(reference_BQC: Tensor, change_BQ4: Tensor) -> Tensor:
    """cxcywh in 0..1: references (boxes, or points whose sides count as 1/2) moved in the space of logits."""
    logit_BQC = reference_BQC.logit(EDGE)
    if logit_BQC.shape[-1] == 2:
        logit_BQC = torch.cat((logit_BQC, torch.zeros_like(logit_BQC)), -1)
    return (change_BQ4 + logit_BQC).sigmoid()
