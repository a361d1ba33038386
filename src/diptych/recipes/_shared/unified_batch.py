"""A batch of UniPT: persons with a text each, and what is hidden of both.

Letters: B pictures, L tokens, M hidden words, K kept and J lost patches.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch


@dataclass(frozen=True, kw_only=True)
class UnifiedBatch(PairBatch):
    """Pictures of persons with a text each, the text with words hidden, and which patches are kept and lost.

    person_B   the number of each person among those of the training rows, -1 while pre-training
    template_B the template of each pseudo text, -1 for a caption
    draw_B4    numbers that choose semi-hard negatives: of whole images, whole texts, images in parts and texts in parts
    """

    masked_BL: Rows[Tensor]
    hidden_BL: Rows[Tensor]
    place_BM: Rows[Tensor]
    word_BM: Rows[Tensor]
    kept_BK: Rows[Tensor]
    lost_BJ: Rows[Tensor]
    person_B: Rows[Tensor]
    template_B: Rows[Tensor]
    draw_B4: Rows[Tensor]
