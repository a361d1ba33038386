"""LiMBeR on scenes: what one linear map of a frozen encoder tells a frozen language model."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import hosted
from diptych.claims.claim import Arm, Claim, around, declare
from diptych.claims.training import opened, untrained
from diptych.recipes.bridges.limber import LiMBeR
from diptych.tasks.generation.captions import Captions
from diptych.worlds.scenes.world import scenes

SCENES, TESTED, SMOKE_ROWS = 6000, 300, 8


@dataclass(frozen=True)
class Captioned:
    """Learns from scenes of the cell's seed with one short caption each, writes about others of the same seed."""

    recipe: LiMBeR
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        train, test = (
            scenes(
                SMOKE_ROWS if cell.smoke else count,
                seed=cell.seed,
                split=split,  # type: ignore[arg-type]
                max_objects=2,
                lengths=("short",),
                paraphrases=0,
                negatives=False,
            )
            for split, count in (("train", SCENES), ("test", TESTED))
        )
        model = (opened if self.learns else untrained)(hosted(self.recipe, cell), train.remembering(), cell)
        task = Captions(max_tokens=24, draws=1, blind=False)
        result = task.score(task.predict(model, test))
        return {name: metric.value for name, metric in result.metrics.items()}


def claims() -> tuple[Claim, ...]:
    seeing = LiMBeR.tiny()
    blind = replace(seeing, blind=True)
    rates = around(seeing.lr)
    return (
        declare(
            slug="limber",
            sentence="Captions through one linear map between frozen parts score higher by CIDEr-D than those of the same model blind",
            source="2209.15162: one linear map carries what an encoder sees to a language model; a blind model is its floor",
            baseline=Arm("blind", Captioned(blind), rates),
            method=Arm("one linear map", Captioned(seeing), rates),
            controls=(Arm("untrained", Captioned(seeing, learns=False)),),
            metric="cider_d",
            margins=0.3,
            data=f"{SCENES:,} scenes of two things with a short caption, {TESTED} of the same seed to test",
            reported=("bleu_4", "rouge_l", "exact"),
            tuning_seeds=(0,),
            why_long="gradients run through the language model and captions are written to be scored: two minutes a cell",
        ),
    )
