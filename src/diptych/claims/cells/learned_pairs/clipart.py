"""Arms on real clip art: heads over frozen encoders learn from rows that a rule chose, then retrieve among authors that no rule saw.

The set is openclipart as `diptych data fetch` builds it: titles, descriptions and keywords by the authors, with boilerplate titles,
wrong ones, and files that occur more than once. Smoke tests and traces read a few packaged emoji in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, trained, untrained
from diptych.core.disk.cache import cache_folder
from diptych.core.disk.files import atomic_file
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode
from diptych.data.media.images import ImageObjects
from diptych.recipes.contrastive.locked import Locked
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.address import open_data

BATCH, STEPS = 128, 200
SIDE, SMOKE_ROWS = 112, 48
"""Pixels of a picture, whole on a white square: what the image encoder reads."""
HELD_OUT = "unseen_author"
ASKED: dict[str, Any] = {
    "metric": f"{HELD_OUT}/t2i_r@5",
    "margins": 0.01,
    "equal_budget": ("steps", "samples", "trained_parameters"),
    "data": "openclipart: 7,582 pictures with titles, descriptions and keywords by their authors; retrieval among 505 of other authors",
    "reported": (f"{HELD_OUT}/i2t_r@5", f"{HELD_OUT}/t2i_r@1", "rows"),
    "tuning_seeds": (0, 1),
}
"""What claims on these data have in common."""

Choose = Callable[[Pool, Cell], Pool]
"""The rows of the pool that train; what a rule needs beyond them goes on the cell's account."""


def heads(steps: int = STEPS, **changes: Any) -> Locked:
    """The recipe of every arm: its own small preset, with fewer and smaller steps."""
    return replace(Locked.tiny(), **{"batch_size": BATCH, "steps": steps, **changes})


def whole(pool: Pool, cell: Cell) -> Pool:
    return pool


def emoji_rows(pool: Pool, cell: Cell) -> Pool:
    """The packaged emoji, whatever the pool."""
    emoji: Pool = open_data("emoji").split("train")
    return emoji.select(range(SMOKE_ROWS)) if cell.smoke else emoji


def emoji_heads(recipe: Locked, pool: Pool, cell: Cell) -> str:
    """The address of heads that learned from the emoji, on the cell's account: a model that has seen none of the pool."""
    return str(trained(recipe, emoji_rows(pool, cell), cell).model)


def rows_of(pool: Pool, uids: Collection[str]) -> Pool:
    """The rows with these uids, in the order of the pool."""
    return pool.select(np.flatnonzero([uid in uids for uid in pool.uids]))


@dataclass(frozen=True)
class AsManyByChance:
    """As many rows as `choose` leaves, drawn by chance."""

    choose: Choose

    def __call__(self, pool: Pool, cell: Cell) -> Pool:
        count = len(self.choose(pool, cell))
        return pool.select(np.sort(keyed_rng("by chance", cell.seed).permutation(len(pool))[:count]))


@dataclass(frozen=True)
class OnClipart:
    """Trains `recipe` on the rows that are chosen: "unseen_author/t2i_r@5" and the like, and the number of rows.

    learns    False asks the model as it is before the first step
    prefixes  how many first numbers of each vector are searched with: "first_8/t2i_r@5" and so on; () takes all of them
    """

    recipe: Locked
    choose: Choose = whole
    learns: bool = True
    prefixes: tuple[int, ...] = ()

    def __call__(self, cell: Cell) -> Scores:
        rows = self.choose(pictures("train", cell.smoke), cell)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        task, test = Retrieval(draws=1), pictures(HELD_OUT, cell.smoke)
        asked = {f"first_{width}": model.first(width) for width in self.prefixes} or {HELD_OUT: model}
        results = {part: task.score(task.predict(embedder, test)) for part, embedder in asked.items()}
        scores = {f"{part}/{name}": metric.value for part, result in results.items() for name, metric in result.metrics.items()}
        return scores | {"rows": float(len(rows))}


def pictures(split: str, smoke: bool) -> Pool:
    """Rows of a split; in a smoke test or trace a few emoji."""
    if smoke:
        few: Pool = open_data("emoji").split("unseen_style" if split == HELD_OUT else split).select(range(SMOKE_ROWS))
        return few
    return _clipart().split(split)


@lru_cache(maxsize=1)
def _clipart() -> Pool:
    """Every picture, decoded once and kept in the cache."""
    folder = cache_folder() / "sets" / "openclipart"
    if not folder.is_dir():
        raise DataError("the claim is about openclipart", expected=f"diptych data fetch openclipart --out {folder}")
    pool: Pool = open_data(str(folder))
    file = cache_folder() / "decoded" / f"{pool.fingerprint}-{SIDE}.npy"
    if not file.is_file():
        with atomic_file(file) as stored:
            np.save(stored, np.stack([_square(pool, row) for row in range(len(pool))]), allow_pickle=False)
    pixels_NHWC = np.load(file, mmap_mode="r", allow_pickle=False)
    images = [ArrayImage(pixels_HWC, uid) for uid, pixels_HWC in zip(pool.uids, pixels_NHWC, strict=True)]
    return pool.with_images(ImageObjects(images))


def _square(pool: Pool, row: int) -> np.ndarray:
    """[SIDE, SIDE, 3]: the whole picture on white."""
    image = pool[row].image
    assert image is not None
    return np.asarray(ImageOps.pad(Image.fromarray(decode(image)), (SIDE, SIDE), color=(255, 255, 255)))
