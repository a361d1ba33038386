"""A small image-text model that learns the pairs of a data set once and is kept in the cache, for recipes that are given no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from diptych.core.config import to_plain
from diptych.core.contracts import Dataset
from diptych.core.randomness import keyed_seed
from diptych.core.terminal.progress import with_bar
from diptych.data.load.batch import PairBatch
from diptych.data.load.stream import batches
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.cached_models import cached_model, in_default_precision, steps_within_passes
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL
from diptych.train.optimise import build_optimiser, clip, learning_rate, set_learning_rate
from diptych.worlds.address import cached_for_training, open_data, training_rows

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SmallEncoder(DualEncoderRecipe):
    """CLIP's loss over a small vision transformer and a small text tower."""

    slug = "small_encoder"

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}

    @classmethod
    def tiny(cls) -> Self:
        """Minutes on two cores."""
        return cls(**{**SMALL, "batch_size": 64, "steps": 400, "text_length": 24})

    @classmethod
    def paper(cls) -> Self:
        """No paper has it: the same."""
        return cls.tiny()


def small_encoder(address: str, data: Dataset, *, steps: int, language: str, size: int = 64, seed: int = 0) -> Path:
    """The model folder of a `PairEmbedder` in the cache; trained first where it is not there.

    steps    fewer on few rows: `cached_models.PASSES` passes
    address  the data whose pairs it learns, so that runs on different data share it; "" takes those of the run, `data`
    size     pixels of an image, a multiple of 16. Where things stand on a grid, patches that match its cells show one thing each
    """
    rows = training_rows(open_data(address)) if address else data
    recipe = replace(SmallEncoder.tiny(), image_size=size, language=language)
    recipe = replace(recipe, steps=steps_within_passes(steps, len(rows), recipe.batch_size))
    key = [FORMAT, rows.fingerprint, to_plain(recipe), seed]
    seed = keyed_seed("small encoder", seed)
    return cached_model("encoders", key, lambda: _train(cached_for_training(rows, recipe), recipe, seed), seed=seed, doubles=True)


def _train(rows: Dataset, recipe: SmallEncoder, seed: int) -> Callable[[Path], object]:
    recipe = recipe.prepare(rows)
    model, spec = recipe.model(), recipe.optimiser()
    optimiser = build_optimiser(model, spec)
    stream = batches(rows, recipe, seed=seed % 2**31, stop=recipe.steps)
    for number, step in enumerate(with_bar(stream, recipe.steps, f"pairs of {rows.name}, once")):
        batch = in_default_precision(step.batch)
        features = recipe.features(model, batch)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(recipe.losses(features, batch).values())).sum().backward()
        clip(model, spec.clip_norm)
        set_learning_rate(optimiser, learning_rate(spec, number, recipe.steps))
        optimiser.step()
        recipe.after_update(model, features, batch, (number + 1) / recipe.steps)
    return recipe.deploy(model.eval().float()).save
