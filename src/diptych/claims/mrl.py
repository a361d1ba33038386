"""Training on prefixes makes short ones useful: MRL against CLIP with its vectors cut to as few numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from diptych.claims.claim import Arm, Cell, Claim, Scores
from diptych.claims.noisy_texts import TESTED, WIDTH, NoisyPairs, for_cell, for_noisy_pairs
from diptych.claims.training import trained
from diptych.models.io.deployed import open_model
from diptych.recipes._shared.pairs import PairRecipe
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.mrl import MRL
from diptych.tasks.pairs.retrieval import Retrieval

PAIRS = NoisyPairs(6000)
STEPS, BATCH = 400, 128
DIMS = (4, 8, 16, 32, 64)
SOURCES = (
    "diptych.claims.mrl",
    "diptych.claims.noisy_texts",
    "diptych.claims.training",
    "diptych.recipes.contrastive.mrl",
    "diptych.recipes.contrastive.clip",
    "diptych.recipes._shared.pairs",
    "diptych.models.layers.prefix",
    "diptych.objectives.pairs.nested",
    "diptych.objectives.pairs.info_nce",
)


def every_width(recipe: PairRecipe) -> Callable[[Cell], Scores]:
    """What runs an arm: trains, then retrieves with each prefix of the same vectors: "first_4/t2i_r@1" and so on."""

    def run(cell: Cell) -> Scores:
        chosen, rows, tested = for_cell(recipe, PAIRS, cell)
        run_folder = trained(chosen, rows.pool("train", cell.seed), cell)
        model = open_model(run_folder.model)
        test = NoisyPairs(tested).pool("test", cell.seed)
        task = Retrieval(draws=1)
        scores: dict[str, float] = {}
        for d in DIMS:
            result = task.score(task.predict(model.first(d), test))
            scores |= {f"first_{d}/{name}": metric.value for name, metric in result.metrics.items()}
        return scores | {"train_seconds": run_folder.training_seconds()}

    return run


def arm(recipe: PairRecipe) -> Arm:
    """The same towers, vectors, data, batch, steps and optimiser; the loss alone differs."""
    return Arm(recipe.slug, every_width(replace(for_noisy_pairs(recipe), batch_size=BATCH, steps=STEPS)))


def claim() -> Claim:
    return Claim(
        slug="mrl",
        sentence=f"The first {DIMS[0]} of {WIDTH} numbers of a vector give a higher recall at 1 with MRL than with CLIP",
        source="2205.13147, whose prefixes are as good as vectors trained at that width",
        refuted="a difference whose interval lies below zero; an interval around zero leaves it open",
        baseline=arm(CLIP.tiny()),
        method=arm(replace(MRL.tiny(), width=WIDTH, dims=DIMS)),
        metric=f"first_{DIMS[0]}/i2t_r@1",
        budget=f"{STEPS} steps x {BATCH} pairs, same towers, learning rate and schedule",
        data=f"{PAIRS.count:,} rendered images of two shapes, each text names both and their places; retrieval among {TESTED}",
        sources=SOURCES,
        reported=(f"first_{DIMS[0]}/t2i_r@1", *(f"first_{d}/i2t_r@1" for d in DIMS[1:]), "train_seconds"),
    )
