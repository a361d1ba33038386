"""RRN on Sudoku of few given cells: more steps at test against a plain MLP, beside one step and the nearest solution."""

from __future__ import annotations

from dataclasses import replace

from diptych.claims.cells.reasoning.puzzles import FEW, MANY, PUZZLES, TESTED, FewGivens, NearestSolution
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.recipes.relations.rrn import RRN

MLP_RATE = 4e-3
"""The middle of its rates, found on seed 0: at that of the recurrent network it learns less."""


def claims() -> tuple[Claim, ...]:
    many_steps = replace(RRN.tiny(), steps=500)
    one_step = replace(many_steps, reasoning_steps=1, test_steps=1, lr=MLP_RATE)
    mlp = replace(many_steps, network="mlp", hidden=256)
    return (
        declare(
            slug="rrn",
            sentence="On Sudoku of four digits with fewer given cells than in training, messages over eight steps (four in training) solve "
            "more puzzles than a plain MLP",
            source="1711.08028: 96.6 % of puzzles with 17 given cells by 64 steps (32 in training), where a relation network, which takes "
            "one step, and networks without messages solve none",
            baseline=Arm("mlp", FewGivens(mlp), around(MLP_RATE)),
            method=Arm("rrn", FewGivens(many_steps), around(many_steps.lr)),
            controls=(
                Arm("one step", FewGivens(one_step)),
                Arm("nearest solution", NearestSolution()),
                Arm("untrained", FewGivens(many_steps, learns=False)),
            ),
            metric="solved",
            margins=0.05,
            data=f"{PUZZLES:,} puzzles with {MANY[0]} to {MANY[1]} given cells; {TESTED} with {FEW[0]} or {FEW[1]} to test",
            reported=("cells", "solved/trained"),
            tuning_seeds=(0, 1),
        ),
    )
