"""Arms that tune a small CLIP of one look on rendered pictures of another, whose captions bind: what it learns of structure, and what it
forgets of what it knew.

The start has learned texts that name things and their cells. The tuning sees darker pictures, with the captions of `composed` in one text
of several sentences, or with the start's own kind of text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.composed import TESTED, bound, with_words
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS, clean_rows, retrieved
from diptych.claims.training import trained
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.io.blend import blended
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.recipes.contrastive.syvic import SyViC
from diptych.tasks.composition.snare import PARTS, SNARE
from diptych.worlds.small_pairs import SmallPairs

CaptionStyle = Literal["binding", "places"]


@dataclass(frozen=True)
class Tuned:
    """SNARE's macro and parts on dark pictures, and retrieval among pictures and texts of the start ("base/...").

    captions  content of the tuning's captions: who is what and where in several sentences, or things and cells as the start knows them
    blend     share of the tuned weights in what is measured, the rest is the start's
    learns    False measures the start
    """

    start: CLIP
    recipe: SyViC
    count: int
    captions: CaptionStyle = "binding"
    blend: float = 1.0
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        pairs = SmallPairs(SMOKE_ROWS if cell.smoke else self.count, regions=True)
        plain, dark = pairs.pool("train", cell.seed), darkened(pairs.pool("train", cell.seed + 1))
        long = in_sentences(bound(dark, cell.seed))
        vocabulary = self.start.prepare(joined(plain, long)).vocabulary
        base = trained(replace(self.start, vocabulary=vocabulary), plain, cell.part("start"))
        model = open_model(base.model)
        if self.learns:
            recipe = replace(self.recipe, vocabulary=vocabulary)
            rows = long if self.captions == "binding" else dark
            run = trained(recipe, rows, replace(cell, folder=cell.folder / "tuned"), init=str(base.path))
            model = blended(model, open_model(run.model), self.blend) if self.blend < 1 else open_model(run.model)
        scores = structure(model, cell)
        return scores | {
            f"base/{name}": value for name, value in retrieved(model, clean_rows(cell)).items() if name.endswith("r@1")
        }


def structure(model: Any, cell: Cell) -> dict[str, float]:
    """SNARE on fresh dark pictures of the cell's seed."""
    pool = SmallPairs(SMOKE_ROWS if cell.smoke else TESTED, regions=True).pool("test", cell.seed)
    task = SNARE(draws=1)
    metrics = task.score(task.predict(model, with_words(bound(darkened(pool), cell.seed)))).metrics
    return {name: metrics[name].value for name in ("macro", "blind", *PARTS) if name in metrics}


def darkened(pool: Pool) -> Pool:
    """The same pictures at half of their brightness."""

    def samples() -> Iterator[Sample]:
        for row in range(len(pool)):
            sample = pool[row]
            assert isinstance(sample.image, ArrayImage)
            yield replace(sample, image=ArrayImage(sample.image.pixels_HWC // 2, sample.image.name))

    return Pool.from_samples(samples(), name=f"{pool.name} dark")


def in_sentences(pool: Pool) -> Pool:
    """All captions of a picture as one text of several sentences."""
    samples = (pool[row] for row in range(len(pool)))
    joined_texts = (replace(s, texts=(Text(". ".join(text.string for text in s.texts) + ".", "en"),)) for s in samples)
    return Pool.from_samples(joined_texts, name=pool.name)


def joined(first: Pool, second: Pool) -> Pool:
    """Both, for a vocabulary of the words of both."""
    samples = [
        replace(pool[row], uid=f"{position}-{pool[row].uid}")
        for position, pool in enumerate((first, second))
        for row in range(len(pool))
    ]
    return Pool.from_samples(samples, name=f"{first.name} and {second.name}")
