"""Do entropy over orders and rejection tell what a model knows from how it answers, at equal accuracy?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from diptych.tasks.choice.visual_reasoning import VisualReasoning
from planted.responders import Responder, Responding

QUESTIONS = 200
PULL = 0.3
KNOWS, PULLED_KNOWS = 0.5, 0.75
"""So that both have about the accuracy of .58 where an option is right: .5 + .5 / 7, and .7 of (.75 + .25 / 7) with .3 / 7."""


def claims() -> tuple[Claim, ...]:
    task = VisualReasoning(draws=50)
    first_letter = Arm("takes the first letter", Responding(Responder("first letter"), task, QUESTIONS))
    stable = Claim(
        slug="visual_reasoning",
        kind="mechanism check",
        sentence="At about equal accuracy, a model that does not look at places has a lower entropy than one that is pulled to A",
        source="the multi-image evaluation, whose entropy over reordered options tells consistent models from others",
        refuted="a difference whose interval lies above zero",
        baseline=Arm("pulled to A", Responding(Responder("pulled knower", PULLED_KNOWS, pull=PULL), task, QUESTIONS)),
        method=Arm("knows", Responding(Responder("knower", KNOWS), task, QUESTIONS)),
        controls=(first_letter,),
        metric="entropy_bits",
        higher_is_better=False,
        margins=Margins(matters=0.2, equivalence=0.1),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        data=f"{QUESTIONS} planted questions of six options a seed, each in three orders, with and without its answer",
        reported=("accuracy", "answerable", "circular", "position_bias", "rejection"),
    )
    rejects = Claim(
        slug="visual_reasoning",
        name="rejection",
        kind="mechanism check",
        sentence="A model that says when nothing fits rejects more often rightly than one that knows as much and never says so",
        source="the multi-image evaluation, whose questions without an answer tell knowing from guessing",
        refuted="a difference whose interval lies below zero",
        baseline=Arm("never rejects", Responding(Responder("knower", 0.7, rejects=False), task, QUESTIONS)),
        method=Arm("rejects", Responding(Responder("knower", 0.7), task, QUESTIONS)),
        controls=(first_letter,),
        metric="rejection",
        margins=Margins(matters=0.2, equivalence=0.1),
        equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
        data=stable.data,
        reported=("answerable", "false_rejection", "abstention", "accuracy"),
    )
    return stable, rejects
