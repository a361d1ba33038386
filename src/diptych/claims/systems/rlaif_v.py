"""RLAIF-V on pictures of two shapes: answers ranked by labels of their statements against one label of the whole answer."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.preferences import CANDIDATES, PAIRS, TESTED, WORLD, JudgedCandidates
from diptych.claims.claim import Arm, Claim, Margins, declare
from diptych.recipes.bridges.llava import LLaVA


def claims() -> tuple[Claim, ...]:
    made = replace(LLaVA.tiny(), image_weights=WORLD, small_image_steps=800)
    return (
        declare(
            slug="rlaif_v",
            sentence="A labeler ranks answers nearer to the truth by its labels of their statements than by one label of the whole answer",
            source="2405.17220: dividing an answer and judging its parts raises the agreement of open labelers with people",
            baseline=Arm("whole answers", JudgedCandidates(made, "whole")),
            method=Arm("statements", JudgedCandidates(made)),
            controls=(
                Arm("random pairs", JudgedCandidates(made, "random")),
                Arm("the shortest answer", JudgedCandidates(made, "shortest")),
            ),
            metric="agreement",
            margins=Margins(matters=0.05, equivalence=0.03),
            data=f"{TESTED} rendered images of two shapes, {CANDIDATES} drawn descriptions each; the writer and the labeler learned from "
            f"{PAIRS:,} others, in different orders",
            reported=("pairs", "false_share"),
        ),
    )
