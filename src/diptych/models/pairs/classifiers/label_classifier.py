"""Open-vocabulary classification of queries against encoded label texts (RLIP, 2209.01814).

Letters: B batch, S decoder layers, Q queries, T labels, D width; X any leading shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRIOR = 0.01


class LabelClassifier(nn.Module):
    """logit = (h + a) . W(scale t / |t|) + log(p / (1 - p)), p = .01: the "bias trick", with a learned shift `a` for entities and
    one for relations.

    Queries are not normalised and there is no temperature, so `scale` sets the initial range of the logits: 1/2 as
    published for features of width 256; narrow models need more.
    """

    def __init__(self, width: int, *, scale: float = 0.5) -> None:
        super().__init__()
        self.scale = scale
        self.project = nn.Linear(width, width)
        self.entity_shift_D = nn.Parameter(torch.zeros(width))
        self.relation_shift_D = nn.Parameter(torch.zeros(width))
        self.prior = -math.log((1 - PRIOR) / PRIOR)

    def texts(self, text_XTD: Tensor) -> Tensor:
        """Return label features for comparison with queries."""
        projected_XTD: Tensor = self.project(F.normalize(text_XTD, dim=-1) * self.scale)
        return projected_XTD

    def entities(self, query_XQD: Tensor, text_XTD: Tensor) -> Tensor:
        """Return logits [..., Q, T] for a softmax over labels. `text` is the output of `texts`, and may lack leading axes."""
        return (query_XQD + self.entity_shift_D) @ text_XTD.mT + self.prior

    def relations(self, query_XQD: Tensor, text_XTD: Tensor) -> Tensor:
        """Return logits [..., Q, T] for T independent sigmoids."""
        return (query_XQD + self.relation_shift_D) @ text_XTD.mT + self.prior
