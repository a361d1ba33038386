"""Do sections that are matched beside hidden words make a better text encoder than hidden words alone?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.domains.abstracts import TESTED, BagOfWords, MatchedSections
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.domains.biovil import BioViL

ABSTRACTS, STEPS, BATCH, LENGTH = 1500, 120, 32, 64


def claims() -> tuple[Claim, ...]:
    tiny = BioViL.tiny()
    small = replace(
        tiny,
        batch_size=BATCH,
        steps=STEPS,
        text_length=LENGTH,
        lr=1e-3,
        warmup=10.0,
        text_tower="bert_micro",
        text_pooling="mean",
        image_tower="convnet_micro",
        image_size=48,
        phases=replace(tiny.phases, tau_sections=0.1, dropout=0.1),
    )
    matched, words = replace(small, phase="sections"), replace(small, phase="words")
    return (
        declare(
            slug="biovil",
            sentence="At equal steps, matching sections beside hidden words gives a higher recall at 1 between the sections of an abstract "
            "than hidden words alone",
            source="2204.09817, which adds the matching of sections to the hidden words of radiology reports; here abstracts of MEDLINE",
            baseline=Arm("hidden words", MatchedSections(words, ABSTRACTS), around(words.lr)),
            method=Arm("sections too", MatchedSections(matched, ABSTRACTS), around(matched.lr)),
            controls=(
                Arm("untrained", MatchedSections(matched, ABSTRACTS, learns=False)),
                Arm("bag of words", BagOfWords(ABSTRACTS)),
            ),
            metric="r@1",
            margins=0.05,
            data=f"{ABSTRACTS:,} structured abstracts of MEDLINE (methods and results against conclusions); {TESTED} others are tested",
            reported=("r@5",),
            seeds=3,
            tuning_seeds=(0,),
        ),
    )
