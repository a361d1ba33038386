"""TL;DR's captioner: it sees an image through a codebook alone, so that its codes say what a caption needs and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from diptych.core.contracts import Draws
from diptych.data.load.batch import PairBatch
from diptych.models.pairs.codebook_captioner import Captions, CodebookCaptions
from diptych.models.pairs.codebook_captioner import CodebookCaptioner as Module
from diptych.models.towers.towers import image_tower
from diptych.objectives.gather import all_gather
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.codebook import codebook_terms
from diptych.recipes._shared.pairs import PairRecipe


@dataclass(frozen=True, kw_only=True)
class CodebookCaptioner(PairRecipe[Module, PairBatch, Captions]):
    """Too Large; Data Reduction for Vision-Language Pre-Training (Wang et al., 2023, 2305.20087), stage 1.

    Patches of the image tower are replaced by their nearest codes (gradient straight through), and a decoder writes the caption from
    those. Loss: cross-entropy of the caption, codes to patches, and beta times patches to codes. No contrastive term, as in the
    released training step. The released code weighs the other codebook term by beta: `legacy=True`. The published decoder is a
    BERT-base with cross-attention; ours has the same size from fresh weights, norms before.

    codes    in the codebook
    restart  a code that no patch used for so many steps moves onto a patch; 0 never, as published. From scratch nearly all codes stay
             unused without
    beta     weight of the commitment
    legacy   beta on the codebook term instead, as released
    layers   of the decoder
    heads    of the decoder
    """

    slug = "codebook_captioner"
    no_prefixes = "it writes captions and embeds nothing"

    image_tower: str = "vit_b16"
    text_length: int = 30
    codes: int = 1024
    restart: int = 0
    beta: float = 0.25
    legacy: bool = False
    layers: int = 12
    heads: int = 12
    batch_size: int = 2400
    epochs: float = 20.0
    lr: float = 3e-4
    warmup: float = 3000.0
    weight_decay: float = 0.05

    def model(self) -> Module:
        words = self.words()
        return Module(
            image_tower(self.image_tower, **self.image_options()),
            vocab_size=words.vocab_size,
            length=self.text_length,
            codes=self.codes,
            layers=self.layers,
            heads=self.heads,
        )

    def batch(self, draws: Draws) -> PairBatch:
        return self.pair_batch(draws)

    def features(self, model: Module, batch: PairBatch) -> Captions:
        captions: Captions = model(batch.image_BCHW, batch.text_BL)
        return captions

    def losses(self, features: Captions, batch: PairBatch) -> dict[str, Tensor]:
        caption = caption_loss(features.logit_BLV, batch.text_BL, batch.text_mask_BL)
        return {"caption": caption, **codebook_terms(features.patch_BPD, features.code_BPD, beta=self.beta, legacy=self.legacy)}

    def metrics(self, features: Captions, batch: PairBatch) -> dict[str, Tensor]:
        return {"codes_used": features.id_BP.detach().unique().numel() * features.logit_BLV.new_ones(())}

    def after_update(self, model: Module, features: Captions, batch: PairBatch, progress: float) -> None:
        if self.restart:
            id_N, patch_ND = all_gather(features.id_BP).flatten(), all_gather(features.patch_BPD).flatten(0, 2)
            model.codebook.revive(id_N, patch_ND, after=self.restart)

    def deploy(self, model: Module) -> CodebookCaptions:
        return CodebookCaptions(model, self.shown, self.words(), self.slug)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            image_tower="vit_tiny",
            image_size=64,
            text_length=24,
            tokenizer="data",
            pieces=4096,
            codes=256,
            restart=10,
            layers=2,
            heads=3,
            batch_size=128,
            steps=400,
            lr=1e-3,
            warmup=30.0,
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        return cls()
