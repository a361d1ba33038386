"""A batch of pairs whose texts are also read with words hidden, and whose pictures are asked about.

Letters: B batch, L tokens, M hidden places, K answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch


@dataclass(frozen=True, kw_only=True)
class QuestionPairBatch(PairBatch):
    """Pairs, each text once more with words hidden, and a question of each sample; None where a term is not trained.

    worth_BK  what each answer of the list is worth; has_question_B False where a sample has no question
    """

    masked_BL: Rows[Tensor] | None = None
    place_BM: Rows[Tensor] | None = None
    word_BM: Rows[Tensor] | None = None
    question_BL: Rows[Tensor] | None = None
    question_mask_BL: Rows[Tensor] | None = None
    worth_BK: Rows[Tensor] | None = None
    has_question_B: Rows[Tensor] | None = None
