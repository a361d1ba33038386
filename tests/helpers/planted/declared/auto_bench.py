"""Auto-Bench on rendered scenes: does it order models by their skill, and do its filters leave more right questions?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.written_questions import PICTURES, Examined, Sound


def claims() -> tuple[Claim, ...]:
    main = Claim(
        slug="auto_bench",
        kind="mechanism check",
        sentence="Questions that programs wrote from symbols put a model that knows seven in ten answers above one that knows six",
        source="2311.14580: a set of questions that is made automatically ranks models; planted models, whose order is known",
        refuted="a difference whose interval lies below zero: the score does not follow skill",
        baseline=Arm("knows six in ten", Examined(0.6)),
        method=Arm("knows seven in ten", Examined(0.7)),
        controls=(Arm("guesses", Examined(None)),),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        metric="accuracy",
        margins=Margins(matters=0.05, equivalence=0.03),
        data=f"{PICTURES} scenes of up to four things a seed, some seven questions each, with two to four options",
        reported=("accuracy/perception", "accuracy/reasoning"),
    )
    filters = Claim(
        slug="auto_bench",
        name="filters",
        kind="mechanism check",
        sentence="Of a careless writer's questions more are right after the filters",
        source="2311.14580: what was written is filtered before it is used; a planted writer, a third of whose questions are wrong",
        refuted="a difference whose interval lies below zero: the filters take out right questions rather than wrong ones",
        baseline=Arm("as written", Sound()),
        method=Arm("filtered", Sound(filtered=True)),
        controls=(Arm("as many taken out at random", Sound(at_random=True)),),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        metric="sound",
        margins=Margins(matters=0.1, equivalence=0.05),
        data=f"{PICTURES} scenes a seed, two or three questions each; the filters miss a tenth of the boxes",
        reported=("kept", "sound_lost"),
    )
    return main, filters
