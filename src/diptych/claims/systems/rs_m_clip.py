"""Do captions in more languages help the first one, at equal steps, and does saying of parts what a teacher says of the whole?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.learned_pairs.languages import ENGLISH, InLanguages
from diptych.claims.cells.learned_pairs.pairs import TESTED, sized_for
from diptych.claims.claim import QUANTITIES, Arm, Claim, around, declare
from diptych.recipes.domains.rs_m_clip import RSMCLIP

PAIRS, STEPS, BATCH = 4000, 300, 128


def claims() -> tuple[Claim, ...]:
    whole = sized_for(RSMCLIP.tiny(), batch_size=BATCH, steps=STEPS, crop=(0.6, 1.0), local_size=32)
    plain, alone = replace(whole, distilled=0.0), replace(whole, distilled=0.0, languages=(ENGLISH,))
    english = declare(
        slug="rs_m_clip",
        sentence="At equal steps, captions in three languages in place of one give a higher mean recall in English",
        source="2410.23370: captions translated into nine languages more improve performance on English, too",
        baseline=Arm("english alone", InLanguages(alone, PAIRS), around(whole.lr)),
        method=Arm("three languages", InLanguages(plain, PAIRS), around(whole.lr)),
        controls=(Arm("untrained", InLanguages(plain, PAIRS, learns=False)),),
        metric=f"{ENGLISH}/mr",
        margins=0.02,
        equal_budget=QUANTITIES,
        data=f"{PAIRS:,} rendered pairs with captions in English and two made-up languages of other words and orders; retrieval among "
        f"{TESTED} new ones",
        reported=("others/mr", "all/mr", f"{ENGLISH}/r@1"),
        tuning_seeds=(0, 1),
    )
    others = replace(
        english,
        name="others",
        kind="mechanism check",
        sentence="At equal steps, captions in three languages in place of one give a higher mean recall in the other two",
        source="2410.23370: the tuned model ranks in all ten languages",
        metric="others/mr",
        reported=(f"{ENGLISH}/mr", "all/mr", "others/r@1"),
    )
    distilled = replace(
        english,
        name="distilled",
        sentence="At equal steps, self-distillation from whole views to parts gives a higher mean recall over three languages",
        source="2410.23370, whose loss has this term beside CLIP's",
        baseline=Arm("three languages", InLanguages(plain, PAIRS), around(whole.lr)),
        method=Arm("and self-distillation", InLanguages(whole, PAIRS), around(whole.lr)),
        metric="all/mr",
        equal_budget=("samples",),
        data=english.data + ". The student's further views and the teacher are on nobody's account: see the seconds",
        reported=(f"{ENGLISH}/mr", "others/mr", "all/r@1"),
    )
    return english, others, distilled
