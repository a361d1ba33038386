"""TL;DR's captioner: it sees an image only through a codebook, so that the codes represent the caption's content."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from torch import Tensor

from diptych.core.contracts import Draw, Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample, Text
from diptych.data.load.batch import PairBatch
from diptych.data.media.augment import boxed_views
from diptych.data.text.captions.cleaning import cleaned
from diptych.models.blip.codebook_captioner import CodebookCaptionerOutput, CodebookCaptionModel, Form
from diptych.models.blip.codebook_captioner import CodebookCaptionNet as Module
from diptych.models.blip.released import init_from_vit_and_bert_
from diptych.models.blip.text import BlipText
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.towers.towers import image_tower
from diptych.objectives.gather import all_gather
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.language.codebook import codebook_terms
from diptych.recipes._shared.epoch_decay import Schedule, with_schedule
from diptych.recipes._shared.pairs import PairRecipe


@dataclass(frozen=True, kw_only=True)
class CodebookCaptionerRecipe(PairRecipe[Module, PairBatch, CodebookCaptionerOutput]):
    """Too Large; Data Reduction for Vision-Language Pre-Training (Wang et al., 2023, 2305.20087), stage 1.

    Class token and patches of the image tower are replaced by their nearest codes (gradient straight through), and a decoder writes the
    caption from those. Loss: cross-entropy of the caption, codes to patches, and beta times patches to codes. No contrastive term, as in
    the released training step. The released code weighs the other codebook term by beta: `legacy=True`.

    The release starts from DeiT's and BERT's weights, which come with no package: `image_weights` and `text_weights` take the files, beside
    `tokenizer` with BERT's vocabulary; without them everything is fresh. The image tower of any recipe of pairs, such as CLIP's, starts it
    by `--init`, where both have the same `image_tower`.

    codes    in the codebook
    restart  a code that no patch used for so many steps moves onto a patch; 0 never, as published. From scratch nearly all codes stay
             unused without
    beta     weight of the commitment
    legacy   beta on the codebook term instead, as released
    decoder  "blip": BLIP's vision transformer and BERT-base with cross-attention, as published; "plain": CLIP's, and a decoder with norms
             before its branches and an output layer of its own
    layers, heads, dropout, places   of the decoder: BLIP's has dropout and more positions than texts have tokens
    class_token  the class token has a code too, in front of the patches, as published
    caption_mean  the caption's loss is the mean over all "tokens" of a batch, as published, or over those of each of its "rows" first
    caption_words  captions are cleaned as BLIP cleans them, and cut after so many words; 0 leaves them as they are
    augment  "rand": BLIP's two operations out of ten, half of the time each
    decay    weight decay is on "all" parameters, as released, or on "matrices" alone
    image_weights  a file of a vision transformer in timm's names, such as deit_base_patch16_224-b5f2ef4d.pth; "" starts afresh
    text_weights   a file of a BERT with its word head, or the folder that holds its model.safetensors or pytorch_model.bin
    schedule   the learning rate falls by `decay_rate` after each of the `epochs`, as released, or by a "cosine" over the run
    decay_rate, warmup_lr, min_lr   with "epochs": the factor, the rate at the first step, and the one it does not fall below
    """

    slug = "codebook_captioner"
    no_prefixes = "it writes captions and embeds nothing"

    image_tower: str = "vit_b16"
    text_length: int = 30
    codes: int = 1024
    restart: int = 0
    beta: float = 0.25
    legacy: bool = False
    decoder: Form = "blip"
    layers: int = 12
    heads: int = 12
    dropout: float = 0.1
    places: int = 512
    class_token: bool = True
    caption_mean: Literal["tokens", "rows"] = "tokens"
    caption_words: int = 30
    augment: Literal["none", "rand"] = "none"
    decay: Literal["all", "matrices"] = "all"
    image_weights: str = ""
    text_weights: str = ""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    batch_size: int = 2400
    epochs: float = 20.0
    lr: float = 3e-4
    warmup: float = 3000.0
    schedule: Schedule = "epochs"
    decay_rate: float = 0.9
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    weight_decay: float = 0.05

    @property
    def measured_by(self) -> str:
        return "captions"

    def model(self) -> Module:
        words = self.words()
        blip: dict[str, Any] = {"pre_norm": False, "eps": 1e-6} if self.decoder == "blip" else {}
        made = Module(
            image_tower(self.image_tower, **{**blip, **self.image_options()}),
            vocab_size=words.vocab_size,
            length=self.text_length,
            codes=self.codes,
            layers=self.layers,
            heads=self.heads,
            decoder=self.decoder,
            class_token=self.class_token,
            dropout=self.dropout,
            positions=self.places,
        )
        if self.image_weights or self.text_weights:
            if not isinstance(made.decoder, BlipText):
                raise ConfigError("image_weights and text_weights are DeiT's and BERT's (expected decoder 'blip')")
            image = read_tensors(Path(self.image_weights).expanduser()) if self.image_weights else None
            text = read_tensors(weights_file(self.text_weights)) if self.text_weights else None
            init_from_vit_and_bert_(made.image_tower, made.decoder, image=image, text=text)
        return made

    def batch(self, draws: Draws) -> PairBatch:
        return self.pair_batch(draws, boxed_views.augmented_alone if self.augment == "rand" else None, self._caption)

    def _caption(self, draw: Draw, language: str) -> Text:
        text = self.text_draw(draw, language)
        return replace(text, string=self._cleaned(text.string))

    def _cleaned(self, caption: str) -> str:
        return cleaned(caption, self.caption_words) if self.caption_words else caption

    def texts_of(self, sample: Sample) -> list[str]:
        return [self._cleaned(text) for text in super().texts_of(sample)]

    def features(self, model: Module, batch: PairBatch) -> CodebookCaptionerOutput:
        captions: CodebookCaptionerOutput = model(batch.image_BCHW, batch.text_BL)
        return captions

    def losses(self, features: CodebookCaptionerOutput, batch: PairBatch) -> dict[str, Tensor]:
        caption = caption_loss(features.logit_BLV, batch.text_BL, batch.text_mask_BL, over=self.caption_mean)
        return {"caption": caption, **codebook_terms(features.patch_BPD, features.code_BPD, beta=self.beta, legacy=self.legacy)}

    def metrics(self, features: CodebookCaptionerOutput, batch: PairBatch) -> dict[str, Tensor]:
        return {"codes_used": features.id_BP.detach().unique().numel() * features.logit_BLV.new_ones(())}

    def after_update(self, model: Module, features: CodebookCaptionerOutput, batch: PairBatch, progress: float) -> None:
        if self.restart:
            id_N, patch_ND = all_gather(features.id_BP).flatten(), all_gather(features.patch_BPD).flatten(0, 2)
            model.codebook.revive(id_N, patch_ND, after=self.restart)

    def optimiser(self) -> Optimiser:
        rules = (Rule("", decay=True),) if self.decay == "all" else ()
        chosen = replace(super().optimiser(), betas=self.betas, eps=self.eps, rules=rules)
        return with_schedule(
            chosen, self.schedule, decay_rate=self.decay_rate, epochs=self.epochs, warmup_lr=self.warmup_lr, min_lr=self.min_lr
        )

    def deploy(self, model: Module) -> CodebookCaptionModel:
        return CodebookCaptionModel(model, self.deployed_preprocess, self.words(), self.slug)

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
            schedule="cosine",
            clip_norm=1.0,
            decoder="plain",
            class_token=False,
            caption_mean="rows",
            caption_words=0,
            decay="matrices",
            betas=(0.9, 0.98),
            eps=1e-6,
        )

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 at 224 pixels and BERT-base's decoder; crops, flips and RandAugment as BLIP's, which look at no word. CLIP's vocabulary
        takes the place of BERT's word pieces, which are not at hand without a download; `--tokenizer FOLDER` takes them. So it is with
        the weights of DeiT and BERT that the release starts from (`image_weights`, `text_weights`)."""
        shown: dict[str, Any] = {"crop": (0.2, 1.0), "flip": True, "flip_sides": "ignore", "augment": "rand", "resize": "squash"}
        return cls(**shown, patch_bias=True, decoding="whole")
