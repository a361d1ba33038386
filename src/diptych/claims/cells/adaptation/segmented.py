"""Arms on rendered scenes with few label maps: a small CLIP learns from captions, then a Semantic FPN from masks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import sized_for
from diptych.claims.training import opened, trained, untrained
from diptych.recipes.adaptation.denseclip import DenseCLIP
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.segmentation import Segmentation
from diptych.worlds.scenes.world import scenes

PAIRS, STEPS, TESTED, SMOKE_ROWS = 6000, 400, 200, 24
BASE = replace(sized_for(CLIP.tiny(), batch_size=128, steps=STEPS), image_size=64, text_length=24)
ELSEWHERE = 500_009
"""Added to the seed of the captioned scenes, so that no picture with a mask was read with its caption."""


@dataclass(frozen=True)
class MaskedScenes:
    """Mean IoU on scenes of the cell's seed, after training on `masks` of them.

    begun   the image side starts from a CLIP that learned from captions; False: from fresh weights
    learns  False asks the segmenter as it is before its first step
    """

    recipe: DenseCLIP
    masks: int
    begun: bool = True
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        captioned = scenes(SMOKE_ROWS if cell.smoke else PAIRS, seed=cell.seed + ELSEWHERE, lengths=("short",), negatives=False)
        part = cell.part("base")
        if self.begun:
            folder = trained(BASE, captioned, part).model
        else:
            folder = part.folder / "model"
            untrained(BASE, captioned, part).save(folder)
        rows = scenes(SMOKE_ROWS if cell.smoke else self.masks, seed=cell.seed)
        test = scenes(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test")
        recipe = replace(self.recipe, weights=str(folder))
        run = replace(cell, folder=cell.folder / "masks")
        cell.spending.count(labelled=len(rows))
        model = (opened if self.learns else untrained)(recipe, rows, run)
        task = Segmentation(classes=model.classes, background=recipe.background, draws=1)
        known = test.select([row for row in range(len(test)) if {r.label for r in test[row].regions} <= set(model.classes)])
        result = task.score(task.predict(model, known))
        return {name: metric.value for name, metric in result.metrics.items()}
