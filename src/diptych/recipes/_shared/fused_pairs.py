"""A recipe that trains a matcher: contrast for candidates, and reading image and text together (ALBEF, 2107.07651)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.contracts import Draws, Optimiser
from diptych.data.load.batch import PairBatch
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.matching.embedder import MatcherModel
from diptych.models.pairs.matching.matcher import Matcher, MatcherOutput, MatcherTraining
from diptych.objectives.gather import all_gather, gather_rows, mean_over_processes, world
from diptych.recipes._shared.pairs import PairRecipe
from diptych.recipes._shared.presets import SMALL_CLIP


@dataclass(frozen=True, kw_only=True)
class FusedRecipe(PairRecipe[MatcherTraining, PairBatch, MatcherOutput]):
    """Trains a matcher. Wrong pairs are drawn over the batch of all processes, so batches cannot be cut into chunks; each process holds the
    tokens of that batch for them.

    fusion_layers  blocks that read words and patches together, over both towers
    fusion_heads   heads of each
    match_weight   weight of the matching beside the contrast
    betas, eps   of AdamW
    """

    cacheable = False
    no_prefixes = "it reads pairs together"

    fusion_layers: int = 6
    fusion_heads: int = 8
    match_weight: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6

    def model(self) -> MatcherTraining:
        return MatcherTraining(self.matcher(), gather=all_gather, gather_rows=gather_rows, world=world)

    def matcher(self) -> Matcher:
        image, text = self.towers()
        return Matcher(DualEncoder(image, text, width=self.width), layers=self.fusion_layers, heads=self.fusion_heads)

    def batch(self, draws: Draws) -> PairBatch:
        return self.pair_batch(draws)

    def features(self, model: MatcherTraining, batch: PairBatch) -> MatcherOutput:
        outputs: MatcherOutput = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.group_B)
        return outputs

    def losses(self, features: MatcherOutput, batch: PairBatch) -> dict[str, Tensor]:
        contrast = self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)
        return {"contrastive": contrast, "matching": self.match_weight * matching(features)}

    def metrics(self, features: MatcherOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def after_update(self, model: MatcherTraining, features: MatcherOutput, batch: PairBatch, progress: float) -> None:
        model.encoder.clamp_scale_(self.max_scale)

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=self.betas, eps=self.eps)

    def deploy(self, model: MatcherTraining) -> MatcherModel:
        return MatcherModel(model.matcher, self.deployed_preprocess, self.words(), self.text_length, name=self.slug or "matcher")

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and budget of `clip`'s, with two blocks above them."""
        return cls(**SMALL_CLIP, fusion_layers=2, fusion_heads=3)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 and CLIP's text tower with six blocks above: the size of ALBEF, on CLIP's parts."""
        return cls(
            image_tower="vit_b16",
            batch_size=512,
            lr=1e-4,
            weight_decay=0.02,
            warmup=1000.0,
            same_group="negative",
            decoding="whole",
        )


def matching(features: MatcherOutput) -> Tensor:
    """The mean over three kinds of pairs, one of them right, of the cross-entropy of "fits"; rows without a wrong partner have one kind."""
    target_N = torch.ones(len(features.own_N2), dtype=torch.int64, device=features.own_N2.device)
    own_N = F.cross_entropy(features.own_N2.float(), target_N, reduction="none")
    wrong = [
        F.cross_entropy(answer_N2.float(), 0 * target_N, reduction="none").where(features.wrong_N, 0)
        for answer_N2 in (features.wrong_text_N2, features.wrong_image_N2)
    ]
    return mean_over_processes(((own_N + wrong[0] + wrong[1]) / 3).mean())
