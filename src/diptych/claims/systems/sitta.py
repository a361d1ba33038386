"""SITTA on scenes: words that a solved map looks up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.bridges import PAIRS, hosted
from diptych.claims.claim import Arm, Claim, declare
from diptych.claims.training import opened, untrained
from diptych.recipes.bridges.sitta import SITTA
from diptych.tasks.generation.captions import Captions
from diptych.tasks.generation.word_ranking import WordRanking
from diptych.worlds.scenes.world import scenes

SCENES, TESTED, SMOKE_ROWS = 2000, 200, 16
PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class Worded:
    """Solves for the map on scenes of the cell's seed and looks up words of others of the same seed. There is no learning rate: what is
    swept in its place is the penalty of ridge.

    solved    False takes a random map in its place
    captions  whether captions are written too
    """

    recipe: SITTA
    solved: bool = True
    captions: bool = False

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
        penalty = self.recipe.penalty if cell.rate is None else cell.rate
        cell = replace(cell, rate=None)
        recipe = hosted(replace(self.recipe, image_weights=PAIRS, penalty=penalty), cell)
        if cell.smoke:
            recipe = replace(recipe, templates="plain", orders=min(recipe.orders, 2))
        model = (opened if self.solved else untrained)(recipe, train.remembering(), cell)
        if not self.solved:
            torch.manual_seed(cell.seed)
            torch.nn.init.normal_(model.model.map.map_DE)
        ranking = WordRanking(draws=1, first=4)
        scores = {name: metric.value for name, metric in ranking.score(ranking.predict(model, test)).metrics.items()}
        if self.captions:
            task = Captions(max_tokens=24, draws=1, blind=False)
            scores |= {name: metric.value for name, metric in task.score(task.predict(model, test)).metrics.items()}
        return scores


def claims() -> tuple[Claim, ...]:
    solved = replace(SITTA.tiny(), solution="ridge")
    words = declare(
        slug="sitta",
        sentence="A map from pictures and their captions ranks the words of a picture better than one from the vocabulary's own texts",
        source="2307.05591: NDCG .55 with captions of COCO, .30 to .39 by lexical matching",
        baseline=Arm("vocabulary", Worded(replace(solved, learned_from="vocabulary")), PENALTIES),
        method=Arm("captions", Worded(solved), PENALTIES),
        controls=(Arm("random map", Worded(solved, solved=False)),),
        metric="ndcg",
        margins=0.03,
        equal_budget=("samples",),
        data=f"{SCENES:,} scenes of two things with a short caption, {TESTED} of the same seed to test; models that all seeds share",
        reported=("chance", "hit@4", "recall@4"),
    )
    return (words,)
