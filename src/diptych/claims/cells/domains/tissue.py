"""Arms on rendered tissue: a recipe learns from captioned tiles of the cell's seed, then names kinds, or reads whole slides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.randomness import keyed_rng
from diptych.data.dataset import Pool
from diptych.index.embed import embed_texts, embedded_images
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks._scoring.chest_metrics import auroc
from diptych.tasks._scoring.slides.prompt_screening import screened, screening_scores
from diptych.tasks._scoring.slides.scores import cosines
from diptych.tasks.domains.slide_detection import SlideDetection
from diptych.tasks.pairs.zero_shot import ZeroShot
from diptych.worlds.tissue.slides import slides
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


@dataclass(frozen=True)
class Screened:
    """Trains `recipe` and builds many sets of prompts, half of whose names are wrong for their class; then names tiles by the sets that are
    chosen on unlabelled tiles.

    chosen  "best": the half that screening likes; "drawn": a half drawn at random; "worst": the half that it likes least
    """

    recipe: PairRecipe
    data: Tissue
    chosen: Literal["best", "drawn", "worst"] = "best"
    learns: bool = True
    sets: int = 40

    def __call__(self, cell: Cell) -> Scores:
        test = self.data.tested(cell)
        model = self.data.model(self.recipe, self.data.rows(cell), cell, learns=self.learns)
        kinds = (NORMAL_NAMES[0], *LEAVES)
        vector_ND = embedded_images(model, test).vectors_ND
        truth_N = np.array([kinds.index(label) for label in test.column("label")])
        sentences, wrong_S = worded(kinds, self.sets, cell.seed)
        flat = [sentence for one in sentences for sentence in one]
        class_SKD = embed_texts(model, flat, flat).reshape(self.sets, len(kinds), -1)
        score_S = screening_scores(vector_ND, class_SKD)
        half = self.sets // 2
        if self.chosen == "drawn":
            score_S = keyed_rng("drawn sets", cell.seed).random(self.sets)
        order_S = score_S if self.chosen != "worst" else -score_S
        class_KD = screened(class_SKD, order_S, half)
        taken = np.argsort(-order_S, kind="stable")[:half]
        acc = float((cosines(vector_ND, class_KD).argmax(1) == truth_N).mean())
        return {"acc": acc, "sound": float(1 - wrong_S[taken].mean())}


@dataclass(frozen=True)
class SlidesDetected:
    """Trains `recipe` on tiles, then asks whole slides of patients that nobody has trained on whether they show a tumour.

    "auroc" by `score`: "share", that of the tiles that are named a tumour, or "pooled", the mean of all tiles named once. No prompt is
    chosen.
    """

    recipe: PairRecipe
    data: Tissue
    score: Literal["share", "pooled"] = "share"
    learns: bool = True
    slides: int = 60
    tiles: int = 10

    def __call__(self, cell: Cell) -> Scores:
        model = self.data.model(self.recipe, self.data.rows(cell), cell, learns=self.learns)
        count = 4 if cell.smoke else self.slides
        tumour = (*FAMILIES, *LEAVES)
        task = SlideDetection(size=48, templates=TEMPLATES, best=0, draws=1, normal=NORMAL_NAMES, tumour=tumour)
        records = task.predict(model, slides(count, seed=cell.seed, split="test", tiles=self.tiles))
        truth_N = np.asarray(records.column("tumour").to_pylist(), bool)
        return {"auroc": auroc(np.asarray(records.column(self.score).to_pylist()), truth_N)}


def worded(kinds: tuple[str, ...], sets: int, seed: int) -> tuple[list[list[str]], np.ndarray[Any, np.dtype[np.bool_]]]:
    """A sentence a kind for every set, and which sets are wrong: in those most kinds go by the name of another one."""
    rng = keyed_rng("worded", seed)
    tree = tissue_ontology()
    wrong_S = rng.permutation(sets) < sets // 2
    sets_of_texts = []
    for wrong in wrong_S:
        template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
        names = []
        for kind in kinds:
            choices = NORMAL_NAMES if kind == NORMAL_NAMES[0] else tree[tree.by_name[kind][0]].names
            names.append(str(rng.choice(choices)))
        if wrong:
            moved = rng.permutation(len(kinds))[: 2 * len(kinds) // 3]
            for position, other in zip(moved, np.roll(moved, 1), strict=True):
                names[int(position)] = kinds[int(other)]
        sets_of_texts.append([template.replace("{}", name) for name in names])
    return sets_of_texts, wrong_S


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
