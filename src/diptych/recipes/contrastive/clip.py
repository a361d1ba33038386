"""CLIP: a dual encoder trained to match every image with its text among all texts of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from diptych.data.load.batch import PairBatch
from diptych.models.towers.outputs import PairFeatures
from diptych.recipes._shared.pairs import DualEncoderRecipe
from diptych.recipes._shared.presets import SMALL


@dataclass(frozen=True, kw_only=True)
class CLIP(DualEncoderRecipe):
    """Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021, arXiv 2103.00020).

    Two towers give unit vectors; the loss is the mean of two cross-entropies over the similarities of the batch, image to text and
    text to image, with a learned temperature. Class names become a classifier without training.

    The temperature (as a factor on similarities) starts at 1/0.07 and is kept within [1, 100] after each step, as published; weight
    decay spares it, biases and norms. We depart in one default: another sample of the same group (the same concept, patient or
    article) is no negative (`same_group="mask"`); the published loss treats it as one (`same_group="negative"`).
    """

    slug = "clip"

    batch_size: int = 32_768
    epochs: float = 32.0
    lr: float = 5e-4
    warmup: float = 2000.0
    weight_decay: float = 0.2

    def losses(self, features: PairFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"contrastive": self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)}

    @classmethod
    def tiny(cls) -> Self:
        """64 pixels, 17 tokens an image: minutes on two cores. Learning rate, steps and text length were chosen on seed 0."""
        return cls(**SMALL)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 on 400 million pairs, 151,277,313 parameters, with QuickGELU as OpenAI released it.

        The other released sizes by their fields: `image_tower` vit_b16 or vit_l14 (with text_clip_l, width 768, lr 4e-4), or
        resnet_clip_50 (width 1024; betas .9, .999, eps 1e-8).
        """
        return cls(act="quick_gelu", same_group="negative", decoding="whole")
