"""Arms on rendered pairs with captions in three languages: what is found by captions in each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS, TESTED
from diptych.claims.training import opened, untrained
from diptych.recipes.domains.rs_m_clip import RSMCLIP
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.pair_languages import pair_languages
from diptych.worlds.scenes.languages import TAGS

ENGLISH, OTHERS = TAGS[0], TAGS[1:]


@dataclass(frozen=True)
class InLanguages:
    """Trains `recipe` on so many pairs, then retrieves among clean ones by the captions of each language: mean recall, at 1, 5 and 10 in
    both directions, as remote sensing reports it ("en/mr"), recall at 1 ("en/r@1"), and the means of both over the other languages
    ("others/...") and over all ("all/...").

    learns  False asks the model as it is before the first step
    """

    recipe: RSMCLIP
    pairs: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = pair_languages(SMOKE_ROWS if cell.smoke else self.pairs, seed=cell.seed)
        run = replace(cell, folder=cell.folder / "run")
        model = opened(self.recipe, rows, run) if self.learns else untrained(self.recipe, rows, run)
        test = pair_languages(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        scores = {}
        for tag in TAGS:
            task = Retrieval(language=tag, draws=1)
            metrics = task.score(task.predict(model, test)).metrics
            scores[f"{tag}/mr"] = metrics["rsum"].value / 600
            scores[f"{tag}/r@1"] = metrics["r@1"].value
        for metric in ("mr", "r@1"):
            for name, tags in (("others", OTHERS), ("all", TAGS)):
                scores[f"{name}/{metric}"] = float(np.mean([scores[f"{tag}/{metric}"] for tag in tags]))
        return scores
