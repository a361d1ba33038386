"""Does MC-Bench put a plan over both pictures above the same localiser that sees one picture at a time, where both are needed?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.paired_scenes import PAIRS, Pairs

REPORTED = ("ap50", "ap50/referring", "ap50/reasoning", "image_accuracy")


def claims() -> tuple[Claim, ...]:
    comparison = Claim(
        slug="mc_bench",
        kind="mechanism check",
        sentence="On texts that compare two pictures, the same localiser has a higher ap50 with a plan over both than picture by picture",
        source="2410.12332, whose stepwise baseline beats detectors that are asked picture by picture",
        refuted="a difference whose interval lies below zero: the protocol would not see what a plan is for",
        baseline=Arm("single", Pairs("single")),
        method=Arm("stepwise", Pairs("stepwise")),
        controls=(Arm("guesses", Pairs("guesses")),),
        metric="ap50/comparison",
        margins=Margins(matters=0.1, equivalence=0.05),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        data=f"{PAIRS} rendered pairs in three styles, a localiser that misses a tenth of things",
        reported=REPORTED,
    )
    referring = Claim(
        slug="mc_bench",
        name="referring",
        kind="mechanism check",
        sentence="On texts that name a thing, the plan changes nothing",
        source="2410.12332: such texts are answered picture by picture",
        refuted="a difference beyond the margin",
        baseline=comparison.baseline,
        method=comparison.method,
        controls=comparison.controls,
        metric="ap50/referring",
        margins=Margins(matters=0.1, equivalence=0.05),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        data=comparison.data,
        reported=("ap50", "image_accuracy"),
    )
    return comparison, referring
