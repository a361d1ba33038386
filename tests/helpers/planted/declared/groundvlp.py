"""Does GroundVLP's exponent, between sum and mean, find boxes that neither of them finds?"""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.graded_boxes import SCENES, Graded


def claims() -> tuple[Claim, ...]:
    against_mean = Claim(
        slug="groundvlp",
        kind="mechanism check",
        sentence="With an exponent of .5 of the area, more things are found at an overlap of .5 than by the mean of the map",
        source="2312.15043, ablation of the weighted grade; the exponent is between that of the sum and that of the mean",
        refuted="a difference whose interval lies below zero",
        baseline=Arm("mean", Graded("mean")),
        method=Arm("weighted", Graded("weighted")),
        controls=(Arm("anywhere", Graded("anywhere")),),
        metric="accuracy",
        margins=Margins(matters=0.05, equivalence=0.03),
        data=f"{SCENES} rendered scenes; a smooth map on what is meant, little noise, three boxes of other sizes a thing",
    )
    against_sum = replace(
        against_mean,
        name="sum",
        sentence="With an exponent of .5 of the area, more things are found at an overlap of .5 than by the sum of the map",
        baseline=Arm("sum", Graded("sum")),
    )
    against_random = replace(
        against_mean,
        name="random",
        sentence="With an exponent of .5 of the area, more things are found at an overlap of .5 than by any proposal",
        baseline=Arm("random", Graded("random")),
    )
    return against_mean, against_sum, against_random
