"""Does Q-Spatial's protocol, from words alone, put an estimate against a reference above one from what things usually measure?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from diptych.tasks.choice.q_spatial import QSpatial
from planted.estimators import SPREAD, Estimating, Estimator

QUESTIONS = 200


def claims() -> tuple[Claim, ...]:
    task = QSpatial(prompt="single", draws=50)
    return (
        Claim(
            slug="q_spatial",
            kind="mechanism check",
            sentence="Lengths by ratio to a thing of known size are within a factor of two more often than lengths from a prior",
            source="2409.09788: asking for reference objects raises success; here the estimators are planted, the replies are read",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("prior", Estimating(Estimator("prior"), task, QUESTIONS)),
            method=Arm("reference", Estimating(Estimator("reference"), task, QUESTIONS)),
            controls=(Arm("one metre", Estimating(Estimator("one metre"), task, QUESTIONS)),),
            metric="success",
            margins=Margins(matters=0.1, equivalence=0.05),
            equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
            data=f"{QUESTIONS} planted lengths a seed, log-normal around a metre with a deviation of {SPREAD:g}, told in cm and feet",
            reported=("success@1.25", "within", "reference", "unread", "success_as_released"),
        ),
    )
