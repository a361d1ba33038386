"""Parts of a mixed recipe: which texts a step reads, gates on pairs, prefixes of embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diptych.core.errors import ConfigError
from diptych.data.text.captions.text_sets import Cut
from diptych.objectives.pairs.nested import Reduction

Policy = Literal["one", "sentences", "two"]


@dataclass(frozen=True, kw_only=True)
class MixTexts:
    """Texts that a step reads of an image.

    policy     "one" text an image, drawn as `text_draw` says (CLIP, LaCLIP); "sentences", several drawn among those of all texts, each
               matched apart, the loss is their mean (DreamLIP); or "two", a raw text and a synthetic caption, the loss is the sum (ALIP)
    count      of sentences: so many an image and step
    raw_first  of sentences: the text that came with the image, whole, is a further one
    merged     of sentences: so many consecutive ones make one text
    cut        of sentences: "sentences", or as DreamLIP's released code at every stop ("stops")
    """

    policy: Policy = "one"
    count: int = 3
    raw_first: bool = False
    merged: int = 1
    cut: Cut = "sentences"

    def __post_init__(self) -> None:
        if self.count < 1 or self.merged < 1:
            raise ConfigError(f"count is {self.count} and merged {self.merged} (expected 1 or more)")
        if self.policy != "sentences" and (self.raw_first or self.merged > 1 or self.cut != "sentences"):
            raise ConfigError(f"raw_first, merged and cut belong to policy sentences, and policy is {self.policy}")

    @property
    def number(self) -> int:
        """Texts an image and step."""
        return {"one": 1, "two": 2, "sentences": self.count + self.raw_first}[self.policy]


@dataclass(frozen=True, kw_only=True)
class MixGates:
    """Weights of pairs by how well image, raw text and caption agree (ALIP's gates). Both gammas 0: none.

    gamma_language     steepness of the gate on the agreement of both texts
    gamma_description  steepness of the gates on the agreement of the image with each
    momentum           of the running means that they are compared with
    """

    gamma_language: float = 0.0
    gamma_description: float = 0.0
    momentum: float = 0.99

    def __post_init__(self) -> None:
        if self.gamma_language < 0 or self.gamma_description < 0:
            raise ConfigError(f"gammas are {self.gamma_language} and {self.gamma_description} (expected 0 or more)")

    def __bool__(self) -> bool:
        return self.gamma_language > 0 or self.gamma_description > 0


@dataclass(frozen=True, kw_only=True)
class MixPrefixes:
    """Prefixes of the embeddings on which the losses are taken (MRL). No dims: the whole vectors alone.

    dims       widths; the last should be `width`
    weights    one for each of `dims`; none: 1 each
    reduction  over widths: "mean", or "sum" as published
    """

    dims: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.dims and (min(self.dims) < 1 or len(set(self.dims)) < len(self.dims)):
            raise ConfigError(f"dims is {list(self.dims)} (expected different widths of 1 or more)")
        if self.weights and len(self.weights) != len(self.dims):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.dims)} dims (expected one each, or none)")
