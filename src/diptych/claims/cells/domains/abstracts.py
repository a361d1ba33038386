"""Sections of real abstracts: methods and results are matched with conclusions, on abstracts that were not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.articles.medline import structured_abstracts
from diptych.data.dataset import Pool
from diptych.recipes.domains.biovil import BioViL

TESTED = 300


@dataclass(frozen=True)
class MatchedSections:
    """Trains on structured abstracts of MEDLINE; recall at 1 of the conclusions of held-out ones, among as many, by cosine. Pictures
    are blank and are not read.

    rows    abstracts to train on
    """

    recipe: BioViL
    rows: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        train, test = abstracts(self.rows, cell.seed)
        model = (opened if self.learns else untrained)(self.recipe, train, cell)
        first, second = zip(*test, strict=True)
        one_ND, other_ND = model.embed_texts(list(first)), model.embed_texts(list(second))
        return recalls(one_ND @ other_ND.T)


@lru_cache(maxsize=4)
def abstracts(rows: int, seed: int) -> tuple[Pool, list[tuple[str, str]]]:
    """Reports to train on, and pairs of sections to test on; which are which depends on the seed."""
    every = structured_abstracts()
    order = keyed_rng("abstracts", seed).permutation(len(every)).tolist()
    blank = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    chosen = [every[number] for number in order[TESTED : TESTED + rows]]
    samples = (
        Sample(f"abstract-{n}", blank, (Text(f"FINDINGS: {one}\nIMPRESSION: {other}", "en"),), group=f"abstract-{n}")
        for n, (one, other) in enumerate(chosen)
    )
    return Pool.from_samples(samples, name="abstracts"), [every[number] for number in order[:TESTED]]


@dataclass(frozen=True)
class BagOfWords:
    """The same recall by the cosine of word counts, weighed by how rare a word is among the abstracts to train on (tf-idf)."""

    rows: int

    def __call__(self, cell: Cell) -> Scores:
        from sklearn.feature_extraction.text import TfidfVectorizer

        train, test = abstracts(self.rows, cell.seed)
        words = TfidfVectorizer().fit(text.string for sample in train for text in sample.texts)
        cosine_NN = (words.transform([one for one, _ in test]) @ words.transform([other for _, other in test]).T).toarray()
        return recalls(cosine_NN)


def recalls(cosine_NN: npt.NDArray[np.floating[Any]]) -> Scores:
    """Recall at 1 and 5, the mean of both directions; ties count against."""
    own_N = np.diag(cosine_NN)
    ranks = [(cosine_NN >= own_N[:, None]).sum(1), (cosine_NN >= own_N[None]).sum(0)]
    return {"r@1": float(np.mean([rank == 1 for rank in ranks])), "r@5": float(np.mean([rank <= 5 for rank in ranks]))}
