"""Multi-image reasoning with reordered options and unanswerable questions. Protocol `visual_reasoning`, version 1."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from diptych.core.contracts import Dataset
from diptych.tasks.choice.items import items_of
from diptych.tasks.choice.multiple_choice import MultipleChoice, OrderBy, OrderedQuestion

NONE = "None of the choices provided"


@dataclass(frozen=True)
class VisualReasoning(MultipleChoice):
    """The multi-image evaluation with reordered options and questions without an answer (2025; its questions are MUIRBench's,
    2406.09411).

    Every question is asked in three orders of its options, including "None of the choices provided", and again without its
    correct option. `accuracy` is over all questions asked; `rejection` over unanswerable ones; compare `abstention` with
    `truly_none` of the notes; `entropy_bits` is the mean over questions of -sum p log2 p, where p is the fraction of orders in
    which a content was chosen: at most 1.585 for three. A low entropy by itself is not an achievement, since a model that always
    says "none" has 0: read it together with accuracy, and `entropy_wrong`, which is taken over questions whose majority is wrong.
    No released code is known, nor the base of the logarithm in the published table, so bits, nats and a normalised value are
    given. Data with their own variants (several rows of one `group_id`) are asked once, in the given order; questions whose
    correct option is the "none" of their data count as unanswerable. An image may occur inside a question or an option
    ("<image>").
    """

    slug: ClassVar[str] = "visual_reasoning"
    name: ClassVar[str] = "visual_reasoning"
    version: ClassVar[int] = 1

    order: OrderBy = "shuffle"
    orders: int = 3
    none_option: str = NONE
    unanswerable: bool = True
    blind: bool = False

    def _asks(self, data: Dataset) -> list[OrderedQuestion]:
        given = items_of(data, options=self.options, seed=self.seed, none_option=self.none_option)
        variants = Counter((item.item, item.answerable) for item in given)
        if max(variants.values()) > 1:
            return [OrderedQuestion(item, list(range(len(item.options)))) for item in given]
        return super()._asks(data)
