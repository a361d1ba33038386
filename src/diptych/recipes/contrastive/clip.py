"""CLIP: match every image with its own text among all texts of the batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from diptych.core.contracts import Optimiser
from diptych.data.load.batch import PairBatch
from diptych.models.towers.outputs import Pairs
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes._shared.pairs import PairRecipe


@dataclass(frozen=True, kw_only=True)
class CLIP(PairRecipe):
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
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6

    def losses(self, features: Pairs, batch: PairBatch) -> dict[str, Tensor]:
        loss, _ = info_nce(
            features.image_ND,
            features.text_ND,
            scale=features.scale,
            group_N=batch.group_B,
            group_M=batch.group_B,
            same=self.same_group,
        )
        return {"contrastive": loss}

    def optimiser(self) -> Optimiser:
        return Optimiser(
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            clip_norm=self.clip_norm,
        )

    @classmethod
    def tiny(cls) -> Self:
        """64 pixels, 17 tokens an image: minutes on two cores. Learning rate, steps and text length were chosen on seed 0."""
        return cls(
            image_tower="vit_tiny",
            text_tower="text_tiny",
            width=128,
            image_size=64,
            text_length=16,
            tokenizer="data",
            pieces=4096,
            batch_size=256,
            steps=285,
            lr=8e-4,
            warmup=20.0,
            weight_decay=0.1,
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 on 400 million pairs, 151,277,313 parameters, with QuickGELU as OpenAI released it.

        The other released sizes by their fields: `image_tower` vit_b16 or vit_l14 (with text_clip_l, width 768, lr 4e-4), or
        resnet_clip_50 (width 1024; betas .9, .999, eps 1e-8).
        """
        return cls(act="quick_gelu", same_group="negative")
