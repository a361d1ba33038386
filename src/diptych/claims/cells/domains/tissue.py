"""Arms on rendered tissue: a recipe learns from captioned tiles of the cell's seed, then names kinds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.data.dataset import Pool
from diptych.index.embed import embed_texts, embedded_images
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.pairs.zero_shot import ZeroShot
from diptych.worlds.tissue.tree import FAMILIES, LEAVES, tissue_ontology
from diptych.worlds.tissue.world import NORMAL_NAMES, tissue

TESTED, SMOKE_ROWS = 20 * (len(LEAVES) + 1), 2 * (len(LEAVES) + 1)
TEMPLATES = ("tissue of {}", "a tile of {}")
"""No caption of the training rows is worded so."""


@dataclass(frozen=True)
class Tissue:
    """Number of captioned training tiles and how they are named: see `worlds.tissue.world.TissueWorld`."""

    count: int
    family: float = 0.3
    members: int = 4
    unnamed: float = 0.1
    exponent: float = 0.8

    def rows(self, cell: Cell) -> Pool:
        count = SMOKE_ROWS if cell.smoke else self.count
        options = {name: getattr(self, name) for name in ("family", "members", "unnamed", "exponent")}
        return tissue(count, seed=cell.seed, **options).to_pool()

    def tested(self, cell: Cell) -> Pool:
        return tissue(SMOKE_ROWS if cell.smoke else TESTED, seed=cell.seed, split="test").to_pool()

    def model(self, recipe: PairRecipe, rows: Pool, cell: Cell, *, learns: bool) -> Any:
        make = opened if learns else untrained
        return make(recipe, rows, replace(cell, folder=cell.folder / "run"))


@dataclass(frozen=True)
class KindsNamed:
    """Trains `recipe`, then names the kinds of test tiles by prompts, in words that no caption had.

    "acc": share of tiles, every kind equally often; "rare": of the third of kinds that were rarest in training; "family": the family is
    right, whatever the kind; "true": of tumours, how often a concept that is true of the tile, at any level, scores above one that is not.
    learns: False asks the model as it is before the first step.
    """

    recipe: PairRecipe
    data: Tissue
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        rows, test = self.data.rows(cell), self.data.tested(cell)
        model = self.data.model(self.recipe, rows, cell, learns=self.learns)
        task = ZeroShot(templates=TEMPLATES, classes=(NORMAL_NAMES[0], *LEAVES), draws=1)
        records = task.predict(model, test)
        named = [top[0] for top in records.column("top").to_pylist()]
        truth = test.column("label")
        seen = rows.column("label")
        counts = {leaf: seen.count(leaf) for leaf in LEAVES}
        rare = sorted(LEAVES, key=lambda leaf: (counts[leaf], leaf))[: len(LEAVES) // 3]
        right_N = np.array([a == b for a, b in zip(named, truth, strict=True)])
        family_N = np.array([family_of(a) == family_of(b) for a, b in zip(named, truth, strict=True)])
        return {
            "acc": float(right_N.mean()),
            "rare": float(right_N[np.isin(truth, rare)].mean()),
            "family": float(family_N.mean()),
            "true": true_above_false(model, test),
        }


def true_above_false(model: Any, test: Pool) -> float:
    """The mean over tiles of tumours of the chance that the text of a concept that is true of the tile scores above the text of one that is
    not, ties half. True are its kind, its family and "tumour"; the other 18 concepts are not."""
    tree = tissue_ontology()
    keys = list(tree)
    texts = [TEMPLATES[0].format(tree[key].name) for key in keys]
    text_CD = embed_texts(model, texts, texts)
    vector_ND = embedded_images(model, test).vectors_ND
    score_NC = vector_ND.astype(np.float64) @ text_CD.T.astype(np.float64)
    shares = []
    for score_C, label in zip(score_NC, test.column("label"), strict=True):
        if label not in LEAVES:
            continue
        leaf = tree.by_name[label][0]
        true_C = np.array([key == leaf or key in tree.ancestors(leaf) for key in keys])
        apart = score_C[true_C][:, None] - score_C[~true_C]
        shares.append(float(((apart > 0) + (apart == 0) / 2).mean()))
    return float(np.mean(shares))


def family_of(label: str) -> str:
    """The family of a kind; normal tissue is one of its own."""
    return next((family for family, (_, kinds) in FAMILIES.items() if label in kinds), label)
