"""LifelongMemory on days written by a grammar: does the digest bring a long day before a reader of short attention, and refinement more?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.day_logs import ACTIVITIES, ATTENTION, DAYS, Recalled


def claims() -> tuple[Claim, ...]:
    digested = Arm("digest", Recalled())
    elsewhere = Arm("another day's notes", Recalled(other_day=True))
    data = f"{DAYS} days of {ACTIVITIES} activities a seed, of eight captions; a planted reader reads {ATTENTION} words of them"
    main = Claim(
        slug="lifelong_memory",
        kind="mechanism check",
        sentence="A reader of short attention finds more of what is asked in the digest of a long day than in its captions as they are",
        source="2312.05269: captions are condensed so that hours of video fit before a language model; a planted reader stands for it",
        refuted="a difference whose interval lies below zero: the digest loses more than it makes room for",
        baseline=Arm("captions as they are", Recalled(digest=False)),
        method=digested,
        controls=(elsewhere,),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        metric="r@1/0.3",
        margins=Margins(matters=0.1, equivalence=0.05),
        data=data,
        reported=("r@1/0.5", "iou", "captions"),
    )
    finer = Claim(
        slug="lifelong_memory",
        name="refinement",
        kind="mechanism check",
        sentence="Searching again within the reader's wide windows brings more windows above an IoU of a half",
        source="2312.05269, whose trained localiser is here the similarity of captions to the question",
        refuted="a difference whose interval lies below zero",
        baseline=digested,
        method=Arm("digest and refinement", Recalled(refine=True)),
        controls=(elsewhere, Arm("refinement of another day's notes", Recalled(refine=True, other_day=True))),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        metric="r@1/0.5",
        margins=Margins(matters=0.1, equivalence=0.05),
        data=data,
        reported=("r@1/0.3", "iou"),
    )
    return main, finer
