"""Does MIR put bridges into the order of what they learned, does it tell one that learned, and does what is built to lower it help?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.cells.ranked_runs import (
    FRESH,
    MATCHED,
    READ,
    RIGHT,
    SMOKE_ROWS,
    STEPS,
    TESTED,
    WORLD,
    One,
    Ranking,
    bridge,
    named,
)
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.recipes.bridges.limber import LiMBeR
from diptych.tasks.generation.captions import Captions
from diptych.tasks.generation.mir import MIR
from diptych.worlds.asked_pairs import asked_pairs

PAIRS, LONG = 6000, 160


@dataclass(frozen=True)
class Calibrated:
    """Learns texts of pictures of the cell's seed, writes about others of the same seed; and the MIR of what came of it."""

    recipe: LiMBeR
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        train = asked_pairs(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed).remembering()
        test = asked_pairs(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        model = (opened if self.learns else untrained)(hosted(self.recipe, cell, address=WORLD), train, cell)
        captions, mir = Captions(max_tokens=24, draws=1, blind=False), MIR(samples=READ, words=0)
        written = captions.score(captions.predict(model, test))
        scores = {name: metric.value for name, metric in written.metrics.items()}
        return {**scores, "mir": mir.score(mir.predict(model, test)).value}


def claims() -> tuple[Claim, ...]:
    most = named(STEPS[-1], RIGHT[0])
    data = (
        f"eight runs of a linear map before a language model: {', '.join(map(str, STEPS))} steps on pictures of two shapes, all captions "
        f"right or half of them; captions of {TESTED} others, MIR of {READ}; runs of a seed are trained once for all arms, and are on no "
        "arm's account"
    )
    plain = bridge(LONG)
    calibrated, rates = replace(plain, moca=True), around(plain.lr)
    whole = (
        declare(
            slug="mir",
            sentence="MIR puts eight runs of a bridge into the order of their captions better than the loss on held-out captions does",
            source="2410.07167: MIR tells how well a bridge was pre-trained where loss and perplexity do not. There quality is that after "
            "fine-tuning, here that of the captions themselves, which favours the loss",
            baseline=Arm("loss", Ranking("loss")),
            method=Arm("MIR", Ranking("mir")),
            controls=(Arm("norm of a picture's tokens", Ranking("norm")), Arm("MIR as released", Ranking("mir_as_released"))),
            metric="spearman",
            margins=0.1,
            equal_budget=("steps", "trained_parameters"),  # nothing is trained by an arm
            data=data,
            reported=("best", "worst", "blind"),
            why_long="eight runs a seed, each of which writes captions",
        ),
        declare(
            slug="mir",
            name="untrained",
            kind="mechanism check",
            sentence="The MIR of a bridge that learned is lower than that of a fresh one whose tokens have the norm of words",
            source="2410.07167, figure on training steps: MIR falls while a bridge is trained",
            baseline=Arm("fresh", One(MATCHED)),
            method=Arm(most, One(most)),
            controls=(Arm("fresh, norms as they come", One(FRESH)),),
            metric="mir",
            higher_is_better=False,
            margins=0.05,
            equal_budget=("steps", "trained_parameters"),
            data=data,
            reported=("mir_as_released", "cider_d", "loss"),
            why_long="the runs of `mir`, which are trained where they are not there yet",
        ),
        declare(
            slug="mir",
            name="moca",
            sentence="With a picture's places calibrated behind every layer, captions score higher by CIDEr-D",
            source="2410.07167: MoCa raises the mean of nine benchmarks from 59.1 to 60.6 and lowers MIR; there the language model is "
            "tuned afterwards, here it stays as it is",
            baseline=Arm("one linear map", Calibrated(plain), rates),
            method=Arm("calibrated", Calibrated(calibrated), rates),
            controls=(
                Arm("blind and calibrated", Calibrated(replace(calibrated, blind=True))),
                Arm("untrained", Calibrated(calibrated, learns=False)),
            ),
            metric="cider_d",
            margins=0.2,
            data=f"{PAIRS:,} rendered images of two shapes with a text, {TESTED} of the same seed to test",
            reported=("mir", "exact", "rouge_l"),
            tuning_seeds=(0, 1),
            why_long="gradients run through the language model and captions are written to be scored",
        ),
    )
    as_they_come = replace(
        whole[0],
        name="norms_as_they_come",
        sentence="Where a fresh map gives tokens of any norm, MIR orders eight runs better than the loss on held-out captions does",
        baseline=Arm("loss", Ranking("loss", match=False)),
        method=Arm("MIR", Ranking("mir", match=False)),
        controls=(
            Arm("norm of a picture's tokens", Ranking("norm", match=False)),
            Arm("MIR as released", Ranking("mir_as_released", match=False)),
        ),
    )
    return (*whole, as_they_come)
