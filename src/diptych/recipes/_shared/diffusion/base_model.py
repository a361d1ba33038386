"""The frozen text-to-image model that a recipe adapts: opened by its address, or a small one that is trained once and cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from diptych.core.config import to_plain
from diptych.core.contracts import Dataset, Recipe
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.core.terminal.progress import with_bar
from diptych.data.load.stream import batches
from diptych.models.diffusion.text_to_image import TextToImageModel
from diptych.models.io.open_address import open_address, weights_mtime
from diptych.recipes._shared.cached_models import cached_model, in_default_precision
from diptych.recipes._shared.diffusion.text_to_image_recipe import TextToImageRecipe
from diptych.train.optimise import build_optimiser, clip, freeze, learning_rate, set_learning_rate
from diptych.worlds.address import cached_for_training, open_data, training_rows

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class SmallTextToImage(TextToImageRecipe):
    """The small network of `text_to_image`."""

    slug = "small_text_to_image"

    @classmethod
    def tiny(cls) -> SmallTextToImage:
        """Minutes on two cores."""
        return cls(**cls.small())

    @classmethod
    def paper(cls) -> SmallTextToImage:
        """No paper has it: the same."""
        return cls.tiny()


def small_text_to_image(address: str, data: Dataset, *, steps: int, seed: int = 0) -> Path:
    """Model folder of a small `TextToImageModel` in the cache; trained first where it is not there.

    address  the data that it learns; "" takes those of the run, `data`
    """
    rows = training_rows(open_data(address)) if address else data
    recipe = replace(SmallTextToImage.tiny(), steps=steps)
    key = [FORMAT, rows.fingerprint, to_plain(recipe), seed]
    seed = keyed_seed("small text to image", seed)
    return cached_model("diffusion", key, lambda: train_once(rows, recipe, seed), seed=seed)


def train_once(rows: Dataset, recipe: Recipe[Any, Any, Any], seed: int) -> Callable[[Path], object]:
    """Trains a recipe of one stage without a run folder, and gives what saves the model."""
    rows = cached_for_training(rows, recipe)
    recipe = recipe.prepare(rows)
    model, spec = recipe.model(), recipe.optimiser()
    freeze(model, spec)
    optimiser = build_optimiser(model, spec)
    stream = batches(rows, recipe, seed=seed % 2**31, stop=recipe.steps)
    for number, step in enumerate(with_bar(stream, recipe.steps, f"pictures of {rows.name}, once")):
        batch = in_default_precision(step.batch)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(recipe.losses(recipe.features(model, batch), batch).values())).sum().backward()
        clip(model, spec.clip_norm)
        set_learning_rate(optimiser, learning_rate(spec, number, recipe.steps))
        optimiser.step()
    return recipe.deploy(model.eval().float()).save


def base_model(address: str) -> TextToImageModel:
    """The text-to-image model at an address, opened once a process unless its files change. Shared: copy its networks before training."""
    return _opened(address, weights_mtime(address))


@lru_cache(maxsize=2)
def _opened(address: str, when: tuple[int, ...]) -> TextToImageModel:
    with torch.device("cpu"):  # also where a recipe is built without memory
        model = open_address(address)
    if not isinstance(model, TextToImageModel):
        what = getattr(model, "kind", type(model).__name__)
        raise ConfigError(f"weights is {address!r}, a model of kind {what} (expected a text-to-image model, such as hf:FOLDER)")
    model.model.float()
    return model
