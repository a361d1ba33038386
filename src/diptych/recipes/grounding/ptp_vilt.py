"""PTP on ViLT: one transformer for words and patches predicts the object from the block and the block from the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.contracts import Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.data.load.batch import PairBatch, group_ids
from diptych.data.media.whole_pictures import WholePictures, drawn_patches
from diptych.data.text.tokens.masked_words import mask_words
from diptych.data.text.tokens.whole_words import word_starts
from diptych.models.io.tensor_files import read_tensors
from diptych.models.vilt.released import from_released, init_from_vit_, is_released
from diptych.models.vilt.training import ViltFeatures, ViltTraining
from diptych.models.vilt.vilt import Vilt
from diptych.models.vilt.vilt_model import ViltModel
from diptych.objectives.gather import mean_over_processes
from diptych.objectives.language.masked_words import masked_words
from diptych.objectives.pairs.word_patch_alignment import word_patch_alignment
from diptych.recipes._shared.block_prompts import BlockPromptRecipe


@dataclass(frozen=True, kw_only=True)
class ViltBatch(PairBatch):
    """Pictures of their own shapes, padded, and what is asked of each text.

    grid_B2                 rows and columns of real patches
    masked_BL, hidden_BL    ids with some replaced, and where a mask stands
    place_BM, word_BM       places that are asked for and the words that stood there, -1 where there is nothing to ask
    patch_BK, again_BK, there_BK  patches that either reading takes, as places of the padded grid, and which are real
    shown_B, fits_B         the row whose picture a text is shown with in the second reading, and 1 where that is its own
    """

    grid_B2: Rows[Tensor]
    masked_BL: Rows[Tensor]
    hidden_BL: Rows[Tensor]
    place_BM: Rows[Tensor]
    word_BM: Rows[Tensor]
    patch_BK: Rows[Tensor]
    again_BK: Rows[Tensor]
    there_BK: Rows[Tensor]
    shown_B: Rows[Tensor]
    fits_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class PTPViLT(BlockPromptRecipe[ViltTraining, ViltBatch, ViltFeatures]):
    """Position-guided Text Prompt (Wang et al., 2022, arXiv 2212.09737) on ViLT (Kim et al., 2021, 2102.03334); `ptp` is on BLIP.

    The prompt is that of `ptp`: "The block 4 has a cup." behind the caption, where the centre of a region's box is. Words and patches enter
    one transformer. It is read twice a step: a text of which words are hidden with its own picture, and the whole text with a picture
    that is wrong in half of the rows. Losses are the cross-entropies of hidden words and of "fits", and a tenth of the cost of moving the
    words of right pairs to their patches less that of wrong pairs.

    Pictures stay in their shape and are shown whole (`WholePictures`). The release trains without crops, flips or augmentation, where the
    block of the stored picture is that of the shown one; with `flip`, prompts move with the picture, unless `prompts` is "original".

    We depart: the wrong picture is that of another row of this process, never of the same group, where the release draws one of all
    data, now and then the right one; a row without such a partner is shown its own. A row is a picture with one of its captions, where the
    release counts each caption as a row.

    The release starts from ImageNet's ViT-B/32 at 384 pixels, which comes with no package: `image_weights` takes the file, beside
    `tokenizer` with BERT's vocabulary. `--init` takes a run, hf:FOLDER of a ViLT, or the authors' checkpoint as .safetensors.

    Wrong pairs are drawn within a process, so batches cannot be cut into chunks.

    width, layers, heads, patch   of the transformer, and pixels a side of a patch
    image_size, longest  pixels of the short side, and of the long one at most; 0 takes 1333/800 of the short one
    most_patches   at most so many patches of a picture are read, drawn anew for each reading; 0 reads all. Use reads all
    text_places    positions of the text, of which `text_length` are read
    spread         deviation of the fresh weights of linear layers, which counts on a width of 768
    share_words    of the words of a text that are asked for
    whole_words    with all their pieces
    padding_counts the share is of `text_length` places, padding among them, as released; False: of the text's own
    words_weight, match_weight, alignment_weight   of the three losses
    beta, alignment_steps   sharpness and iterations of the transport between words and patches
    by             pairs are scored by log-"odds", or by the logit of "fits" alone, by which the authors rank
    adam           AdamW as the "transformers" of the release has it (`CorrectedAdamW`), or as "torch" does
    image_weights  a file of a vision transformer in timm's names, such as jx_vit_base_p32_384-830016f5.pth; "" starts afresh
    """

    slug = "ptp_vilt"
    cacheable = False
    no_prefixes = "it reads pairs together"
    tuned_lr = 1e-4
    """What the authors fine-tune with."""

    layers: int = 12
    heads: int = 12
    patch: int = 32
    longest: int = 0
    most_patches: int = 200
    text_places: int = 40
    dropout: float = 0.1
    spread: float = 0.02
    share_words: float = 0.15
    whole_words: bool = True
    padding_counts: bool = True
    words_weight: float = 1.0
    match_weight: float = 1.0
    alignment_weight: float = 0.1
    beta: float = 0.5
    alignment_steps: int = 50
    by: Literal["odds", "fits"] = "odds"
    adam: Literal["torch", "transformers"] = "transformers"
    image_weights: str = ""

    image_tower: str = "vilt"
    text_tower: str = "vilt"
    width: int = 768
    image_size: int = 384
    text_length: int = 40
    crop: tuple[float, float] = (1.0, 1.0)
    interpolation: Literal["bicubic", "bilinear", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    same_group: Literal["mask", "positive", "negative"] = "negative"
    batch_size: int = 4096
    steps: int = 200_000
    lr: float = 1e-4
    warmup: float = 2500.0
    warmup_from: float | None = 0.0
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = {
            "image_tower": "vilt",
            "text_tower": "vilt",
            "crop": (1.0, 1.0),
            "resize": "crop",
            "edge": 0,
            "same_group": "negative",
        }
        for name, value in (fixed | dict.fromkeys(("act", "image_pool", "patch_bias", "text_pooling"))).items():
            if getattr(self, name) != value:
                raise ConfigError(f"{name} is {getattr(self, name)!r} (expected {value!r}: one transformer reads whole pictures)")
        if self.by not in ("odds", "fits"):
            raise ConfigError(f"by is {self.by!r} (expected odds | fits)")
        if self.most_patches < 0 or self.alignment_steps < 1 or self.beta <= 0:
            raise ConfigError(
                f"most_patches is {self.most_patches}, alignment_steps {self.alignment_steps}, beta {self.beta} "
                "(expected 0 or more, 1 or more, above 0)"
            )

    # ------------------------------------------------------------ weights

    def started(self, model: Any) -> Self:
        """The architecture, vocabulary and image settings of a ViLT."""
        if not isinstance(model, ViltModel):
            raise ConfigError(
                f"{getattr(model, 'name', model)} is not a ViLT (expected a run of ptp_vilt, hf:FOLDER of a ViLT, or the authors' "
                "checkpoint as .safetensors)"
            )
        spec, preprocess = model.model.spec, model.preprocess
        same = {name: spec[name] for name in ("width", "layers", "heads", "patch")}
        return replace(
            self, **same, image_size=preprocess.size, longest=preprocess.longest, text_places=spec["length"], text_length=model.text_length,
            tokenizer="weights", vocabulary=model.tokenizer.to_json(), mean=preprocess.mean, std=preprocess.std,
            interpolation=preprocess.interpolation, image_weights="", towers_from=json.dumps({"vilt": spec}),
        )  # fmt: skip

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of a ViLT that stands alone or of a released file, for the module that trains."""
        if is_released(tensors):
            tensors, _ = from_released(tensors)
        if any(name.startswith("vilt.") for name in tensors):
            return tensors
        return {f"vilt.{name}": tensor for name, tensor in tensors.items()}

    def model(self) -> ViltTraining:
        own: dict[str, Any] = {
            "image_size": self.image_size,
            "patch": self.patch,
            "length": max(self.text_places, self.text_length),
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "vocab_size": self.words().vocab_size,
            "mask_id": self.words().inner.token_to_id("[MASK]"),
        }
        given = self._given.get("vilt", own)
        vilt = Vilt(**{**given, "dropout": self.dropout, "heads_of": ("words", "fits"), "answers": 0, "spread": self.spread})
        if self.image_weights:
            init_from_vit_(vilt, read_tensors(Path(self.image_weights).expanduser()))
        return ViltTraining(vilt)

    @property
    def pictures(self) -> WholePictures:
        """Preprocessing, in training and after it."""
        return WholePictures(self.image_size, self.longest, self.patch, self.mean, self.std, self.interpolation)

    # ------------------------------------------------------------ a step

    def batch(self, draws: Draws) -> ViltBatch:
        """Of each draw its text and flip, then its hidden words, then its patches; wrong pictures by the generator of the step."""
        words, rngs = self.words(), [draw.rng for draw in draws]
        shown = [self.view_with_prompt(draw) for draw in draws]
        texts = [text for _, text in shown]
        image_BCHW, grid_B2 = self.pictures([image_HWC for image_HWC, _ in shown])
        encoded = words.encode(texts, self.text_length)
        text_BL, mask_BL = torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL)
        starts_BL = torch.from_numpy(word_starts(words, encoded.ids_BL)) if self.whole_words else None
        masked = mask_words(
            text_BL,
            mask_BL,
            rngs,
            special=sorted({words.pad_id, *words.prefix, *words.suffix}),
            vocab_size=words.vocab_size,
            share=self.share_words,
            starts_BL=starts_BL,
            padding_counts=self.padding_counts and self.whole_words,
        )
        columns = image_BCHW.shape[3] // self.patch
        (patch_BK, again_BK), there_BK = drawn_patches(grid_B2, columns, rngs, most=self.most_patches, times=2)
        group_B = group_ids(draws)
        shown_B, fits_B = mismatched_pairs(group_B, draws.rng)
        return ViltBatch(
            image_BCHW=image_BCHW,
            text_BL=text_BL,
            text_mask_BL=mask_BL,
            group_B=group_B,
            truncated=encoded.truncated,
            strings=tuple(texts),
            grid_B2=grid_B2,
            masked_BL=masked.ids_BL,
            hidden_BL=masked.hidden_BL,
            place_BM=masked.place_BM,
            word_BM=masked.word_BM,
            patch_BK=patch_BK,
            again_BK=again_BK,
            there_BK=there_BK,
            shown_B=shown_B,
            fits_B=fits_B,
        )

    def features(self, model: ViltTraining, batch: ViltBatch) -> ViltFeatures:
        outputs: ViltFeatures = model(
            batch.image_BCHW,
            batch.grid_B2,
            batch.text_BL,
            batch.text_mask_BL,
            batch.masked_BL,
            batch.hidden_BL,
            batch.place_BM,
            batch.patch_BK,
            batch.again_BK,
            batch.there_BK,
            batch.shown_B,
        )
        return outputs

    def losses(self, features: ViltFeatures, batch: ViltBatch) -> dict[str, Tensor]:
        alignment = word_patch_alignment(
            features.text_NLD,
            features.image_NPD,
            batch.fits_B,
            word_NL=without_special_tokens(batch.text_mask_BL),
            patch_NP=features.there_NP,
            beta=self.beta,
            iterations=self.alignment_steps,
        )
        match = mean_over_processes(F.cross_entropy(features.answer_N2.float(), batch.fits_B))
        return {
            "words": self.words_weight * masked_words(features.word_NMV, batch.word_BM),
            "matching": self.match_weight * match,
            "alignment": self.alignment_weight * alignment,
        }

    def metrics(self, features: ViltFeatures, batch: ViltBatch) -> dict[str, Tensor]:
        return {"matched": (features.answer_N2.argmax(1) == batch.fits_B).float().mean()}

    def optimiser(self) -> Optimiser:
        rules = (Rule("class_token_D$", decay=True),)
        chosen = replace(super().optimiser(), betas=(0.9, 0.98), eps=1e-8, schedule="linear")
        return replace(chosen, adam=self.adam, warmup_from=self.warmup_from, rules=rules)

    def deploy(self, model: ViltTraining) -> ViltModel:
        return ViltModel(model.vilt, self.pictures, self.words(), self.text_length, self.slug, by=self.by)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            image_size=64,
            patch=16,
            width=128,
            layers=3,
            heads=4,
            text_length=32,
            text_places=32,
            tokenizer="data",
            pieces=2048,
            dropout=0.0,
            spread=0.05,
            attributes=1,
            batch_size=64,
            steps=400,
            lr=8e-4,
            warmup=30.0,
            warmup_from=None,
            adam="torch",
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """As released: ViT-B/32 on pictures of 384 pixels, 40 tokens, 200,000 steps of 4,096 pairs, ranked by the logit of "fits".
        CLIP's vocabulary takes the place of BERT's word pieces, which are not at hand without a download; `--tokenizer FOLDER` takes them.
        So it is with the weights of ImageNet that the release starts from (`image_weights`)."""
        return cls(by="fits", flip_sides="ignore", decoding="whole")


def without_special_tokens(mask_BL: Tensor) -> Tensor:
    """True at the tokens of a text without its first and its last, the marks."""
    place_L = torch.arange(mask_BL.shape[1], device=mask_BL.device)
    return mask_BL & (place_L > 0) & (place_L < mask_BL.sum(1, keepdim=True) - 1)


def mismatched_pairs(group_B: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """For each row the row whose picture it is shown with, and whether that is its own: of B rows B - B // 2, drawn anew, are shown one of
    another group, each such row equally likely. A row without any has its own."""
    count = len(group_B)
    fits = np.zeros(count, np.int64)
    fits[: count // 2] = 1
    fits = rng.permutation(fits)
    shown, group = np.arange(count), group_B.numpy()
    for row in np.flatnonzero(fits == 0):
        other = np.flatnonzero(group != group[row])
        if len(other):
            shown[row] = rng.choice(other)
        else:
            fits[row] = 1
    return torch.from_numpy(shown), torch.from_numpy(fits)
