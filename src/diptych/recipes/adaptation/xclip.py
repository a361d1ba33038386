"""X-CLIP: cross-frame attention, a small temporal transformer and video-specific prompts, on a trained CLIP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.contracts import Dataset, Draws, Optimiser, Rule
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.labels import label_of
from diptych.data.load.batch import TensorBatch
from diptych.data.media.clip_views import ClipAugment, Reading, middle, read_frames
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from diptych.data.text.prompts.class_prompts import class_prompts
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.video.frames import Begins, Drop
from diptych.models.video.video_embedder import VideoEmbedder
from diptych.models.video.video_encoder import VideoEncoder, VideoLogits, VideoSettings
from diptych.recipes._shared.frozen.adapted_encoder import AdaptedEncoderRecipe


@dataclass(frozen=True)
class ClipBatch(TensorBatch):
    """Clips, and how much of each class they are: one, or what mixing and smoothing leave."""

    image_BTCHW: Rows[Tensor]
    target_BK: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class XCLIP(AdaptedEncoderRecipe[VideoEncoder, ClipBatch, VideoLogits]):
    """Expanding Language-Image Pretrained Models for General Video Recognition (Ni et al., 2022, arXiv 2208.02816).

    In every block of a CLIP vision transformer a frame's class token becomes a message; messages of a clip attend to each other, and each
    then stands among its frame's tokens for one attention. Frame vectors get positions, go through a small transformer, and are averaged.
    Class names look at the clip's patches, and what they see is added behind a learned gate. The text side and the temperature are
    frozen, all else is trained, new parts at ten times the rate. One frame of each of `frames` equal stretches is read, any of it in
    training and its middle in a test. Without positions the order of frames changes nothing.

    Pictures are normalised by ImageNet's statistics and not by CLIP's, as released (`pixels`). Test clips of several views are spread
    evenly, where the release draws them (`drawn`).

    label        column with the class; "label" falls back to the text of origin "label"
    classes      names in the order of their numbers; empty takes the labels of the data, sorted
    medium       the name of the clip among a sample's media
    frames       that are read of a clip; one with fewer gives some of them several times, or is refused (`reading`)
    messages, mixer, prompts  frames talk; layers of the temporal transformer; layers by which names look at the clip. False and 0 leave a
                 part out: without all three it is the mean of CLIP's frames
    gate         where the gate of the names starts
    drop_path    stochastic depth; drop: it leaves out "places" of all frames, as released, or "frames" (`FrameTower`)
    begins       the attention of messages and of the temporal transformer starts as "released", or "plain" (`FrameTower`)
    smoothing    share of the target that is spread over all classes
    mixup, cutmix  alphas of the mixing of two clips of a batch; 0 leaves one out. switch: chance of the second, where both are there
    mixed_together  clips that share the draws of the mixing, and are mixed with each other: 8, those of a GPU, as released; 0: the batch
    crops, flip, jitter, grey  augmentation, see `ClipAugment`
    pixels       are normalised by the statistics of "imagenet", as released, or by the adapted model's "own"
    reading      of frames: "released" or "plain", see `data/media/clip_views.py`
    drawn        several views of a test are drawn, as released, and not spread evenly
    new_rate     of what is new, in units of `lr`
    late         steps by which the schedule is late: it moves after the update and counts batches of a GPU, four an update, as released
    floor        of the schedule: one "rate" for all parameters, as released, or the same "share" of each rate
    """

    slug = "xclip"
    needs: ClassVar[tuple[str, ...]] = ("clip",)
    presets: ClassVar[tuple[str, ...]] = ("tiny", "paper", "few_shot")
    cacheable: ClassVar[bool] = True

    label: str = "label"
    language: str = "en"
    classes: tuple[str, ...] = ()
    medium: str = "clip"
    frames: int = 8
    messages: bool = True
    mixer: int = 1
    prompts: int = 2
    gate: float = 0.1
    drop_path: float = 0.0
    smoothing: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    switch: float = 0.5
    crops: bool = True
    flip: bool = True
    jitter: float = 0.8
    grey: float = 0.2
    mixed_together: int = 8
    pixels: Literal["imagenet", "own"] = "imagenet"
    reading: Reading = "released"
    drawn: bool = False
    drop: Drop = "places"
    begins: Begins = "released"
    new_rate: float = 10.0

    batch_size: int = 256
    epochs: float = 30.0
    lr: float = 8e-6
    warmup: float = 1 / 6
    warmup_from: float | None = 0.0
    over: Literal["rest", "run"] = "run"
    late: float = 0.25
    floor: Literal["share", "rate"] = "rate"
    weight_decay: float = 1e-3

    named: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1 or self.mixup < 0 or self.cutmix < 0:
            raise ConfigError(
                f"smoothing {self.smoothing}, mixup {self.mixup}, cutmix {self.cutmix} (expected a share, and 0 or more)"
            )
        if self.pixels not in ("imagenet", "own") or self.reading not in ("released", "plain") or self.mixed_together < 0:
            raise ConfigError(
                f"pixels {self.pixels!r}, reading {self.reading!r}, mixed_together {self.mixed_together} "
                "(expected imagenet | own, released | plain, and 0 or more)"
            )

    @property
    def measured_by(self) -> str:
        return f"video_classification:label={self.label}"

    @property
    def decode_size(self) -> int | None:
        """The picture of a sample, where it has one, is not read."""
        return None

    @property
    def preprocess(self) -> Preprocess:
        preprocess = super().preprocess
        return preprocess if self.pixels == "own" else replace(preprocess, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def prepare(self, data: Dataset) -> Self:
        """Names of the classes, from the labels of the training data where none are given."""
        if self.named:
            return self
        labels = {label_of(data[row], self.label, self.language) for row in range(len(data))}
        names = self.classes or tuple(sorted(labels))
        if strange := sorted(labels - set(names)):
            raise DataError(f"a sample has the label {strange[0]!r}", field=self.label, expected="one of --classes")
        if len(names) < 2:
            raise DataError(f"'{data.name}' has {len(names)} class", field=self.label, expected="two classes or more")
        prepared = replace(self, named=names).with_vocabulary(names)
        class_prompts(names, prepared.words(), prepared.read_length, context=0, tail="")  # refuses names that do not fit
        return prepared

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.medium not in sample.media:
            raise DataError(f"sample '{sample.uid}' has no clip", field=self.medium, expected="KEY.clip/0001.jpg, KEY.mp4, ...")
        return {"clip": read_frames(sample.media[self.medium], self.frames, uid=sample.uid, rng=rng, reading=self.reading)}

    def batch(self, draws: Draws) -> ClipBatch:
        size, class_index = self.preprocess.size, {name: k for k, name in enumerate(self.named)}
        augment = ClipAugment(self.crops, self.flip, self.jitter, self.grey, self.reading)
        plain = not (self.crops or self.flip or self.jitter or self.grey)
        clips = [middle(d.media["clip"], size, self.reading) if plain else augment(d.media["clip"], size, d.rng) for d in draws]
        labels = [label_of(draw.sample, self.label, self.language) for draw in draws]
        if strange := next((name for name in labels if name not in class_index), None):
            raise DataError(f"a sample has the label {strange!r}", field=self.label, expected="one of the classes of training")
        image_NCHW = self.preprocess.normalise(np.stack(clips).reshape(-1, size, size, 3))
        target_BK = torch.full((len(draws), len(class_index)), self.smoothing / len(class_index))
        target_BK[torch.arange(len(draws)), [class_index[name] for name in labels]] += 1 - self.smoothing
        return ClipBatch(*self._mixed(image_NCHW.unflatten(0, (len(draws), self.frames)), target_BK, draws.rng))

    def _mixed(self, image_BTCHW: Tensor, target_BK: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Each clip with another one of those that are mixed together."""
        if not (self.mixup or self.cutmix):
            return image_BTCHW, target_BK
        count = self.mixed_together or max(1, len(target_BK))
        mixed = [self._pairs(*part, rng) for part in zip(image_BTCHW.split(count), target_BK.split(count), strict=True)]
        return torch.cat([image for image, _ in mixed]), torch.cat([target for _, target in mixed])

    def _pairs(self, image_BTCHW: Tensor, target_BK: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Each clip with another one: all of it (mixup), or a box of it in every frame (cutmix)."""
        cut = bool(self.cutmix) and (not self.mixup or rng.random() < self.switch)
        other_B = torch.from_numpy(rng.permutation(len(target_BK)))
        share = float(rng.beta(*(self.cutmix if cut else self.mixup,) * 2))
        if cut:
            high, wide = image_BTCHW.shape[-2:]
            part = slice(*_span(high, share, rng)), slice(*_span(wide, share, rng))
            image_BTCHW = image_BTCHW.clone()
            image_BTCHW[..., part[0], part[1]] = image_BTCHW[other_B][..., part[0], part[1]]
            share = 1 - (part[0].stop - part[0].start) * (part[1].stop - part[1].start) / (high * wide)
        else:
            image_BTCHW = share * image_BTCHW + (1 - share) * image_BTCHW[other_B]
        return image_BTCHW, share * target_BK + (1 - share) * target_BK[other_B]

    def settings(self) -> VideoSettings:
        return VideoSettings(
            frames=self.frames,
            messages=self.messages,
            mixer=self.mixer,
            prompts=self.prompts,
            gate=self.gate,
            drop_path=self.drop_path,
            drop=self.drop,
            begins=self.begins,
        )

    def model(self) -> VideoEncoder:
        model = VideoEncoder(self.base().model, self.settings())
        words, length = self.words(), self.read_length
        model.set_classes(class_prompts(self.named, words, length, context=0, tail="", fitted=True))
        return model

    def features(self, model: VideoEncoder, batch: ClipBatch) -> VideoLogits:
        logits: VideoLogits = model(batch.image_BTCHW)
        return logits

    def losses(self, features: VideoLogits, batch: ClipBatch) -> dict[str, Tensor]:
        return {"classes": F.cross_entropy(features.logit_NK, batch.target_BK.to(features.logit_NK.dtype))}

    def metrics(self, features: VideoLogits, batch: ClipBatch) -> dict[str, Tensor]:
        return {"right": (features.logit_NK.argmax(1) == batch.target_BK.argmax(1)).float().mean()}

    def optimiser(self) -> Optimiser:
        new = r"^(tower\.messages|mixer|patch_norm|patch_projection|refiner)"
        rules = (
            Rule(r"^mixer\.position", lr_scale=self.new_rate, decay=False),
            Rule(new, lr_scale=self.new_rate),
            Rule(r"position", decay=False),
        )
        chosen = replace(super().optimiser(), betas=(0.9, 0.98), eps=1e-8, final_lr=0.01, rules=rules)
        return replace(chosen, warmup_from=self.warmup_from, over=self.over, late=self.late, floor=self.floor)

    def deploy(self, model: VideoEncoder) -> VideoEmbedder:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            towers = towers_of(self.base().model)
        options: dict[str, Any] = {"towers": towers, "classes": self.named, "reading": self.reading, "drawn": self.drawn}
        return VideoEmbedder(model, self.preprocess, self.words(), self.read_length, self.slug, **options)

    @classmethod
    def tiny(cls) -> Self:
        """Small towers on 8 frames of 48 pixels, no augmentation: minutes. Give a trained model as `weights`. From nothing the order of
        frames comes late in a run: what tells classes apart by single frames is learned first."""
        return cls(
            image_tower="vit_micro",
            text_tower="text_micro",
            width=64,
            image_size=48,
            text_length=24,
            tokenizer="data",
            pieces=400,
            mixup=0.0,
            cutmix=0.0,
            smoothing=0.0,
            crops=False,
            flip=False,
            jitter=0.0,
            grey=0.0,
            batch_size=16,
            steps=1200,
            lr=5e-4,
            warmup=50.0,
            warmup_from=None,
            over="rest",
            late=0.0,
            floor="share",
            mixed_together=0,
            pixels="own",
            reading="plain",
            drop="frames",
            begins="plain",
        )

    @classmethod
    def paper(cls) -> Self:
        """ViT-B/16 on 8 frames of 224 pixels, 30 epochs of Kinetics-400."""
        return cls()

    @classmethod
    def few_shot(cls) -> Self:
        """ViT-B/16 on 32 frames, 50 epochs of a few clips a class of HMDB-51 or UCF-101."""
        return cls(frames=32, batch_size=64, epochs=50.0, lr=2e-6, warmup=5 / 50, mixed_together=4, late=0.5)


def towers_of(encoder: DualEncoder) -> dict[str, Any]:
    """Configuration from which a saved model builds its towers again."""
    return {
        "image": encoder.image_tower.spec,
        "text": encoder.text_tower.spec,
        "bias": encoder.bias is not None,
        "project_image": encoder.project_image,
        "projection_bias": encoder.projection_bias,
        "max_scale": encoder.max_scale,
    }


def _span(side: int, kept: float, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch of a side, sqrt(1 - kept) of it long, around a place anywhere, cut at the edges."""
    half, centre = int(side * (1 - kept) ** 0.5) // 2, int(rng.integers(side))
    return max(centre - half, 0), min(centre + half, side)
