"""Does MMRel's protocol tell a model that looks from one that goes by what usually holds, and only where the two differ?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.relation_answerers import ELSEWHERE, HERE, AskedAboutRelations, RelationAnswerer


def claims() -> tuple[Claim, ...]:
    usual, looks = Arm("usual", AskedAboutRelations("usual")), Arm("looks", AskedAboutRelations("looks"))
    adversarial = Claim(
        slug="mmrel",
        kind="mechanism check",
        sentence="Of relations that contradict what usually holds, a model that looks and errs in a fifth has more right than one that "
        "answers by what usually holds",
        source="2406.09121: its adversarial part asks for unusual relations, on which language priors fail",
        refuted="a difference whose interval lies below zero: the adversarial part would not see what it is for",
        baseline=usual,
        method=looks,
        controls=(
            Arm("always yes", AskedAboutRelations("always yes")),
            Arm("coin", AskedAboutRelations("tosses a coin")),
        ),
        metric="accuracy/adversarial",
        margins=Margins(matters=0.1, equivalence=0.05),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        data=f"{HERE} scenes a seed with questions about left, right, above and below; what usually holds is that of {ELSEWHERE:,} others, "
        f"in which each pair of shapes stands one way round. The one that looks errs in {RelationAnswerer.errs:.0%}",
        reported=("accuracy/usual", "accuracy", "yes"),
    )
    ordinary = replace(
        adversarial,
        name="usual",
        sentence="Of relations that usually hold, the model that answers by what usually holds has more right than the one that looks",
        source="2406.09121: on ordinary relations a language prior does well, and accuracy on them does not show that a model looks",
        refuted="a difference whose interval lies below zero",
        baseline=looks,
        method=usual,
        metric="accuracy/usual",
        reported=("accuracy/adversarial", "accuracy", "yes"),
    )
    return adversarial, ordinary
