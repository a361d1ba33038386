"""Does SNARE put a model that was taught captions above one that was taught bags of their words, and both above one that sees nothing?"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.composed import Composed
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.claim import QUANTITIES, Arm, Claim, Margins, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.composition.snare import PARTS

PAIRS, STEPS, BATCH = 4000, 250, 128


@dataclass(frozen=True)
class Blind:
    """Macro score of a bigram model of the captions, which has no access to pictures."""

    asked: Composed

    def __call__(self, cell: Cell) -> Scores:
        return {"macro": self.asked(cell)["blind"]}


def claims() -> tuple[Claim, ...]:
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS)
    untrained = Composed(clip, PAIRS, learns=False)
    order = declare(
        slug="snare",
        kind="mechanism check",
        sentence="SNARE's mean over its parts is higher for a model of captions than for the same model of captions with shuffled words",
        source="2308.12898, whose probes tell words from their order; the two models differ in nothing else",
        refuted="a difference whose interval lies below zero: the probe would not see what the captions were robbed of",
        baseline=Arm("shuffled words", Composed(clip, PAIRS, shuffle=True), around(clip.lr)),
        method=Arm("captions", Composed(clip, PAIRS), around(clip.lr)),
        controls=(Arm("untrained", untrained), Arm("blind", Blind(untrained))),
        metric="macro",
        margins=0.05,
        equal_budget=QUANTITIES,
        data=f"{PAIRS:,} rendered pairs with captions that bind colours and directions; 400 fresh ones are asked",
        reported=tuple(PARTS),
    )
    binding = declare(
        slug="snare",
        name="ownership",
        sentence="A model of shuffled captions does not know whose attribute is whose, one of captions does",
        source="2308.12898, attribute ownership: whether a model binds attributes or reads a bag of words",
        baseline=order.baseline,
        method=order.method,
        controls=(Arm("untrained", untrained),),
        metric="attribute_ownership",
        margins=Margins(matters=0.1, equivalence=0.05),
        equal_budget=QUANTITIES,
        data=order.data,
        reported=("macro",),
    )
    return order, binding
