"""Does II-Bench's protocol put a model that knows more above one that knows less, however they talk?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from diptych.tasks.choice.ii_bench import IIBench
from planted.responders import Responder, Responding

QUESTIONS = 400


def claims() -> tuple[Claim, ...]:
    task = IIBench(draws=50)
    order = Claim(
        slug="ii_bench",
        kind="mechanism check",
        sentence="A model that knows .65 of the answers and weighs options aloud is above one that knows .5 and names a letter",
        source="2406.05862, whose released extractor takes the letter that a reply mentions most: such replies are read as others there",
        refuted="a difference whose interval lies below zero: the protocol would rank by manner and not by knowledge",
        baseline=Arm("knows .5, terse", Responding(Responder("knower", 0.5), task, QUESTIONS)),
        method=Arm("knows .65, weighs aloud", Responding(Responder("knower", 0.65, wordy=True), task, QUESTIONS)),
        controls=(
            Arm("guesses a content", Responding(Responder("content guesser"), task, QUESTIONS)),
            Arm("takes the first letter", Responding(Responder("first letter"), task, QUESTIONS)),
        ),
        metric="accuracy",
        margins=Margins(matters=0.05, equivalence=0.03),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        data=f"{QUESTIONS} planted questions of six options a seed, whose answers a model knows or not",
        reported=("accuracy_by_ii_bench", "accuracy_by_vlmevalkit", "unread", "position_bias"),
    )
    return (order,)
