"""Rendered pairs whose things come up by Zipf's law, as on the web: one coloured shape an image, a few of them in most images.

An image of 48 pixels holds one shape on noise, anywhere. Its text names it with its place and a few words that say nothing ("a picture
of a red circle at the left"). Every kind stands equally often in the test images, so that the mean over images is the mean over kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from diptych.claims.claim import Cell, Scores
from diptych.claims.noisy_texts import for_noisy_pairs
from diptych.claims.training import trained
from diptych.core.image import ArrayImage
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.models.io.deployed import open_model
from diptych.recipes.contrastive.clip import CLIP

COLOURS = {
    "red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "yellow": (235, 220, 50), "purple": (160, 50, 190),
    "white": (245, 245, 245), "orange": (240, 140, 30), "cyan": (60, 210, 220), "pink": (245, 150, 190), "brown": (130, 80, 40),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
KINDS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
OPENINGS = ("a picture of a", "one", "here is a", "photo of a", "nice", "my")
SIDE, EXPONENT, TESTED_EACH = 48, 1.2, 10
SMOKE_ROWS, SMOKE_BATCH = 64, 16


def long_tail(count: int, seed: int) -> Pool:
    """Pairs of kinds drawn by Zipf's law; which kind is frequent depends on the seed. The extra "kind" says what is shown."""
    rank = keyed_rng("long tail", seed).permutation(len(KINDS))
    weights = (1.0 + np.arange(len(KINDS))) ** -EXPONENT
    kinds = rank[keyed_rng("long tail", seed, "kinds").choice(len(KINDS), count, p=weights / weights.sum())]
    return Pool.from_samples(
        (_sample("train", seed, row, KINDS[kind]) for row, kind in enumerate(kinds.tolist())), name="long_tail"
    )


def evenly(each: int, seed: int) -> Pool:
    """So many images of every kind."""
    rows = [(row, kind) for row, kind in enumerate(KINDS * each)]
    return Pool.from_samples((_sample("test", seed, row, kind) for row, kind in rows), name="long_tail/test")


def tail_of(pool: Pool) -> list[str]:
    """The rarest third of all kinds."""
    counts = dict.fromkeys(KINDS, 0)
    for kind in pool.column("kind"):
        counts[kind] += 1
    return sorted(counts, key=lambda kind: (counts[kind], kind))[: len(KINDS) // 3]


def _sample(split: Literal["train", "test"], seed: int, row: int, kind: str) -> Sample:
    rng = keyed_rng("long tail", seed, split, row)
    pixels_HWC = np.clip(rng.normal(64, 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    colour, shape = kind.split()
    y0, x0 = rng.uniform(10, SIDE - 10, 2)
    y, x = np.ogrid[:SIDE, :SIDE]
    pixels_HWC[_inside(shape, y - y0, x - x0)] = COLOURS[colour]
    place = ("at the left", "in the middle", "at the right")[int(x0 * 3 / SIDE)]
    text = f"{OPENINGS[int(rng.integers(len(OPENINGS)))]} {kind} {place}"
    uid = f"{split}-{seed}-{row:06d}"
    return Sample(uid, ArrayImage(pixels_HWC, uid), (Text(text, "en", "alt"),), extras={"split": split, "kind": kind})


def _inside(shape: str, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """bool [H, W] from distances to the middle, in pixels."""
    masks = {
        "circle": lambda: y**2 + x**2 <= 49,
        "square": lambda: (abs(y) <= 6) & (abs(x) <= 6),
        "triangle": lambda: (abs(y) <= 7) & (2 * abs(x) <= y + 7),
        "cross": lambda: ((abs(y) <= 2) & (abs(x) <= 7)) | ((abs(x) <= 2) & (abs(y) <= 7)),
        "ring": lambda: (y**2 + x**2 <= 64) & (y**2 + x**2 >= 20),
        "bar": lambda: (abs(y) <= 3) & (abs(x) <= 9),
    }
    mask: npt.NDArray[np.bool_] = masks[shape]()
    return mask


@dataclass(frozen=True)
class Budget:
    rows: int
    steps: int
    batch: int


def long_tail_cell(choose: Callable[[Pool, int], Pool], budget: Budget) -> Callable[[Cell], Scores]:
    """What runs an arm: CLIP on the rows that `choose(pool, seed)` leaves, then zero-shot among all kinds on equally many of each."""

    def run(cell: Cell) -> Scores:
        pool = long_tail(SMOKE_ROWS if cell.smoke else budget.rows, cell.seed)
        rows = choose(pool, cell.seed)
        recipe = replace(for_noisy_pairs(CLIP.tiny()), steps=budget.steps, batch_size=budget.batch)
        if cell.smoke:
            recipe = replace(recipe, steps=2, batch_size=SMOKE_BATCH)
        run_folder = trained(recipe, rows, cell)
        model = open_model(run_folder.model)
        test = evenly(1 if cell.smoke else TESTED_EACH, cell.seed)
        image_ND = model.embed_images([sample.image for sample in test if sample.image is not None])
        answer = (image_ND @ model.embed_texts([f"a picture of a {kind}" for kind in KINDS]).T).argmax(1)
        kinds = np.array(test.column("kind"))
        right = np.array(KINDS)[answer] == kinds
        tail = np.isin(kinds, tail_of(pool))
        scores = {"zero_shot/macro": right.mean(), "zero_shot/tail": right[tail].mean(), "zero_shot/rest": right[~tail].mean()}
        scores |= {"rows": float(len(rows)), "train_seconds": run_folder.training_seconds()}
        return {name: float(value) for name, value in scores.items()}

    return run
