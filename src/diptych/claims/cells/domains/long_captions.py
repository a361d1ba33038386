"""Arms on long captions: of two shapes one is named in the first sentence and the other in the last, with sentences of no use between.

The image is a rendered pair (`worlds/small_pairs`). What stands between is drawn from sentences as captions of figures have them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import TESTED, clean_rows, drawn, retrieved
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.recipes.domains.biomedclip import BiomedCLIP
from diptych.worlds.small_pairs import SmallPairs

BETWEEN = (
    "Scale bars are fifty micrometres in all of the panels.",
    "Data are means of three experiments that were done apart.",
    "Error bars show the standard deviation of the mean.",
    "Images were taken at the same exposure on one day.",
    "Arrows and arrowheads are placed by two readers blinded to the group.",
    "Asterisks stand for a value below five hundredths.",
    "The contrast was raised in the same way for every picture.",
    "Samples were fixed and kept in the dark until they were read.",
    "One field of ten is shown as an example.",
    "Further details are given in the methods and in the supplement.",
)
COUNT = 4
"""Sentences between."""


@dataclass(frozen=True)
class LongCaptions:
    """Trains on pairs with long captions, then retrieves among new pairs whose captions are of the same form.

    learns  False asks the model as it is before the first step
    """

    recipe: BiomedCLIP
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows = _with_long_captions(drawn(SmallPairs(self.count), cell))
        run = replace(cell, folder=cell.folder / "run")
        model = opened(self.recipe, rows, run) if self.learns else untrained(self.recipe, rows, run)
        test = _with_long_captions(clean_rows(cell, TESTED))
        scores = {f"test/{name}": value for name, value in retrieved(model, test).items()}
        lengths = [self._tokens(model, test[row]) for row in range(len(test))]
        return {**scores, "tokens": sum(lengths) / len(lengths)}

    def _tokens(self, model: object, sample: Sample) -> int:
        tokenizer = getattr(model, "tokenizer")  # noqa: B009
        return int(tokenizer.count(sample.texts[0].string))


def long_caption(text: str, key: str) -> str:
    """The caption of a pair whose text names both shapes, "a red circle top left and a blue cross centre".

    >>> long_caption("a red circle top left and a blue cross centre", "x").count(".")
    6
    """
    first, second = text.split(" and ")
    order = keyed_rng("between", key).permutation(len(BETWEEN))[:COUNT]
    return " ".join([f"{first}.", *(BETWEEN[index] for index in order), f"{second}."])


def _with_long_captions(rows: Pool) -> Pool:
    samples = (rows[row] for row in range(len(rows)))
    long = (replace(sample, texts=(Text(long_caption(sample.texts[0].string, sample.uid), "en", "alt"),)) for sample in samples)
    return Pool.from_samples(long, name="long captions")
