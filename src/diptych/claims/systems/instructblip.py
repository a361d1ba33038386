"""InstructBLIP on pictures that are asked by place: one token of a picture, which does or does not know where to look.

The image encoder learned from texts that name places. In trials before one that learned from captions without them, which no cell
repeats, the Q-Former did not learn to look anywhere: aware or not, it answered with a colour of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.recipes.bridges.instructblip import InstructBLIP
from diptych.tasks.generation.vqa import VQA
from diptych.worlds.asked_pairs import asked_pairs

PAIRS, TESTED, SMOKE_ROWS, STEPS = 6000, 200, 8, 1500
WORLD = "small:world:asked_pairs?n=6000&seed=1"
"""Texts and questions of a seed that no verdict draws, for the language model and for the image encoder."""


@dataclass(frozen=True)
class Asked:
    """Learns from pictures of the cell's seed, answers questions about others of the same seed. learns=False asks before the first step."""

    recipe: InstructBLIP
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = asked_pairs(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed).remembering()
        test = asked_pairs(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        model = (opened if self.learns else untrained)(hosted(self.recipe, cell, address=WORLD), rows, cell)
        task = VQA(draws=1, blind=False)
        result = task.score(task.predict(model, test))
        return {name: metric.value for name, metric in result.metrics.items()}


def claims() -> tuple[Claim, ...]:
    aware = replace(InstructBLIP.tiny(), image_weights=WORLD, small_image_steps=1500, queries=1, steps=STEPS, batch_size=48)
    unaware, blind = replace(aware, aware=False), replace(aware, blind=True)
    rates = around(aware.lr)
    one = declare(
        slug="instructblip",
        sentence="Where a picture becomes one token, a Q-Former that reads the question answers more of them than one that does not",
        source="2305.06500, table 2: removing instruction awareness lowers every held-in and held-out score",
        baseline=Arm("unaware", Asked(unaware), rates),
        method=Arm("aware", Asked(aware), rates),
        controls=(Arm("blind", Asked(blind)), Arm("untrained", Asked(aware, learns=False))),
        metric="accuracy",
        margins=0.05,
        data=f"{PAIRS:,} rendered images of two shapes, asked for the colour or the shape at a place; {TESTED} of the same seed to test, "
        "four questions each",
        reported=("accuracy/colour", "accuracy/shape"),
        tuning_seeds=(0,),
        why_long="a Q-Former in front of a language model: a cell takes two to three minutes; rates are swept on one seed",
    )
    four = replace(
        one,
        name="four_tokens",
        sentence="Where a picture becomes four tokens, a Q-Former that reads the question answers more of them than one that does not",
        source="2305.06500, whose pictures become 32; with enough tokens the question may come later",
        baseline=Arm("unaware", Asked(replace(unaware, queries=4)), rates),
        method=Arm("aware", Asked(replace(aware, queries=4)), rates),
        controls=(
            Arm("blind", Asked(replace(blind, queries=4))),
            Arm("untrained", Asked(replace(aware, queries=4), learns=False)),
        ),
    )
    return one, four
