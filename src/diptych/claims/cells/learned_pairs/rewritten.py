"""Training rows with further texts, and retrieval by texts in a phrasing that no training text has.

What is written beside a caption: rewrites by the grammar, captions with words dropped, or the rewrites of another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import clean_rows, drawn, retrieved
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.curate.operators.rewrite import Rewrite
from diptych.curate.writing.backends.grammar import STYLES
from diptych.data.dataset import Pool
from diptych.data.text.captions.variants import VARIANTS, variant_rows
from diptych.recipes._shared.pairs import PairRecipe
from diptych.worlds.small_pairs import PLACES, SmallPairs

How = Literal["rewritten", "another's", "dropped"]
DROPPED = 0.3
"""Share of the words that leaves a caption, where words are dropped."""


@dataclass(frozen=True)
class WithTexts:
    """Rows of the cell's seed with `styles` further texts each.

    how     "rewritten" by the grammar; "another's": the rewrites of another row; "dropped": the caption without some of its words
    styles  of the grammar; without the grammar, as many texts
    """

    pairs: SmallPairs
    how: How = "rewritten"
    styles: tuple[str, ...] = STYLES

    def __call__(self, cell: Cell) -> Pool:
        pool = drawn(self.pairs, cell)
        if self.how == "dropped":
            samples = (replace(s, texts=(*s.texts, *shortened(s, len(self.styles), cell.seed))) for s in pool)
            return Pool.from_samples(samples, name="dropped/train")
        column = Rewrite(styles=self.styles, seed=cell.seed, copies=True)(pool).columns[VARIANTS]
        if self.how == "another's":
            turned = np.roll(np.arange(len(column)), 1)
            column = column.set_column(0, "uid", column["uid"].take(turned))
        return pool.with_table(variant_rows(column))


def shortened(sample: Sample, count: int, seed: int) -> Sequence[Text]:
    """The first text without some words, so often; at least two words stay."""
    words = sample.texts[0].string.split()
    texts = []
    for number in range(count):
        rng = keyed_rng("dropped", seed, sample.uid, number)
        stays = rng.random(len(words)) >= DROPPED
        stays[rng.permutation(len(words))[:2]] = True
        texts.append(Text(" ".join(w for w, s in zip(words, stays, strict=True) if s), "en", "rewrite"))
    return texts


def rephrased(sample: Sample) -> Sample:
    """The text that names two shapes with their places, place first and colour last: no rule of the grammar says it so.

    "a red circle top left and a blue cross centre" is "top left circle in red , centre cross in blue".
    """
    parts = []
    for thing in sample.texts[0].string.split(" and "):
        _, colour, shape, *position = thing.split()
        assert " ".join(position) in PLACES
        parts.append(f"{' '.join(position)} {shape} in {colour}")
    return replace(sample, texts=(Text(", ".join(parts), "en", "alt"),))


@dataclass(frozen=True)
class Rephrased:
    """Trains on `rows`, then retrieves among clean rows by texts in another phrasing ("test/..."), and in the training one ("same/...")."""

    recipe: PairRecipe
    rows: WithTexts | SmallPairs
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = drawn(self.rows, cell) if isinstance(self.rows, SmallPairs) else self.rows(cell)
        run = replace(cell, folder=cell.folder / "run")
        model = opened(self.recipe, rows, run) if self.learns else untrained(self.recipe, rows, run)
        same = clean_rows(cell)
        other = Pool.from_samples((rephrased(sample) for sample in same), name="rephrased/test")
        scores = {f"test/{name}": value for name, value in retrieved(model, other).items()}
        return scores | {f"same/{name}": value for name, value in retrieved(model, same).items()}
