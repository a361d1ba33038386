"""Logits of each region for each text token: a dot product, as in detectors that ground words (GLIP, 2112.03857).

Letters: B images, Q regions, L tokens, E phrases, D width of regions, T width of tokens; X any leading shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ShapeError

LARGEST = 50_000.0
"""Logits are kept in so far, as released."""


class TokenHead(nn.Module):
    """s_ij = o_i . W(u_j / 2) / exp(log_temperature) + u_j . b + b_0 of a region o_i and a token w_j, with u_j = w_j / |w_j|.

    What implementations get wrong: the bias b reads the normed token, not the halved one; W has a bias of its own.

    prior   probability that all logits start near: b_0 = log(prior / (1 - prior)), published 0.01
    scale   of the normed token before W, published 1/2; narrow models need more, since their products of two vectors are smaller
    """

    def __init__(self, width: int, token_width: int, *, prior: float = 0.01, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.project = nn.Linear(token_width, width)
        self.log_temperature = nn.Parameter(torch.zeros(1))
        self.token_bias_T = nn.Parameter(torch.zeros(token_width))
        self.bias = nn.Parameter(torch.tensor([-math.log((1 - prior) / prior)]))

    def forward(self, region_BXD: Tensor, token_BLT: Tensor) -> Tensor:
        """logit_BXL of regions [B, ..., D] and the tokens of their texts [B, L, T]."""
        if len(region_BXD) != len(token_BLT):
            raise ShapeError(f"regions of {len(region_BXD)} images but texts of {len(token_BLT)}")
        unit_BLT = F.normalize(token_BLT, dim=-1)
        query_BLD = self.project(unit_BLT * self.scale)
        bias_BL = unit_BLT @ self.token_bias_T + self.bias
        # The axes between B and D are regions (and layers): one text for all of an image.
        flat_BND = region_BXD.flatten(1, -2)
        logit_BNL: Tensor = flat_BND @ query_BLD.mT / self.log_temperature.exp() + bias_BL[:, None]
        return logit_BNL.clamp(-LARGEST, LARGEST).view(*region_BXD.shape[:-1], -1)


def phrase_scores(logit_XL: Tensor, positive_EL: Tensor) -> Tensor:
    """score_XE in 0..1: of each phrase the mean of sigmoid over its tokens, 0 for a phrase without one (it was cut off).

    positive_EL is True at the tokens of each phrase. The mean is of probabilities and not of logits, as published.
    """
    if positive_EL.ndim != 2 or positive_EL.shape[1] != logit_XL.shape[-1]:
        raise ShapeError(f"logits are of {logit_XL.shape[-1]} tokens but positive_EL is {list(positive_EL.shape)}")
    weight_EL = positive_EL.to(logit_XL)
    score_XE: Tensor = logit_XL.sigmoid() @ (weight_EL / weight_EL.sum(1, keepdim=True).clamp(min=1)).mT
    return score_XE
