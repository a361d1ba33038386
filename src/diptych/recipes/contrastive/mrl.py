"""MRL: Matryoshka embeddings for any dual-encoder recipe; every prefix of an embedding can be used as an embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal, Self

import torch
import yaml
from torch import Tensor, nn

from diptych.core.config import from_plain, to_plain
from diptych.core.contracts import Batch, Dataset, Draws, Hook, Optimiser
from diptych.core.errors import ConfigError
from diptych.core.own_recipes import is_recipe_file, load_trusted_object, split_commas
from diptych.core.registry import RECIPES
from diptych.models.pairs.embedder import PairEmbedder
from diptych.objectives.pairs.nested import Reduction, reduce_terms
from diptych.recipes._shared.pairs import EncoderRecipe, HasScale, PairRecipe
from diptych.recipes._shared.prefixes import truncate_embeddings
from diptych.recipes._shared.presets import PAPER_CLIP, SMALL_CLIP


@dataclass(frozen=True, kw_only=True)
class MRL(PairRecipe[nn.Module, Batch, HasScale]):
    """Matryoshka Representation Learning (Kusupati et al., 2022, arXiv 2205.13147). Baseline: `clip`, its vectors cut short.

    A modifier: the losses of the recipe `base` are taken on the first d dimensions of every feature, for each d of `dims`, and
    averaged. Features are cut first and normalised then, in both towers, and one temperature serves all widths. Towers, batches,
    optimiser and what the model remembers are those of `base`. Of its fields, those that this recipe has too are set here, the
    others are as in its own preset or as named after a colon.

    The model lists `dims` in its config.json. `model.first(16)` embeds to the first 16 dimensions; the same holds for every width in
    between, only less surely. A loss of D dimensions costs d / D of that for each further d: with halving widths less than twice the
    loss, and nothing in the towers.

    The paper sums over widths (`reduction="sum"`, in `paper()`); the mean, our default, lets clipping and other terms keep their
    meaning. For two towers the tied form ("efficient": one projection, cut) is the form: a text's prefix is the classifier of the
    image's prefix. With class labels, as in most of the paper, it is the recipe `mrl_classes`. `alip` as base: its gates compare each
    prefix's agreement with the running means of whole vectors.

    Bases are the recipes of two towers whose losses need nothing but features of the output space: clip, siglip, align, alip and
    dreamlip. Each of the others says why not in its `no_prefixes`.

    base     the recipe that is modified, with fields of its own after a colon: clip, siglip, dreamlip:texts=3,lambda_s=0; or one of your
             own, FILE.py:CLASS or FILE.py:CLASS:FIELD=VALUE
    base_preset  where its other fields come from
    dims     widths of the prefixes; the last should be `width`, or the whole vector is trained for nothing
    weights  one for each of `dims`; none: 1 each
    reduction  over widths: "mean", or "sum" as published
    """

    slug = "mrl"
    no_prefixes = "it takes the losses of another recipe on prefixes already"

    base: str = "clip"
    base_preset: Literal["tiny", "paper"] = "paper"
    dims: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    weights: tuple[float, ...] = ()
    reduction: Reduction = "mean"

    batch_size: int = 32_768
    warmup: float = 2000.0

    def __post_init__(self) -> None:
        if not self.dims or min(self.dims) < 1 or max(self.dims) > self.width or len(set(self.dims)) < len(self.dims):
            raise ConfigError(
                f"dims is {list(self.dims)} (expected different widths from 1 to {self.width}, the width of the vectors)"
            )
        if self.weights and len(self.weights) != len(self.dims):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.dims)} dims (expected one each, or none)")

    @cached_property
    def inner(self) -> EncoderRecipe:
        """The recipe that is modified."""
        if is_recipe_file(self.base):
            file, _, rest = self.base.partition(".py:")
            name, _, words = rest.partition(":")
            kind = load_trusted_object(f"{file}.py:{name}", "base")
        else:
            name, _, words = self.base.partition(":")
            kind = RECIPES.load(name)
        if why := why_not_a_base(kind):
            raise ConfigError(f"base '{name}' cannot be nested: {why} (expected one of {', '.join(bases())})")
        shared = {f.name for f in fields(PairRecipe)} & {f.name for f in fields(kind)}
        own = {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in split_commas(words) if word)}
        if taken := shared & set(own):
            raise ConfigError(
                f"'{min(taken)}' is a field of mrl itself: say --{min(taken).replace('_', '-')} instead of base '{self.base}'"
            )
        preset = kind.tiny() if self.base_preset == "tiny" else kind.paper()
        recipe: EncoderRecipe = from_plain(
            kind, {**to_plain(preset), **to_plain({key: getattr(self, key) for key in shared}), **own}
        )
        return recipe

    def prepare(self, data: Dataset) -> Self:
        return replace(self, vocabulary=self.inner.prepare(data).vocabulary)

    def model(self) -> nn.Module:
        model: nn.Module = self.inner.model()
        return model

    def batch(self, draws: Draws) -> Batch:
        batch: Batch = self.inner.batch(draws)
        return batch

    def features(self, model: nn.Module, batch: Batch) -> HasScale:
        features: HasScale = self.inner.features(model, batch)
        return features

    def losses(self, features: HasScale, batch: Batch) -> dict[str, Tensor]:
        every = [self.inner.losses(truncate_embeddings(features, d), batch) for d in self.dims]
        return {name: reduce_terms([losses[name] for losses in every], self.weights or None, self.reduction) for name in every[0]}

    def metrics(self, features: HasScale, batch: Batch) -> dict[str, Tensor]:
        """Those of the base, and its whole loss at every width."""
        each = {
            f"first_{d}": torch.stack(list(self.inner.losses(truncate_embeddings(features, d), batch).values())).sum()
            for d in self.dims
        }
        return {**self.inner.metrics(features, batch), **each}

    def optimiser(self) -> Optimiser:
        return self.inner.optimiser()

    def after_update(self, model: nn.Module, features: HasScale, batch: Batch, progress: float) -> None:
        self.inner.after_update(model, features, batch, progress)

    def stored(self, name: str) -> bool:
        return self.inner.stored(name)

    def hooks(self) -> Sequence[Hook]:
        return self.inner.hooks()

    def deploy(self, model: nn.Module) -> PairEmbedder:
        embedder = self.inner.deploy(model)
        embedder.name, embedder.dims = self.slug, self.dims
        return embedder

    @classmethod
    def tiny(cls) -> Self:
        """The towers, data and budget of `clip`'s."""
        return cls(**SMALL_CLIP, base_preset="tiny", dims=(4, 8, 16, 32, 64, 128))

    @classmethod
    def paper(cls) -> Self:
        """CLIP with prefixes from 8 on, summed, 151,277,313 parameters. The paper's own models are ResNet-50 and ALIGN."""
        return cls(**PAPER_CLIP, reduction="sum")


def why_not_a_base(kind: object) -> str:
    """Reason why a recipe cannot be a base of `mrl`; "" where it can."""
    if not (isinstance(kind, type) and issubclass(kind, PairRecipe)):
        return "it has no two towers that are trained together"
    return kind.no_prefixes


def bases() -> list[str]:
    """The recipes that can be a base."""
    return sorted(name for name in RECIPES if not why_not_a_base(RECIPES.load(name)))
