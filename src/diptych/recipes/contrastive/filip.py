"""FILIP: token-wise late interaction, each word with its best patch and each patch with its best word."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch
from diptych.data.media.augment.auto_augment import auto_augment
from diptych.models.pairs.dual_encoder import DualEncoder, encoder_of
from diptych.models.pairs.late.embedder import LateEmbedder, compared_words
from diptych.models.pairs.late.encoder import LateEncoder, TokenPairs
from diptych.objectives.pairs.late_interaction import late_interaction, select_tokens
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.presets import SMALL_CLIP


@dataclass(frozen=True, kw_only=True)
class TokenPairBatch(PairBatch):
    """Pairs; `word_mask_BL` says which tokens of a text are compared, `text_mask_BL` which are read."""

    word_mask_BL: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class FILIP(EncoderRecipe[LateEncoder, TokenPairBatch, TokenPairs]):
    """FILIP: Fine-grained Interactive Language-Image Pre-Training (Yao et al., 2021, arXiv 2111.07783). Baseline: `clip`.

    Patches and words are projected and normalised one by one. An image chooses among texts by the mean over its patches of the best
    cosine with a word, a text among images by the mean over its words of the best cosine with a patch; the loss is the mean of both
    cross-entropies. Both sides can still be computed before a query comes: an index of kind "late" holds the tokens.

    Texts that were translated there and back are further texts of an image (origin "rewrite"); one of all its texts is drawn at a step.
    Words are all tokens of a text with its marks, patches those of the image tower without its class token: so has it the code that
    Huawei released of a later model (MindFormers); the paper does not say.

    With `kept` below 1, tokens are chosen among those of one process, so that the result depends on how many processes there are; with
    several processes and `kept` 1 it does not. No vector of a whole image or text is trained: what the model answers when it is asked
    for one is the mean of the tokens, for a shortlist.

    kept       share of the tokens of an image, and of a text, that are compared: those most similar to any token of the other side.
               Published: a quarter
    kept_of    of how many that is a share: of an image's or text's own "tokens", or of all "places", padding counted, as in that code
    halved     tokens are rounded to 16 bits before they are sent and compared, as published
    marks      whether the marks at start and end of a text are words
    augment    "auto" changes views by AutoAugment, as published: not for texts that name colours
    optimiser_kind  "lamb" as published, or "adamw" for small batches
    lamb       "plain", of the implementation that the paper names, or as "written"
    decay      weight decay spares the tables of words and places ("kernels"; Huawei's later code spares those of places), or is on all
               "matrices"
    """

    slug = "filip"
    no_prefixes = "its features are sets of tokens"

    kept: float = 1.0
    kept_of: Literal["tokens", "places"] = "tokens"
    halved: bool = False
    marks: bool = True
    augment: Literal["none", "auto"] = "none"
    optimiser_kind: Literal["lamb", "adamw"] = "lamb"
    lamb: Literal["plain", "written"] = "plain"
    decay: Literal["kernels", "matrices"] = "matrices"
    betas: tuple[float, float] = (0.9, 0.999)

    width: int = 256
    batch_size: int = 40_960
    epochs: float = 30.0
    lr: float = 2e-3
    warmup: float = 3000.0
    weight_decay: float = 3e-3

    def __post_init__(self) -> None:
        if not 0 < self.kept <= 1:
            raise ConfigError(f"kept is {self.kept} (expected a share above 0, up to 1)")
        if self.augment not in ("none", "auto"):
            raise ConfigError(f"augment is {self.augment!r} (expected none | auto)")

    def model(self) -> LateEncoder:
        image, text = self.towers()
        return LateEncoder(DualEncoder(image, text, width=self.width))

    def batch(self, draws: Draws) -> TokenPairBatch:
        pairs = self.pair_batch(draws, auto_augment if self.augment == "auto" else None)
        uids = [draw.sample.uid for draw in draws]
        word_mask_BL = compared_words(pairs.text_mask_BL, self.words(), uids, marks=self.marks)
        return TokenPairBatch(**{f.name: getattr(pairs, f.name) for f in fields(pairs)}, word_mask_BL=word_mask_BL)

    def features(self, model: LateEncoder, batch: TokenPairBatch) -> TokenPairs:
        pairs: TokenPairs = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.word_mask_BL)
        return pairs

    def losses(self, features: TokenPairs, batch: TokenPairBatch) -> dict[str, Tensor]:
        pairs = self._rounded(features)
        if self.kept < 1:
            pairs = select_token_pairs(pairs, self.kept, self.kept_of)
        loss, _ = late_interaction(
            pairs.patch_NPD,
            pairs.word_NLD,
            scale=pairs.scale,
            patch_mask_NP=pairs.patch_mask_NP,
            word_mask_NL=pairs.word_mask_NL,
            group_N=batch.group_B,
            same=self.same_group,
        )
        return {"contrastive": loss}

    def _rounded(self, features: TokenPairs) -> TokenPairs:
        if not self.halved:
            return features
        return replace(features, patch_NPD=features.patch_NPD.half(), word_NLD=features.word_NLD.half())

    def optimiser(self) -> Optimiser:
        spared = (Rule(r"(\.embed\.weight|position_[PL]D)$", decay=False),) if self.decay == "kernels" else ()
        return replace(super().optimiser(), kind=self.optimiser_kind, lamb=self.lamb, rules=spared)

    def deploy(self, model: LateEncoder) -> LateEmbedder:
        return LateEmbedder(
            encoder_of(model), self.deployed_preprocess, self.words(), self.text_length, name=self.slug, marks=self.marks
        )

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and optimiser of `clip`'s, so that the two differ in the loss alone."""
        return cls(**SMALL_CLIP, optimiser_kind="adamw", betas=(0.9, 0.98))

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32 with 256 dimensions a token, 150,949,633 parameters; batch 40,960, a quarter of the tokens in 16 bits. The large one is
        `image_tower` vit_l14 with text_clip_l."""
        published: dict[str, Any] = {"kept": 0.25, "kept_of": "places", "halved": True, "decay": "kernels"}
        return cls(**published, augment="auto", same_group="negative", decoding="whole")


def select_token_pairs(features: TokenPairs, share: float, of: Literal["tokens", "places"] = "tokens") -> TokenPairs:
    """Only the tokens that `select_tokens` chooses."""
    place_NP, kept_NP, place_NL, kept_NL = select_tokens(
        features.patch_NPD,
        features.word_NLD,
        share,
        patch_mask_NP=features.patch_mask_NP,
        word_mask_NL=features.word_mask_NL,
        of=of,
    )
    return replace(
        features,
        patch_NPD=_at(features.patch_NPD, place_NP),
        word_NLD=_at(features.word_NLD, place_NL),
        patch_mask_NP=kept_NP,
        word_mask_NL=kept_NL,
    )


def _at(token_NTD: Tensor, place_NK: Tensor) -> Tensor:
    return torch.gather(token_NTD, 1, place_NK[..., None].expand(-1, -1, token_NTD.shape[2]))
