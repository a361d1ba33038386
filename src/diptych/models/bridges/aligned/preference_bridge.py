"""A bridge that also scores the best token other than the answer's own (STIC's released scoring of rejected answers).

Letters: B batch, K tokens of a picture, D width, A answer tokens of all rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diptych.core.rows import Rows
from diptych.data.text.prompts.layout import Layout
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.bridge import AnswerLikelihood, Bridge

TokenScore = Callable[[Tensor, Tensor], Tensor]
"""Log-probability [A] from logits [A, V] and targets [A]."""


@dataclass(frozen=True, slots=True)
class OtherLikelihood(AnswerLikelihood):
    """other_B  log-probability of the most likely token that is not the answer's own, summed over the places of the answer"""

    other_B: Rows[Tensor]


class PreferenceBridge(Bridge):
    """A `Bridge` that scores each place of an answer a second time, by `other`."""

    other: TokenScore

    def scored(self, picture_BKD: Tensor | None, layout: Layout, count_B: Tensor | None = None) -> OtherLikelihood:
        embed_BLD, ratio = self.embed(picture_BKD, layout, count_B)
        logit_AV, target_A, row_A = self.language.answers(embed_BLD, layout)
        nll_B, tokens_B = answer_nll(logit_AV, target_A, row_A, len(layout))
        hit_A = (logit_AV.detach().argmax(1) == target_A).to(nll_B.dtype)
        zero_B = torch.zeros_like(nll_B)
        other_B = zero_B.index_add(0, row_A, self.other(logit_AV, target_A).to(nll_B.dtype))
        return OtherLikelihood(nll_B, tokens_B, zero_B.index_add(0, row_A, hit_A).detach(), ratio, ratio.new_zeros(1), other_B)
