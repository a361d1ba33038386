"""SyViC: fine-tuning on rendered scenes with long captions, with adapters against forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws, Optimiser, Rule, Tuning
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, choose_text, group_ids, view
from diptych.data.media.augment.heavy_augment import heavy_augment
from diptych.data.text.captions.chunks import chunks, drop_sentences
from diptych.data.text.captions.sides import Pixels, mirrored
from diptych.models.layers.mix_style import Mix, MixStyle
from diptych.models.layers.style_transfer import StyleTransferAugmentation
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.encoders.chunked_encoder import ChunkedEncoder
from diptych.models.towers.outputs import PairFeatures
from diptych.models.towers.vit import VisionTransformer
from diptych.recipes._shared.pairs import EncoderRecipe
from diptych.recipes._shared.picture_styles import Colours, check_style_options, random_picture, recolour, style_transfer
from diptych.recipes._shared.presets import ADAPTED, SMALL_CLIP


@dataclass(frozen=True)
class ChunkBatch(TensorBatch):
    """Images and the chunks of a caption of each.

    there_BK    which of the chunks are there; the first one always is
    truncated   chunks that were longer than L and were cut
    style_BCHW  the picture that each is shown in the style of
    """

    image_BCHW: Rows[Tensor]
    text_BKL: Rows[Tensor]
    text_mask_BKL: Rows[Tensor]
    there_BK: Rows[Tensor]
    group_B: Rows[Tensor]
    truncated: int = 0
    style_BCHW: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class SyViC(EncoderRecipe[ChunkedEncoder, ChunkBatch, PairFeatures]):
    """Going Beyond Nouns With Vision & Language Models Using Synthetic Data (Cascante-Bonilla et al., 2023, arXiv 2303.17590). Baseline:
    `clip`.

    Published weights are tuned on rendered scenes, whose captions say what stands where and what it is like: `world:scenes?lengths=dense`,
    or any data with long captions. A caption loses optional sentences, is cut at full stops into chunks of four sentences, and its vector
    is the mean of the chunks' before the norm, so that nothing is lost to the text tower's length. Adapters of rank 16 on every linear map
    of both towers and on the patches keep the rest as it is; what comes out may be averaged with the start (`--blend 0.5`, `diptych blend`;
    published shares of the start: .1, .25, .5, .75, .9).

    Against the look of rendered pictures, styles of images may be mixed behind the patches (MixStyle), or every step shows its pictures in
    the style of one real picture (AdaIN, `--styles`; published: frames of HMDB51).

    Pictures are mirrored where `flip` says so, and then as their captions' left and right allow (`flip_sides`). The release mirrors its
    colour data whatever they say.

    The released code keeps the first chunk alone (`split="first"`), so that its splitting cuts captions instead of reading them whole.

    We depart: similarities are multiplied by at most `max_scale`, where the release has no bound, and weights are averaged as they are
    read, adapters counted in. The release averages both maps of an adapter with those of a new one, so that of a change B A the share
    (1 - a)^2 is left, beside a (1 - a) B A' of the new one's A' and, in queries, keys and values, chance.

    sentences   of a chunk
    split       "all" chunks, the "first" one, or "none": the caption as it is, cut at `text_length`
    said        share of the sentences behind the first that stay, drawn each time
    said_about  so many sentences of a caption stay in the mean, instead of that share; 0 for `said`. The release thins its captions of
                actions so, to about 7, once and not at each draw; its .7 is the share of optional sentences that its grammar writes
    mix_style   share of the steps in which styles are mixed, 0 for none (published .5); mix whose: see `MixStyle`. Needs a vit_* tower
    styles      data whose pictures lend their styles, one a step; "" for none. style_weights: the folder of `vgg_normalised.pth` and
                `decoder.pth`; style_strength: 0 leaves a picture as the decoder draws it
    style_colours  those of the picture ("own"), of the "first" picture of the step as released, or of the "style"
    style_pixels   VGG and its decoder are shown "plain" pixels in 0..1, or "normalised" ones, as released: those of CLIP's preprocessing
    augment     "heavy": three rounds of two operations on colour and contrast
    rank        of the adapters, which count as B A / rank, as released; 0 trains all weights
    adapter_start  "zero": all adapters start as nothing; "random", as released (`paper`): those of queries, keys and values start random in
                both maps, so that the first step is not that of the published model
    patch_adapter  "rank": that of the patches has rank `rank`; "side", as released (`paper`): that times the side of a patch
    falls       the rate, by a cosine: after each "period", an epoch, as released, or at each "step"
    planned     epochs that the cosine is laid out for, of which `epochs` are run
    final_lr    with "step", the share of the rate that is left at the end: where a cosine of ten epochs stands after six
    coupled     weight decay enters the gradient of every weight that is trained, as released, and Adam is the optimiser; False: AdamW,
                which spares biases and norms
    """

    slug = "syvic"

    sentences: int = 4
    split: Literal["all", "first", "none"] = "all"
    said: float = 0.7
    said_about: float = 0.0
    mix_style: float = 0.0
    mix: Mix = "crossdomain"
    styles: str = ""
    style_weights: str = ""
    style_strength: float = 0.7
    style_colours: Colours = "own"
    style_pixels: Literal["plain", "normalised"] = "plain"
    augment: Literal["none", "heavy"] = "heavy"
    rank: int = 16
    adapter_start: Literal["zero", "random"] = "zero"
    patch_adapter: Literal["rank", "side"] = "rank"
    final_lr: float = 0.345
    falls: Literal["period", "step"] = "period"
    planned: float = 10.0
    coupled: bool = True

    batch_size: int = 256
    epochs: float = 6.0
    lr: float = 2.5e-3
    warmup: float = 0.0
    weight_decay: float = 0.2
    crop: tuple[float, float] = (1.0, 1.0)
    same_group: Literal["mask", "positive", "negative"] = "mask"

    def __post_init__(self) -> None:
        if self.split not in ("all", "first", "none") or self.sentences < 1 or not 0 <= self.said <= 1 or self.said_about < 0:
            raise ConfigError(
                f"split is {self.split!r}, sentences {self.sentences}, said {self.said}, said_about {self.said_about} "
                "(expected all | first | none, 1 or more, 0..1, 0 or more)"
            )
        if self.adapter_start not in ("zero", "random"):
            raise ConfigError(f"adapter_start is {self.adapter_start!r} (expected zero | random)")
        if self.patch_adapter not in ("rank", "side"):
            raise ConfigError(f"patch_adapter is {self.patch_adapter!r} (expected rank | side)")
        if self.augment not in ("none", "heavy") or not 0 <= self.mix_style <= 1:
            raise ConfigError(f"augment is {self.augment!r}, mix_style {self.mix_style} (expected none | heavy, 0..1)")

        if self.styles:
            check_style_options(self.style_weights, self.style_strength, self.style_colours, self.style_pixels, self.image_size)

    def tuning(self) -> Tuning:
        if not self.rank:
            return Tuning()
        random = "qkv" if self.adapter_start == "random" else ""
        kernel = "patches" if self.patch_adapter == "side" else ""
        return Tuning(lora=f"{self.rank}:{ADAPTED}", lora_alpha=1.0, lora_random=random, lora_kernel=kernel)

    def model(self) -> ChunkedEncoder:
        image, text = self.towers()
        if self.mix_style:
            if not isinstance(image, VisionTransformer):
                raise ConfigError(
                    f"mix_style needs a vit_* image tower, and this is a {type(image).__name__} (expected mix_style 0)"
                )
            image.style = MixStyle(share=self.mix_style, mix=self.mix)
        stylist = None
        if self.styles:
            normalised = self.style_pixels == "normalised"
            stylist = StyleTransferAugmentation(
                style_transfer(self.style_weights),
                strength=self.style_strength,
                mean=self.mean,
                deviation=self.std,
                normalised=normalised,
            )
        return ChunkedEncoder(DualEncoder(image, text, width=self.width), stylist)

    def stored(self, name: str) -> bool:
        """The network of styles is read again from its files."""
        return not name.startswith("stylist.")

    def batch(self, draws: Draws) -> ChunkBatch:
        shown = [self._augment(draw, self.chunks_of(draw)) for draw in draws]
        captions, images = [texts for _, texts in shown], [image_HWC for image_HWC, _ in shown]
        most = max(map(len, captions))
        filled = [[*caption_chunks, *[""] * (most - len(caption_chunks))] for caption_chunks in captions]
        encoded = self.words().encode([chunk for row in filled for chunk in row], self.text_length)
        shape = (len(filled), most, -1)
        image_BCHW = self.preprocess(images)
        return ChunkBatch(
            image_BCHW=image_BCHW,
            text_BKL=torch.from_numpy(encoded.ids_BL).reshape(shape),
            text_mask_BKL=torch.from_numpy(encoded.mask_BL).reshape(shape),
            there_BK=torch.tensor([[index < len(caption_chunks) for index in range(most)] for caption_chunks in captions]),
            group_B=group_ids(draws),
            truncated=encoded.truncated,
            style_BCHW=self._styles(image_BCHW, draws.rng) if self.styles else None,
        )

    def _styles(self, image_BCHW: Tensor, rng: np.random.Generator) -> Tensor:
        """The style of the step, in the colours that each picture is to have."""
        plain = replace(self.deployed_preprocess, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), resize="crop")
        if self.style_pixels == "plain":
            image_BCHW = image_BCHW * torch.tensor(self.std)[:, None, None] + torch.tensor(self.mean)[:, None, None]
        return recolour(plain([random_picture(self.styles, rng, self.image_size)])[0], image_BCHW, self.style_colours)

    def chunks_of(self, draw: Draw) -> list[str]:
        """A caption of the draw, thinned and cut."""
        caption = drop_sentences(choose_text(draw, self.language).string, draw.rng, keep=self.said, about=self.said_about)
        pieces = [caption] if self.split == "none" else chunks(caption, sentences=self.sentences)
        if not pieces or not pieces[0]:
            raise DataError(f"sample '{draw.sample.uid}' has a caption without a word", field="texts", expected="sentences")
        return pieces[:1] if self.split == "first" else pieces

    def _augment(self, draw: Draw, texts: Sequence[str]) -> tuple[Pixels, Sequence[str]]:
        """The picture as one step sees it, with texts that are true of it."""
        shown_HWC = view(draw, self.preprocess.size, self.crop, False, self.crop_form)
        if self.flip:
            shown_HWC, texts = mirrored(shown_HWC, texts, draw.rng, self.flip_sides)
        return heavy_augment(shown_HWC, draw.rng) if self.augment == "heavy" else shown_HWC, texts

    def features(self, model: ChunkedEncoder, batch: ChunkBatch) -> PairFeatures:
        pairs: PairFeatures = model(batch.image_BCHW, batch.text_BKL, batch.text_mask_BKL, batch.there_BK, batch.style_BCHW)
        return pairs

    def optimiser(self) -> Optimiser:
        chosen = super().optimiser()
        if self.coupled:
            chosen = replace(chosen, coupled_decay=True, rules=(*chosen.rules, Rule("", decay=True)))
        if self.falls == "step":
            return replace(chosen, final_lr=self.final_lr)
        return replace(chosen, falls="period", periods=self.planned, part=(0.0, min(1.0, self.epochs / self.planned)))

    def losses(self, features: PairFeatures, batch: ChunkBatch) -> dict[str, Tensor]:
        loss = self.contrast(features.image_ND, features.text_ND, scale=features.scale, group_B=batch.group_B)
        return {"contrastive": loss}

    @classmethod
    def tiny(cls) -> Self:
        """The towers, batch and steps of `clip`'s, from scratch: all weights are trained."""
        return cls(**{**SMALL_CLIP, "crop": (1.0, 1.0)}, augment="none", rank=0, falls="step", coupled=False, final_lr=0.0)

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/32, to be started with `--init hf:openai/clip-vit-base-patch32`: 256 pictures a step, six epochs, splitting as the paper
        describes it, without MixStyle and styles, as its commands have it. Pictures are mirrored unless a caption says left or right: the
        release mirrors those of colours, materials and sizes, whose captions do not, and none of places."""
        return cls(
            act="quick_gelu",
            same_group="negative",
            adapter_start="random",
            patch_adapter="side",
            decoding="whole",
            flip=True,
            said_about=7.0,
        )
