"""GeoRSCLIP: CLIP fine-tuned on aerial and satellite pictures at any rotation, in full or with adapters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from torch import Tensor

from diptych.core.contracts import Draw, Draws, Optimiser, Rule, Tuning
from diptych.core.errors import ConfigError
from diptych.core.sample import Text
from diptych.data.load.batch import PairBatch
from diptych.data.media.augment.rotated_views import mentions_direction, rotated
from diptych.data.media.transforms import Pixels
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.block_adapters import MARK, RANK, AdapterKind, BlockAdapterConfig, with_adapters
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL


@dataclass(frozen=True, kw_only=True)
class GeoRSCLIP(DualEncoderRecipe):
    """RS5M and GeoRSCLIP: A Large-Scale Vision-Language Dataset and a Large Vision-Language Model for Remote Sensing (Zhang et al., 2024,
    arXiv 2306.11300). Baseline: `clip`.

    A published CLIP is tuned with its own loss on five million pictures from above (`diptych curate rs5m` filters such pairs). These
    have no upright: each is cropped, mirrored and turned by any angle. All weights are tuned, or only what is put beside them: low-rank
    maps (`rank`), bottleneck adapters, prefixes, or UniPELT, which gates all three (`adapter`). Start from published weights,
    `--init "open_clip:ViT-B-32-quickgelu/FILE"`; the released ones open by the same address. They use CLIP's mean and deviation; those of
    RS5M itself are .406 .423 .390 and .188 .175 .185 (`--mean`, `--std`). Batch, rate and rank were not published with the code: the
    defaults are those of fine-tuning here, and adapters are as AdapterHub has them. Low-rank maps are added to the weights in the end;
    other adapters stay in the model, which cannot be exported then.

    We depart in two defaults: a picture whose text names a direction is neither mirrored nor turned (`paper` does both whatever texts say),
    and `same_group` is as `clip` has it.

    rotation   least and largest angle in degrees, counter-clockwise; 0 0 leaves pictures as they lie
    rank       of low-rank adapters on `adapted`; 0 tunes all weights. `--lora` does the same for any recipe and overrules it
    adapted    modules that get adapters, as patterns; "" takes every linear map of both towers
    adapter    what is trained in the blocks of both towers beside weights that stay as --init gave them: "pfeiffer" (a bottleneck behind
               each block), "houlsby" (behind attention and MLP), "prefix" (further keys and values), "unipelt" (prefix, pfeiffer and
               low-rank maps of `rank` (8), each with a gate); "" none
    reduction  a bottleneck has the width over this
    prefix_length  places of a prefix; 0 takes 30, and 10 of UniPELT's
    prefix_hidden  width between the two layers that make a prefix
    """

    slug = "georsclip"

    rotation: tuple[float, float] = (0.0, 360.0)
    rank: int = 0
    adapted: str = ""
    adapter: Literal["", "pfeiffer", "houlsby", "prefix", "unipelt"] = ""
    reduction: int = 16
    prefix_length: int = 0
    prefix_hidden: int = 512

    batch_size: int = 512
    epochs: float = 5.0
    lr: float = 1e-5
    warmup: float = 50.0
    weight_decay: float = 0.1
    flip: bool = True

    def __post_init__(self) -> None:
        if self.rotation[0] > self.rotation[1]:
            raise ConfigError(f"rotation is {self.rotation} (expected the least angle first)")
        if self.rank < 0 or (self.adapted and not self.rank):
            raise ConfigError(
                f"rank is {self.rank}, adapted {self.adapted!r} (expected rank 1 or more beside patterns, or 0 without)"
            )
        if self.adapter not in ("", *get_args(AdapterKind)):
            raise ConfigError(f"adapter is {self.adapter!r} (expected {' | '.join(get_args(AdapterKind))})")
        if self.adapter and (self.adapted or (self.rank and self.adapter != "unipelt")):
            raise ConfigError(
                f"adapter is {self.adapter!r}, rank {self.rank}, adapted {self.adapted!r} "
                "(expected one way to tune: an adapter, or a rank; unipelt takes a rank and no patterns)"
            )

    def model(self) -> DualEncoder:
        image, text = self.towers()
        if self.adapter:
            config = BlockAdapterConfig(self.adapter, self.reduction, self.prefix_length, self.prefix_hidden, self.rank or RANK)
            image, text = with_adapters(image, config, "image"), with_adapters(text, config, "text")
        return DualEncoder(image, text, width=self.width)

    def optimiser(self) -> Optimiser:
        spec = super().optimiser()
        if not self.adapter:
            return spec
        return replace(spec, rules=(Rule(rf"\.{MARK}"), Rule("", lr_scale=0.0), *spec.rules))

    def tuning(self) -> Tuning:
        if not self.rank or self.adapter:
            return Tuning()
        return Tuning(lora=f"{self.rank}:{self.adapted}" if self.adapted else str(self.rank))

    def batch(self, draws: Draws) -> PairBatch:
        """Text, crop and mirroring as in `clip`, then the rotation: a number more of the draw's generator."""
        if self.rotation == (0.0, 0.0):
            return self.pair_batch(draws)
        string = ""

        def choose(draw: Draw, language: str) -> Text:
            nonlocal string
            text = self.text_draw(draw, language)
            string = text.string
            return text

        def turn(image_HWC: Pixels, rng: np.random.Generator) -> Pixels:
            turned_HWC = rotated(image_HWC, rng, self.rotation)
            return image_HWC if self.flip_sides != "ignore" and mentions_direction(string) else turned_HWC

        return self.pair_batch(draws, turn, choose)

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and budget of `clip`'s, from fresh weights."""
        own: dict[str, Any] = {**SMALL, "flip": True}
        return cls(**own)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32; every picture is mirrored and turned. The larger released size: ViT-H-14 of open_clip by `--init`."""
        return cls(act="quick_gelu", same_group="negative", flip_sides="ignore", decoding="whole")
