"""PTP: a sentence after the caption states in which block of the picture an object is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from diptych.core.contracts import Draw, Draws, Optimiser, Rule
from diptych.core.errors import ConfigError
from diptych.data.load.batch import PairBatch, group_ids
from diptych.data.media.augment.boxed_views import Boxed, augmented, cropped
from diptych.models.blip.blip import Blip, BlipFeatures, BlipTraining
from diptych.models.blip.blip_model import BlipModel
from diptych.models.blip.released import from_released, init_from_vit_and_bert_, is_released
from diptych.models.blip.text import BlipText
from diptych.models.io.tensor_files import read_tensors, weights_file
from diptych.models.layers.feature_queue import Start
from diptych.models.pairs.matching.matcher import MatcherOutput
from diptych.models.towers.towers import image_tower
from diptych.objectives.gather import all_gather
from diptych.objectives.language.captioning import caption_loss
from diptych.objectives.pairs.momentum_targets import momentum_contrast
from diptych.recipes._shared.block_prompts import BlockPromptRecipe
from diptych.recipes._shared.epoch_decay import Schedule, with_schedule
from diptych.recipes._shared.fused_pairs import matching


@dataclass(frozen=True, kw_only=True)
class PTP(BlockPromptRecipe[BlipTraining, PairBatch, BlipFeatures]):
    """Position-guided Text Prompt for Vision-Language Pre-training (Wang et al., 2022, arXiv 2212.09737), on BLIP (2201.12086).

    The picture is divided into three by three blocks. Of a picture with regions one is drawn, and "The block 4 has a cup." stands behind
    its caption, where the centre of its box is as the picture is shown: after crop, flip, shear, shift and turn. A thing that was cut away
    is in block "x". The model and its losses stay as they are: contrast against a momentum copy and queues, matching, and writing, which
    has to say the thing from the block and the block from the picture. No box is needed when the model is used.

    Regions come with the data, published from a detector (VinVL, ten a picture); pictures without any have their caption alone.

    The released code has two loaders. `prompts="moved"` is the second, which moves boxes with the picture. "original" writes the block of
    the picture as it is stored and then crops, shears, shifts and turns it, as the first loader does, which is the one in its guide. That
    one has no flips (`flip=False`): with them the column would be wrong in a third of the cases. "none" is BLIP. The second loader keeps
    the stop between caption and prompt, the first loses it.

    We depart: keys of all processes are in the contrast, in the release those of its own (`keys="own"`) and the queue, into which all
    processes' go; operations of the augmentation are PIL's, with the released ranges. `caption_mean="rows"` weighs captions alike;
    published is the mean over all tokens of a batch.

    The release starts from DeiT's and BERT's weights, which come with no package: `image_weights` and `text_weights` take the files, beside
    `tokenizer` with BERT's vocabulary; without them everything is fresh. `--init` takes a run, or what PTP and BLIP publish as
    .safetensors.

    Wrong pairs are drawn within a process, as in the released pre-training, so batches cannot be cut into chunks. (Its fine-tuning for
    COCO's retrieval, which is not here, draws them from all processes; that for Flickr30k within one.)

    augment      "rand": BLIP's two operations out of ten, half of the time each
    decay        weight decay is on "all" parameters, as released, or on "matrices" alone
    queue_start  "random" unit vectors in the queues, as released, or "empty"
    keys         of a step that are contrasted: those of "all" processes, or of the "own" one, as released
    queue, momentum, alpha, alpha_warmup   keys of earlier batches; how the copy follows; share of its answer in targets, reached after that
                 share of the run
    image_weights  a file of a vision transformer in timm's names, such as deit_base_patch16_224-b5f2ef4d.pth; "" starts afresh
    text_weights   a file of a BERT with its word head, or the folder that holds its model.safetensors or pytorch_model.bin
    temperature_lr  factor of the learning rate for the temperature. It is learned as it is and not as a logarithm, so that at the rates of
                 small models it would fall to its floor of .001 within the first hundred steps, and with it the contrast
    text_...     of the text transformer; text_places: how many positions it has, of which `text_length` are read; text_spread: deviation of
                 its fresh weights, which counts on BERT's width
    schedule   the learning rate falls by `decay_rate` after each of the `epochs`, as released, or by a "cosine" over the run
    decay_rate, warmup_lr, min_lr   with "epochs": the factor, the rate at the first step, and the one it does not fall below
    caption_mean  of the losses of words: over all "tokens" of a batch, as published, or over "rows", which weighs captions alike
    """

    slug = "ptp"
    presets = ("tiny", "paper", "guide")
    cacheable = False
    no_prefixes = "it reads pairs together"

    augment: Literal["none", "rand"] = "rand"
    queue: int = 57_600
    queue_start: Start = "random"
    keys: Literal["all", "own"] = "all"
    decay: Literal["all", "matrices"] = "all"
    momentum: float = 0.995
    alpha: float = 0.4
    alpha_warmup: float = 0.1
    temperature: float = 0.07
    temperature_lr: float = 1.0
    caption_mean: Literal["tokens", "rows"] = "tokens"
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_places: int = 512
    text_spread: float = 0.02
    dropout: float = 0.1
    image_weights: str = ""
    text_weights: str = ""

    image_tower: str = "vit_b16"
    text_tower: str = "blip"
    width: int = 256
    text_length: int = 30
    crop: tuple[float, float] = (0.2, 1.0)
    flip: bool = True
    same_group: Literal["mask", "positive", "negative"] = "negative"
    patch_bias: bool | None = True
    batch_size: int = 600
    epochs: float = 20.0
    lr: float = 3e-4
    warmup: float = 3000.0
    schedule: Schedule = "epochs"
    decay_rate: float = 0.9
    warmup_lr: float = 1e-6
    min_lr: float = 1e-6
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.same_group == "positive":
            raise ConfigError("same_group is 'positive' (expected mask | negative)")
        if self.text_tower != "blip" or self.text_pooling is not None or not self.image_tower.startswith("vit"):
            raise ConfigError(
                f"towers are {self.image_tower} and {self.text_tower}, text_pooling {self.text_pooling} "
                "(expected a vit_* image tower and BLIP's text transformer)"
            )
        if self.keys not in ("all", "own") or not 0 <= self.momentum <= 1:
            raise ConfigError(f"keys is {self.keys!r}, momentum {self.momentum} (expected all | own, and 0..1)")

    def started(self, model: Any) -> Self:
        """The architecture, vocabulary and image settings of a BLIP of ours."""
        if not isinstance(model, BlipModel):
            raise ConfigError(
                f"{getattr(model, 'name', model)} is not a BLIP (expected a run of ptp, or a released file as .safetensors)"
            )
        text, preprocess = model.model.text, model.preprocess
        if preprocess.resize == "native" or preprocess.resize == "square":  # two tests narrow the type
            raise ConfigError(f"{model.name} resizes its pictures by '{preprocess.resize}' (expected crop, squash or pad)")
        options = {key: value for key, value in model.model.image_tower.spec.items() if key != "name"}
        return replace(
            self, image_tower=model.model.image_tower.spec["name"], image_size=preprocess.size, width=model.model.width, act=None,
            patch_bias=None, text_width=text.width, text_layers=len(text.blocks), text_heads=text.heads, text_places=text.length,
            text_length=model.text_length, tokenizer="weights", vocabulary=model.tokenizer.to_json(), resize=preprocess.resize,
            mean=preprocess.mean, std=preprocess.std, interpolation=preprocess.interpolation, image_weights="", text_weights="",
            towers_from=json.dumps({"image": {"options": options, "projection": ""}}),
        )  # fmt: skip

    def fitted(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Those of a BLIP that stands alone or of a released file, for the model and its momentum copy, which starts as it does."""
        if is_released(tensors):
            tensors = from_released(tensors)
        if any(name.startswith("blip.") for name in tensors):
            return tensors
        return {f"{part}.{name}": tensor for part in ("blip", "momentum.copy") for name, tensor in tensors.items()}

    def model(self) -> BlipTraining:
        tower = image_tower(self.image_tower, **{"pre_norm": False, "eps": 1e-6, **self.image_options()})
        text = BlipText(
            vocab_size=self.words().vocab_size,
            image_width=tower.token_width,
            length=max(self.text_places, self.text_length),
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
            dropout=self.dropout,
            spread=self.text_spread,
        )
        blip = Blip(tower, text, width=self.width)
        image_weights = read_tensors(Path(self.image_weights).expanduser()) if self.image_weights else None
        text_weights = read_tensors(weights_file(self.text_weights)) if self.text_weights else None
        init_from_vit_and_bert_(blip.image_tower, blip.text, image=image_weights, text=text_weights)
        return BlipTraining(blip, queue=self.queue, temperature=self.temperature, queue_start=self.queue_start)

    def batch(self, draws: Draws) -> PairBatch:
        shown = [self.view_with_prompt(draw) for draw in draws]
        texts = [text for _, text in shown]
        encoded = self.words().encode(texts, self.text_length)
        return PairBatch(
            image_BCHW=self.preprocess.batched([image_HWC for image_HWC, _ in shown], draws.uint8_images),
            text_BL=torch.from_numpy(encoded.ids_BL),
            text_mask_BL=torch.from_numpy(encoded.mask_BL),
            group_B=group_ids(draws),
            truncated=encoded.truncated,
            strings=tuple(texts),
        )

    def before_flip(self, picture: Boxed, draw: Draw) -> Boxed:
        return cropped(picture, self.image_size, draw.rng, self.crop, self.crop_interpolation)

    def after_flip(self, picture: Boxed, draw: Draw) -> Boxed:
        return augmented(picture, draw.rng) if self.augment == "rand" else picture

    def features(self, model: BlipTraining, batch: PairBatch) -> BlipFeatures:
        outputs: BlipFeatures = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL, batch.group_B)
        return outputs

    def losses(self, features: BlipFeatures, batch: PairBatch) -> dict[str, Tensor]:
        read = MatcherOutput(
            features.image_ND,
            features.text_ND,
            features.temperature_1,
            features.own_N2,
            features.wrong_text_N2,
            features.wrong_image_N2,
            features.wrong_N,
        )
        images, texts = (features.image_ND, features.key_image_ND), (features.text_ND, features.key_text_ND)
        by_image = self._contrast(features, *images, texts[1], features.text_queue_KD, batch.group_B)
        by_text = self._contrast(features, *texts, images[1], features.image_queue_KD, batch.group_B)
        return {
            "contrastive": (by_image + by_text) / 2,
            "matching": matching(read),
            "caption": caption_loss(features.logit_BLV, batch.text_BL, batch.text_mask_BL, over=self.caption_mean),
        }

    def _contrast(
        self, features: BlipFeatures, anchor_ND: Tensor, teacher_ND: Tensor, key_ND: Tensor, queue_KD: Tensor, group_N: Tensor
    ) -> Tensor:
        return momentum_contrast(
            anchor_ND,
            teacher_ND,
            key_ND,
            queue_KD,
            temperature=features.temperature_1,
            alpha=features.alpha_1,
            group_N=group_N,
            group_K=features.group_K,
            same="mask" if self.same_group == "mask" else "negative",
            keys=self.keys,
        )

    def metrics(self, features: BlipFeatures, batch: PairBatch) -> dict[str, Tensor]:
        return {"temperature": features.temperature_1.detach(), "alpha": features.alpha_1.detach()}

    def after_update(self, model: BlipTraining, features: BlipFeatures, batch: PairBatch, progress: float) -> None:
        image_ND, text_ND = (all_gather(key_ND).flatten(0, 1) for key_ND in (features.key_image_ND, features.key_text_ND))
        model.remember_(image_ND, text_ND, all_gather(batch.group_B).flatten(), momentum=self.momentum)
        with torch.no_grad():
            model.temperature_1.clamp_(0.001, 0.5)
            model.alpha_1.fill_(self.alpha * (min(1.0, progress / self.alpha_warmup) if self.alpha_warmup else 1.0))

    def optimiser(self) -> Optimiser:
        decay = True if self.decay == "all" else None
        temperature = () if self.temperature_lr == 1 else (Rule("temperature_1$", lr_scale=self.temperature_lr, decay=decay),)
        rules: tuple[Rule, ...] = (*temperature, *((Rule("", decay=True),) if decay else ()))
        chosen = replace(super().optimiser(), betas=(0.9, 0.999), eps=1e-8, rules=rules)
        return with_schedule(
            chosen, self.schedule, decay_rate=self.decay_rate, epochs=self.epochs, warmup_lr=self.warmup_lr, min_lr=self.min_lr
        )

    def deploy(self, model: BlipTraining) -> BlipModel:
        return BlipModel(model.blip, self.deployed_preprocess, self.words(), self.text_length, self.slug)

    @classmethod
    def tiny(cls) -> Self:
        return cls(
            image_tower="vit_tiny",
            image_size=64,
            width=64,
            text_length=32,
            tokenizer="data",
            pieces=2048,
            text_width=128,
            text_layers=2,
            text_heads=4,
            text_places=32,
            text_spread=0.1,
            dropout=0.0,
            temperature_lr=0.05,
            attributes=1,
            crop=(0.7, 1.0),
            flip=False,
            augment="none",
            queue=512,
            queue_start="empty",
            decay="matrices",
            batch_size=64,
            steps=400,
            lr=8e-4,
            warmup=30.0,
            schedule="cosine",
            clip_norm=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """PTP-BLIP: ViT-B/16 at 224 pixels with BERT-base's text transformer; flips look at no word, as released. CLIP's vocabulary takes
        the place of BERT's word pieces, which are not at hand without a download; `--tokenizer FOLDER` takes them. So it is with the
        weights of DeiT and BERT that the release starts from (`image_weights`, `text_weights`)."""
        return cls(
            flip_sides="ignore",
            resize="squash",
            interpolation="bilinear",
            crop_interpolation="bilinear",
            decoding="whole",
            keys="own",
        )

    @classmethod
    def guide(cls) -> Self:
        """`paper` by the command in the release's guide, which is its first loader: the block of the stored picture, no flips, and two
        captions of a picture run together."""
        return replace(cls.paper(), prompts="original", flip=False, captions="glued")
