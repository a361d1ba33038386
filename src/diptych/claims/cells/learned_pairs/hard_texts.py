"""Claims of a recipe with wrong texts of its own, against CLIP: it tells what stands where better, and finds pictures as well."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.claims.budget import Quantity
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.cells.learned_pairs.structured import BlindText, Structured
from diptych.claims.claim import Arm, Claim, Margins, around, declare
from diptych.recipes._shared.pairs import PairRecipe
from diptych.recipes.contrastive.clip import CLIP

PAIRS, STEPS, BATCH = 6000, 1200, 32
"""A small batch: among 32 texts hardly any two have the same words, as in the open, so that nobody else teaches their order."""
LONG = "which of two things stands where is learned after what they are: in 350 steps of 128 by neither arm"
DATA = f"{PAIRS:,} rendered images of two shapes, each text says how one stands to the other; probe and retrieval on 500"
BUDGET: tuple[Quantity, ...] = ("steps", "samples", "trained_parameters")


@dataclass(frozen=True)
class ClaimText:
    """Sentence, source and reported figures of a claim, as in `Claim`."""

    sentence: str
    source: str
    reported: tuple[str, ...]


def against_clip(
    recipe: PairRecipe, random_words: PairRecipe, *, metric: str, probe: ClaimText, retrieval: ClaimText | None = None
) -> tuple[Claim, ...]:
    """That `recipe` has a higher `metric` of the probe than CLIP and, where asked, that its recall from text to image is CLIP's.

    random_words  the control: the same recipe whose wrong texts have words at random
    """
    clip, hard, drawn = (sized_for(one, batch_size=BATCH, steps=STEPS) for one in (CLIP.tiny(), recipe, random_words))
    baseline = Arm("clip", Structured(clip, PAIRS), around(clip.lr))
    method = Arm(recipe.slug, Structured(hard, PAIRS), around(hard.lr))
    untrained = Arm("untrained", Structured(hard, PAIRS, learns=False))
    main = declare(
        slug=recipe.slug,
        sentence=probe.sentence,
        source=probe.source,
        baseline=baseline,
        method=method,
        controls=(Arm("random words", Structured(drawn, PAIRS)), Arm("blind", BlindText()), untrained),
        metric=metric,
        margins=Margins(matters=0.05, equivalence=0.03),
        equal_budget=BUDGET,
        data=DATA,
        reported=probe.reported,
        why_long=LONG,
    )
    if retrieval is None:
        return (main,)
    cost = declare(
        slug=recipe.slug,
        name="retrieval",
        sentence=retrieval.sentence,
        source=retrieval.source,
        refuted="a loss of more than two points",
        baseline=baseline,
        method=method,
        controls=(untrained,),
        metric="t2i_r@1",
        margins=0.02,
        equal_budget=BUDGET,
        data=DATA,
        reported=retrieval.reported,
        why_long=LONG,
    )
    return main, cost
