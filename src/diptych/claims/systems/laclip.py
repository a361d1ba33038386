"""Rewrites as text augmentation, against the captions alone at equal steps; against dropped words, and against more steps.

A rendered image holds two coloured shapes; training captions come from one template and are read many times. The grammar rewrites each in
four styles. What is searched with says the same in a phrasing that neither the template nor the grammar has.
"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.cells.learned_pairs.rewritten import Rephrased, WithTexts
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.laclip import LaCLIP
from diptych.worlds.small_pairs import SmallPairs

PAIRS, STEPS, BATCH, LENGTH = 3000, 400, 128, 32


def claims() -> tuple[Claim, ...]:
    pairs = SmallPairs(PAIRS)
    clip = sized_for(CLIP.tiny(), batch_size=BATCH, steps=STEPS, text_length=LENGTH)
    laclip = sized_for(LaCLIP.tiny(), batch_size=BATCH, steps=STEPS, text_length=LENGTH)
    method = Arm("laclip", Rephrased(laclip, WithTexts(pairs)), around(laclip.lr))
    against_clip = declare(
        slug="laclip",
        sentence="One of a caption and four rewrites at a step gives a higher recall at 1 by unseen phrasings than the caption alone",
        source="2305.20088: ImageNet zero-shot of CC3M 15.8 with captions, 21.5 with rewrites (prompts are the unseen phrasing)",
        baseline=Arm("clip", Rephrased(clip, pairs), around(clip.lr)),
        method=method,
        controls=(
            Arm("untrained", Rephrased(laclip, WithTexts(pairs), learns=False)),
            Arm("another's rewrites", Rephrased(laclip, WithTexts(pairs, "another's"))),
        ),
        bounds=(Arm("one style", Rephrased(laclip, WithTexts(pairs, styles=("framed",)))),),
        metric="test/i2t_r@1",
        margins=0.02,
        data=f"{PAIRS:,} rendered images of two shapes with captions of one template; retrieval among 500 by texts of another",
        reported=("test/t2i_r@1", "same/i2t_r@1"),
    )
    dropped = replace(
        against_clip,
        name="dropped",
        sentence="Rewrites give a higher recall at 1 by unseen phrasings than as many copies of the caption with words dropped",
        source="our control: words that are dropped are the text augmentation that needs no model",
        baseline=Arm("words dropped", Rephrased(laclip, WithTexts(pairs, "dropped")), around(laclip.lr)),
    )
    longer = replace(
        against_clip,
        name="longer",
        sentence="Rewrites give a higher recall at 1 by unseen phrasings than captions alone that are read twice as often",
        source="our control: what augmentation gives that more epochs do not",
        baseline=Arm("clip, twice the steps", Rephrased(replace(clip, steps=2 * STEPS), pairs), around(clip.lr)),
        equal_budget=("trained_parameters",),
    )
    return against_clip, dropped, longer
