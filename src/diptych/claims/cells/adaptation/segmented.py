"""Arms on rendered pictures with few label maps: a small CLIP learns from texts, then a Semantic FPN from masks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import clean_rows, drawn, sized_for
from diptych.claims.training import opened, trained, untrained
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.recipes.adaptation.denseclip import DenseCLIP
from diptych.recipes.contrastive.clip import CLIP
from diptych.tasks.pairs.segmentation import Segmentation
from diptych.worlds.small_pairs import SmallPairs

PAIRS, STEPS, TESTED = 6000, 400, 300
SIDE = 96
"""Pixels that pictures are shown at: six patches a side, two for each cell in which a shape can stand."""
BASE = replace(sized_for(CLIP.tiny(), batch_size=128, steps=STEPS), image_size=SIDE, text_length=24)


@dataclass(frozen=True)
class MaskedPairs:
    """Mean IoU over things by colour and shape on pictures of the cell's seed, after training on `masks` of them.

    begun   the image side starts from a CLIP that learned from texts of other pictures; False: from fresh weights
    learns  False asks the segmenter as it is before its first step
    """

    recipe: DenseCLIP
    masks: int
    begun: bool = True
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        read, part = drawn(SmallPairs(PAIRS), cell, elsewhere=1), cell.part("base")
        if self.begun:
            folder = trained(BASE, read, part).model
        else:
            folder = part.folder / "model"
            untrained(BASE, read, part).save(folder)
        rows = named(drawn(SmallPairs(self.masks, regions=True), cell))
        test = named(clean_rows(cell, TESTED, regions=True))
        recipe = replace(self.recipe, weights=str(folder), crop_size=SIDE)
        run = replace(cell, folder=cell.folder / "masks")
        cell.spending.count(labelled=len(rows))
        model = (opened if self.learns else untrained)(recipe, rows, run)
        task = Segmentation(classes=model.classes, background=recipe.background, draws=1)
        within = test.select([row for row in range(len(test)) if {r.label for r in test[row].regions} <= set(model.classes)])
        result = task.score(task.predict(model, within))
        return {name: metric.value for name, metric in result.metrics.items()}


def named(rows: Iterable[Sample]) -> Pool:
    """Regions whose label is colour and shape: 24 classes."""

    def of(region: Region) -> Region:
        return replace(region, label=f"{region.attributes[0]} {region.label}", attributes=())

    return Pool.from_samples([replace(row, regions=tuple(map(of, row.regions))) for row in rows], name="masked pairs")
