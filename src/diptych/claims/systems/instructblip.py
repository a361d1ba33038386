"""InstructBLIP on scenes with questions: one token of a picture, which does or does not know what is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim
from diptych.claims.sweep import around
from diptych.claims.training import opened, untrained
from diptych.claims.verdict import Margins
from diptych.recipes.bridges.instructblip import InstructBLIP
from diptych.tasks.generation.vqa import VQA
from diptych.worlds.scenes.questions import questions

SCENES, TESTED, SMOKE_ROWS = 6000, 300, 8


@dataclass(frozen=True)
class Asked:
    """Learns from scenes of the cell's seed, answers questions about others of the same seed. learns=False asks before the first step."""

    recipe: InstructBLIP
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = questions(SMOKE_ROWS if cell.smoke else SCENES, seed=cell.seed).remembering()
        test = questions(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        model = (opened if self.learns else untrained)(hosted(self.recipe, cell), rows, cell)
        task = VQA(draws=1, blind=False)
        result = task.score(task.predict(model, test))
        return {name: metric.value for name, metric in result.metrics.items()}


def claims() -> tuple[Claim, ...]:
    aware = replace(InstructBLIP.tiny(), queries=1)
    unaware, blind = replace(aware, aware=False), replace(aware, blind=True)
    rates = around(aware.lr)
    return (
        Claim(
            slug="instructblip",
            kind="paper's claim",
            sentence="Where a picture becomes one token, a Q-Former that reads the question answers more of them than one that does not",
            source="2305.06500, table 2: removing instruction awareness lowers every held-in and held-out score",
            refuted="a difference whose interval lies below zero",
            baseline=Arm("unaware", Asked(unaware), rates),
            method=Arm("aware", Asked(aware), rates),
            controls=(Arm("blind", Asked(blind)), Arm("untrained", Asked(aware, learns=False))),
            metric="accuracy",
            margins=Margins(matters=0.05, equivalence=0.05),
            equal_budget=("steps", "samples"),
            data=f"{SCENES:,} scenes of two things with questions, {TESTED} of the same seed to test",
            reported=("accuracy/colour", "accuracy/shape", "accuracy/count", "accuracy/there"),
            tuning_seeds=(0,),
            why_long="a Q-Former in front of a language model: a cell takes some three minutes; rates are swept on one seed",
        ),
    )
