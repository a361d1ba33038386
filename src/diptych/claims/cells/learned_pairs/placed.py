"""Arms on small rendered pairs that are asked where a thing is: which of nine blocks, and which picture a caption with a block means.

Captions name both things and no place ("a red circle and a blue cross"), so that places come from prompts alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS
from diptych.claims.training import opened, untrained
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.text.captions.cleaning import cleaned
from diptych.data.text.prompts.position_prompts import append_prompt, block_of, prompt
from diptych.recipes.grounding.ptp import PTP
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.small_pairs import SIDE, SmallPairs

TESTED, ASKED = 300, 200
"""Pictures that are searched, and pictures whose first thing is asked for its block."""


@dataclass(frozen=True)
class Placed:
    """Trains `recipe` on so many pictures. "block" is how often the likeliest of nine prompts names the block of a thing (chance 1/9),
    "spatial/..." retrieval by a caption with a block, "plain/..." retrieval by the caption alone.

    learns  False asks the model as it is before the first step
    """

    recipe: PTP
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        count = SMOKE_ROWS if cell.smoke else self.count
        rows = captioned(SmallPairs(count, captioned=True, wrong=0.0, regions=True).pool("train", cell.seed))
        # The words of prompts are in both arms' vocabulary, so that they are equally many tokens.
        recipe = self.recipe if self.recipe.prompts != "none" else _with_words(self.recipe, rows)
        model = (opened if self.learns else untrained)(recipe, rows, cell)
        test = captioned(
            SmallPairs(SMOKE_ROWS if cell.smoke else TESTED, captioned=True, wrong=0.0, regions=True).pool("test", cell.seed)
        )
        scores = {"block": float(np.mean([_answered(model, test[row]) for row in range(min(len(test), ASKED))]))}
        return {**scores, **_retrieved(model, test, "vectors")}


def _retrieved(model: Any, test: Pool, compare: Literal["vectors", "pairs"]) -> Scores:
    scores: dict[str, float] = {}
    for name, data in (("plain", test), ("spatial", placed(test))):
        task = Retrieval(origins=("caption",), compare=compare, draws=1)
        metrics = task.score(task.predict(model, data)).metrics
        scores |= {f"{name}/{key}": metrics[key].value for key in ("t2i_r@1", "i2t_r@1")}
    return scores


def _with_words(recipe: PTP, rows: Pool) -> PTP:
    return replace(recipe, vocabulary=replace(recipe, prompts="moved").prepare(rows).vocabulary)


def captioned(pool: Pool) -> Pool:
    """The pictures with the captions that name no place."""
    return Pool.from_samples((_renamed(pool[row]) for row in range(len(pool))), name=pool.name)


def _renamed(sample: Sample) -> Sample:
    caption = next(text.string for text in sample.texts if text.origin == "synthetic")
    return replace(sample, texts=(Text(caption, "en"),), extras={"split": sample.extras["split"]}, group="")


def placed(pool: Pool) -> Pool:
    """The same with the block of the first thing behind the caption."""

    def samples() -> Iterator[Sample]:
        for row in range(len(pool)):
            sample = pool[row]
            region = sample.regions[0]
            phrase = prompt(block_of(region.box, SIDE, SIDE), _name(region))
            yield replace(sample, texts=(Text(append_prompt(sample.texts[0].string, phrase), "en"),))

    return Pool.from_samples(samples(), name=f"{pool.name} placed")


def _answered(model: Any, sample: Sample) -> bool:
    """True if the likeliest prompt behind the caption names the right block."""
    region = sample.regions[0]
    prompts = [cleaned(prompt(block, _name(region))) for block in range(9)]
    (table_92,) = model.answer_nll([sample.image], [f"{cleaned(sample.texts[0].string)}."], [prompts])
    return int(np.argmin(table_92[:, 0])) == block_of(region.box, SIDE, SIDE)


def _name(region: Region) -> str:
    return f"{region.attributes[0]} {region.label}"
