"""Arms that tune a small CLIP on a narrow set of pictures, with all weights or with adapters: what is learned, what is forgotten, what it
takes.

The start knows 24 coloured shapes on noise. The new pictures are a tenth darker and show eight of them alone. Nothing in them contradicts
what the start knows; what they do not show has no reason to stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import SMOKE_ROWS, clean_rows, retrieved
from diptych.claims.training import trained
from diptych.core.contracts.tuning import Tuning
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.clip import CLIP
from diptych.worlds.small_pairs import NOUNS, SmallPairs

KEPT_COLOURS, KEPT_SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square")
LEFT_OUT = tuple(noun for noun in NOUNS if noun.split()[0] not in KEPT_COLOURS or noun.split()[1] not in KEPT_SHAPES)
"""Nouns that the new pictures do not show."""
HELD_BYTES = 12
"""Of a trained number in float32 beyond its weight: its gradient and AdamW's two means."""


@dataclass(frozen=True, kw_only=True)
class AdaptedCLIP(CLIP):
    """The same recipe, tuned through adapters of that rank on every linear map of both towers, as `--lora` does; 0: all weights."""

    rank: int = 0

    def tuning(self) -> Tuning:
        return Tuning(lora=str(self.rank)) if self.rank else Tuning()


@dataclass(frozen=True)
class FineTuned:
    """Retrieval recall before and after fine-tuning, on pictures like those of the start and like those of the tuning.

    Scores are "source/..." and "target/...", the same before the tuning ("start/..."), the count of trained parameters ("trained") and the
    KiB of their gradients and means ("held_kib").

    start   is trained first, on `count` pictures
    recipe  tunes it, on as many
    learns  False measures the start
    """

    start: CLIP
    recipe: AdaptedCLIP
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        pairs = SmallPairs(SMOKE_ROWS if cell.smoke else self.count)
        first, second = pairs.pool("train", cell.seed), dimmed(replace(pairs, avoid=LEFT_OUT).pool("train", cell.seed + 1))
        vocabulary = self.start.prepare(first).vocabulary
        base = trained(replace(self.start, vocabulary=vocabulary), first, cell.part("start"))
        model, count = open_model(base.model), 0
        scores = {f"start/{name}": value for name, value in asked(model, cell).items()}
        if self.learns:
            recipe = replace(self.recipe, vocabulary=vocabulary)
            part = replace(cell, folder=cell.folder / "tuned")
            run = trained(recipe, second, part, init=str(base.path))
            model = open_model(run.model)
            count = numbers(run.adapter / "adapter_model.safetensors" if recipe.rank else run.model / "model.safetensors")
        scores |= {"trained": float(count), "held_kib": count * HELD_BYTES / 1024}
        return scores | asked(model, cell)


def asked(model: Any, cell: Cell) -> dict[str, float]:
    """Recall among clean rows of either kind."""
    parts = {"source": clean_rows(cell), "target": dimmed(clean_rows(cell, avoid=LEFT_OUT))}
    return {
        f"{part}/{name}": value
        for part, rows in parts.items()
        for name, value in retrieved(model, rows).items()
        if name.endswith("r@1")
    }


def dimmed(pool: Pool) -> Pool:
    """The same pictures, a tenth darker."""

    def samples() -> Iterator[Sample]:
        for row in range(len(pool)):
            sample = pool[row]
            assert isinstance(sample.image, ArrayImage)
            pixels_HWC = (sample.image.pixels_HWC.astype(np.uint16) * 9 // 10).astype(np.uint8)
            yield replace(sample, image=ArrayImage(pixels_HWC, sample.image.name))

    return Pool.from_samples(samples(), name=f"{pool.name} dimmed")


def numbers(path: Path) -> int:
    """Number of values in a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118, a handle is no mapping
