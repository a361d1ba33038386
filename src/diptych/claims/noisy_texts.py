"""Small rendered pairs of which some have the text of another image, as on the web; which ones is known. Claims about noise stand on it.

An image of 48 pixels holds two coloured shapes in two of nine cells, on noise. Its raw text names both with their places ("a red
circle top left and a blue cross centre"); its synthetic caption names both without, as a captioner that sees things but not where they
are. The scenes of `world:scenes` have four times as many nouns and no grid: too much to learn in the minute that a cell has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from diptych.claims.claim import Cell, Scores
from diptych.claims.training import trained
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.io.deployed import open_model
from diptych.recipes._shared.pairs import PairRecipe
from diptych.tasks.pairs.retrieval import Retrieval

AnyPairRecipe = TypeVar("AnyPairRecipe", bound=PairRecipe)
Split = Literal["train", "test"]

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 220, 50),
    "purple": (160, 50, 190),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
NOUNS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
PLACES = (
    "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"
)  # fmt: skip
SIDE, CELL, JITTER = 48, 16, 2
"""Pixels of an image and of a cell, and by how many a shape is off its cell's middle at most."""
WIDTH = 64
"""Numbers of a vector."""
TESTED = 500
SMOKE_ROWS, SMOKE_BATCH = 32, 16


@dataclass(frozen=True)
class NoisyPairs:
    """The first `count` images of a split.

    mismatched  share of raw texts that are another image's; the extra "mismatched" says which
    wrong       share of synthetic captions that are another image's
    captioned   whether samples carry the caption at all
    avoid       nouns ("red circle") that no image shows
    """

    count: int
    mismatched: float = 0.0
    wrong: float = 0.05
    captioned: bool = False
    avoid: tuple[str, ...] = ()

    def pool(self, split: Split, seed: int) -> Pool:
        """Deterministic in (split, seed): equal images and equal mistakes for every arm that avoids the same."""
        nouns = [noun for noun in NOUNS if noun not in self.avoid]
        shown = [_drawn(keyed_rng("noisy", seed, split, row), nouns) for row in range(self.count)]
        raw = [" and ".join(f"a {noun} {PLACES[cell]}" for noun, cell in things) for _, things in shown]
        captions = [" and ".join(f"a {noun}" for noun, _ in things) for _, things in shown]
        raw_of = exchanged(self.count, self.mismatched, split, seed, "raw")
        caption_of = exchanged(self.count, self.wrong, split, seed, "caption")
        samples = []
        for row, (pixels_HWC, _) in enumerate(shown):
            uid = f"{split}-{seed}-{row:06d}"
            texts = [Text(raw[raw_of[row]], "en", "alt")]
            if self.captioned:
                texts.append(Text(captions[caption_of[row]], "en", "synthetic"))
            extras = {"split": split, "mismatched": raw_of[row] != row}
            group = raw[row] if split == "test" else ""  # nobody knows a wrong text for a duplicate while training
            samples.append(Sample(uid, ArrayImage(pixels_HWC, uid), tuple(texts), group=group, extras=extras))
        return Pool.from_samples(samples, name=f"noisy/{split}")


def _drawn(rng: np.random.Generator, nouns: Sequence[str]) -> tuple[npt.NDArray[np.uint8], list[tuple[str, int]]]:
    """An image and its two (noun, cell), the cells in reading order."""
    pixels_HWC = np.clip(rng.normal(64, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    cells = sorted(int(cell) for cell in rng.choice(len(PLACES), 2, replace=False))
    things = [(nouns[int(rng.integers(len(nouns)))], cell) for cell in cells]
    for noun, cell in things:
        colour, shape = noun.split()
        down, right = (int(shift) for shift in rng.integers(-JITTER, JITTER + 1, 2))
        y, x = np.ogrid[:SIDE, :SIDE]
        y, x = y - (cell // 3 * CELL + CELL / 2 + down), x - (cell % 3 * CELL + CELL / 2 + right)
        pixels_HWC[_inside(shape, y, x)] = COLOURS[colour]
    return pixels_HWC, things


def _inside(shape: str, y: Any, x: Any) -> npt.NDArray[np.bool_]:
    """bool [H, W] from distances to the middle, in pixels."""
    mask: npt.NDArray[np.bool_]
    if shape == "circle":
        mask = y**2 + x**2 <= 36
    elif shape == "square":
        mask = (abs(y) <= 5) & (abs(x) <= 5)
    elif shape == "triangle":
        mask = (abs(y) <= 6) & (2 * abs(x) <= y + 6)
    else:
        mask = ((abs(y) <= 2) & (abs(x) <= 6)) | ((abs(x) <= 2) & (abs(y) <= 6))
    return mask


def exchanged(count: int, share: float, *key: int | str) -> list[int]:
    """Row -> the row whose text it gets: itself, but for a share of the rows, none of which keeps its own."""
    order = keyed_rng("exchanged", *key).permutation(count)[: round(count * share)].tolist()
    source = list(range(count))
    if len(order) > 1:
        for row, other in zip(order, [*order[1:], order[0]], strict=True):
            source[row] = other
    return source


def for_noisy_pairs(recipe: AnyPairRecipe) -> AnyPairRecipe:
    """The recipe at the size of these images and sentences: towers of two blocks, whole images, since a crop would move shapes from
    cell to cell; everything else as in its own small preset."""
    return replace(
        recipe,
        image_tower="vit_micro",
        text_tower="text_micro",
        width=WIDTH,
        image_size=SIDE,
        text_length=16,
        pieces=400,
        crop=(1.0, 1.0),
        lr=1e-3,
        warmup=30.0,
        weight_decay=0.05,
        clip_norm=1.0,
    )


def for_cell(recipe: AnyPairRecipe, data: NoisyPairs, cell: Cell) -> tuple[AnyPairRecipe, NoisyPairs, int]:
    """Recipe, training pairs and number of test pairs of a cell: as given, or at their smallest."""
    if not cell.smoke:
        return recipe, data, TESTED
    return replace(recipe, steps=2, batch_size=SMOKE_BATCH), replace(data, count=SMOKE_ROWS), SMOKE_ROWS


def pairs_cell(
    recipe: PairRecipe,
    data: NoisyPairs,
    training: Callable[[NoisyPairs, int], Pool] = lambda rows, seed: rows.pool("train", seed),
    *,
    logged: Sequence[str] = (),
) -> Callable[[Cell], Scores]:
    """What runs an arm: trains on `training(data, seed)`, retrieves among clean pairs of the same seed that show everything.

    `logged` names metrics of the recipe whose last value is added; a recipe that knows no such weight counts as 1.
    """

    def run(cell: Cell) -> Scores:
        chosen, rows, tested = for_cell(recipe, data, cell)
        run_folder = trained(chosen, training(rows, cell.seed), cell)
        test = NoisyPairs(tested).pool("test", cell.seed)
        task = Retrieval(draws=1)
        result = task.score(task.predict(open_model(run_folder.model), test))
        last = [line for line in run_folder.metrics() if line.get("kind") == "train"][-1]
        scores = {f"test/{name}": metric.value for name, metric in result.metrics.items()}
        scores |= {name: float(last.get(name, 1.0)) for name in logged}
        return scores | {"train_seconds": run_folder.training_seconds()}

    return run
