"""SocialGPT with a planted model that sees coarsely: does a story of crops say more of a relation than the question about the picture?"""

from __future__ import annotations

from diptych.claims.claim import Arm, Claim
from diptych.claims.verdict import Margins
from planted.social_pairs import EYE, PAIRS, Related


def claims() -> tuple[Claim, ...]:
    return (
        Claim(
            slug="socialgpt",
            kind="mechanism check",
            sentence="The same model names more relations of two persons from a story of what it saw in crops than by the question about "
            "the whole picture",
            source="2410.21411: a social story in words, and reasoning about it, against asking a model about the picture; a planted "
            "model, so it shows what the story carries and no more",
            refuted="a difference whose interval lies below zero: the story loses what relations show in",
            baseline=Arm("direct question", Related("direct")),
            method=Arm("story", Related("story")),
            controls=(
                Arm("story of another picture", Related("other")),
                Arm("story of the whole picture's caption", Related("whole")),
            ),
            equal_budget=("steps", "trained_parameters"),  # nothing is trained; what an answer takes is shown
            metric="accuracy",
            margins=Margins(matters=0.1, equivalence=0.05),
            data=f"{PAIRS} drawn pairs of persons a seed in four relations, of which two show in a tie or an instrument; the model sees "
            f"every picture in {EYE} x {EYE} cells",
        ),
    )
