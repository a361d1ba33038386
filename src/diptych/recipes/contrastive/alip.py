"""ALIP: training on raw text and a synthetic caption, with loss weights by the agreement of image, text and caption."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.data.load.batch import TripletBatch
from diptych.data.media.transforms import CropForm
from diptych.models.pairs.encoders.two_text_encoder import TripletEncoder, TwoTextPairs
from diptych.objectives.gather import mean_over_processes
from diptych.objectives.pairs.agreement_gates import AnchorWeights, agreement_gates, agreements, initial_means, updated_means
from diptych.recipes._shared.presets import SMALL_CLIP
from diptych.recipes._shared.texts.two_texts import TwoTextRecipe


@dataclass(frozen=True, kw_only=True)
class ALIP(TwoTextRecipe[TripletEncoder, TripletBatch, TwoTextPairs]):
    """Adaptive Language-Image Pre-Training with Synthetic Caption (Yang et al., 2023, arXiv 2308.08428). Baseline: `clip`.

    Each image has a raw text (path 0) and a synthetic caption (path 1), read by one text tower. The loss is the sum of two
    contrastive losses whose anchors carry weights: a language gate below 1 where raw text and caption agree less than is usual, and
    there a description gate for each path that says how well the image agrees with that text. What is usual are three running
    means over the global batch, updated before they are used; they are in every checkpoint. Weights have no gradient, scale the anchor
    and not its role as a negative, and the mean is plain.

    Data need both texts: see `raw` and `synthetic`, or `captions`. Where samples carry an extra "mismatched" (bool), the log
    shows the mean weight of the raw pair for matched and mismatched samples apart. We depart in two points: the description gates
    follow the sign of the disagreement and not "language gate below 1", which is the same unless gamma_language is 0; and samples
    of one group are no negatives of each other, as in `clip`.

    gamma_language     steepness of the language gate; 0 turns it off
    gamma_description  steepness of both description gates; 0 turns them off. Both 0: two paths without weights
    momentum           of the running means
    decay              weight decay is on "all" parameters, as released, or on "matrices" alone
    schedule           "one_cycle" (released: torch's, whose warm-up and descent are cosines from lr / 25 and to lr / 250,000; it moves the
                       first beta from .95 to .85 and back), or the "cosine" of other recipes
    aspect             least and most width / height of the crops
    crop_draws         so many crops that do not fit are drawn anew before the middle of the image is taken
    """

    slug = "alip"

    gamma_language: float = 2.0
    gamma_description: float = 2.0
    momentum: float = 0.99
    decay: Literal["all", "matrices"] = "all"
    schedule: Literal["one_cycle", "cosine"] = "one_cycle"
    aspect: tuple[float, float] = (0.8, 1.25)
    crop_draws: int = 100
    crop_interpolation: Literal["bicubic", "bilinear"] = "bilinear"

    batch_size: int = 4096
    lr: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.2
    clip_norm: float = 1.0
    crop: tuple[float, float] = (0.7, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.aspect[0] <= self.aspect[1] or self.crop_draws < 1:
            raise ConfigError(
                f"aspect is {self.aspect} and crop_draws {self.crop_draws} (expected least and most above 0, and 1 or more draws)"
            )

    def model(self) -> TripletEncoder:
        image, text = self.towers()
        return TripletEncoder(image, text, width=self.width, mean_3=initial_means())

    def batch(self, draws: Draws) -> TripletBatch:
        return self.triplet_batch(draws)

    @property
    def crop_form(self) -> CropForm:
        return CropForm(self.aspect, self.crop_draws, self.crop_interpolation)

    def features(self, model: TripletEncoder, batch: TripletBatch) -> TwoTextPairs:
        triplets: TwoTextPairs = model(
            batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.caption_BL, batch.caption_mask_BL
        )
        return triplets

    def means(self, features: TwoTextPairs) -> Tensor:
        """The running means with this step's global batch in them."""
        agreement_N3 = agreements(features.image_ND, features.text_ND, features.caption_ND)
        return updated_means(features.mean_3, agreement_N3, momentum=self.momentum)

    def gates(self, features: TwoTextPairs) -> AnchorWeights:
        agreement_N3 = agreements(features.image_ND, features.text_ND, features.caption_ND)
        return agreement_gates(
            agreement_N3,
            self.means(features),
            gamma_language=self.gamma_language,
            gamma_description=self.gamma_description,
        )

    def losses(self, features: TwoTextPairs, batch: TripletBatch) -> dict[str, Tensor]:
        gates = self.gates(features)
        paths = {"raw": (features.text_ND, gates.raw_N), "synthetic": (features.caption_ND, gates.synthetic_N)}
        return {
            path: self.contrast(features.image_ND, text_ND, scale=features.scale, group_B=batch.group_B, weight_N=weight_N)
            for path, (text_ND, weight_N) in paths.items()
        }

    def metrics(self, features: TwoTextPairs, batch: TripletBatch) -> dict[str, Tensor]:
        """Scale; mean weights of both paths; of the raw path also for matched and mismatched samples, where that is known."""
        gates = self.gates(features)
        values = {"scale": features.scale, "weight_raw": gates.raw_N.mean(), "weight_synthetic": gates.synthetic_N.mean()}
        for name, state in (("mismatched", 1), ("matched", 0)):
            rows_N = batch.mismatched_B == state
            sums = torch.stack([(gates.raw_N * rows_N).sum(), rows_N.to(gates.raw_N).sum()])
            weight, count = mean_over_processes(sums).unbind()  # over all rows of all processes, so that all log the same names
            if count > 0:
                values[f"weight_{name}"] = weight / count
        return values

    def optimiser(self) -> Optimiser:
        rules = (Rule("", decay=True),) if self.decay == "all" else ()
        return replace(super().optimiser(), schedule=self.schedule, rules=rules)

    def after_update(self, model: TripletEncoder, features: TwoTextPairs, batch: TripletBatch, progress: float) -> None:
        model.remember_(self.means(features))
        super().after_update(model, features, batch, progress)

    @classmethod
    def tiny(cls) -> Self:
        """The same towers, batch and steps as `clip`'s. Data without texts of origin "synthetic" get a stand-in for the caption: a
        paraphrase (scene world), else the tags (emoji, where the raw text is the label)."""
        plain: dict[str, Any] = {"decay": "matrices", "schedule": "cosine", "aspect": (3 / 4, 4 / 3), "crop_draws": 10}
        return cls(**SMALL_CLIP, **plain, synthetic=("synthetic", "rewrite", "tags"))

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 on YFCC15M with captions by OFA-base, batch 4,096, 32 epochs. The released script runs eight processes, which gather
        features without gradient."""
        released: dict[str, Any] = {"decoding": "whole", "feature_gradient": 1 / 8}
        return cls(flip=True, flip_sides="ignore", same_group="negative", eps=1e-8, **released)
