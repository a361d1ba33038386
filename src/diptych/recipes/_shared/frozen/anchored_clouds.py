"""Shared by recipes that train a point tower towards a frozen dual encoder: what a step reads, the loss, the deployed model."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draw, Draws, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.media.cloud_views import CloudAugment, CloudPreprocess
from diptych.data.media.transforms import IMAGENET_MEAN, IMAGENET_STD, CropForm, Preprocess, random_crop
from diptych.models.points.point_bert import PointBERTSettings
from diptych.models.points.point_embedder import PointCloudEmbedder, towers_of
from diptych.models.points.point_encoder import AnchoredFeatures, PointEncoder, Scale
from diptych.objectives.pairs.anchored_contrast import GradientDirections, anchored_contrast
from diptych.recipes._shared.frozen.adapted_encoder import AdaptedEncoderRecipe
from diptych.recipes._shared.small_encoder import small_encoder

CLOUDS, AUGMENT, TOWER = CloudPreprocess(), CloudAugment(), PointBERTSettings()
"""As published for ULIP."""
TINY: dict[str, Any] = {
    "image_tower": "vit_micro",
    "text_tower": "text_micro",
    "width": 128,
    "image_size": 48,
    "text_length": 24,
    "tokenizer": "data",
    "pixels": "own",
    "clouds": CloudPreprocess(points=256),
    "tower": PointBERTSettings(groups=16, group_size=12, encoder=64, token_width=96, layers=3, heads=3, drop_path=0.0),
    "augment": CloudAugment(dropout=0.5),
    "small_steps": 400,
    "batch_size": 32,
    "steps": 400,
    "lr": 1e-3,
    "warmup": 40.0,
}
"""A small tower on 256 points, towards a small dual encoder of the same data."""


@dataclass(frozen=True)
class CloudBatch(TensorBatch):
    """Clouds [B, points, channels], up to T texts of each, and a view of each; what no anchor reads is None. text_weight_BT is 1 for the
    texts of a cloud and 0 for the rest; None where each has T."""

    point_BPF: Rows[Tensor]
    text_BTL: Rows[Tensor] | None
    text_mask_BTL: Rows[Tensor] | None
    image_BCHW: Rows[Tensor] | None
    text_weight_BT: Rows[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class AnchoredCloudRecipe(AdaptedEncoderRecipe[PointEncoder, CloudBatch, AnchoredFeatures]):
    """Trains a point tower towards a frozen dual encoder.

    anchors      "both", or the contrast with "text" or "image" alone
    scale        "learned" from 1/0.07; "anchor": frozen at the anchor's own, as released
    gradient     directions whose gradient reaches the points: "both"; "from_points": as released with several processes
                 (`anchored_contrast`)
    label        column with the class
    language     of the texts; "" takes all
    medium, views, depths  names of the cloud, its pictures and its depth pictures among a sample's media
    depth_share  chance of a depth picture, where a sample has them
    crop         area of the random crop of a view, as shares
    pixels       are normalised by the statistics of "imagenet", as released for SLIP, or by the anchor's "own"
    clouds       how clouds are read: `CloudPreprocess`, whose fields are options of their own
    augment      of clouds: `CloudAugment`, whose fields are options of their own; augmented: False leaves it out
    tower        sizes of the point tower: `PointBERTSettings`, whose fields are options of their own
    small_steps  without `weights`: steps of a small dual encoder that first learns the pictures and texts of the training data and is
                 kept in the cache; 0 freezes fresh towers
    small_data   address of the data that it learns instead, so that runs on different data share it
    """

    needs: ClassVar[tuple[str, ...]] = ("cloud",)
    cacheable: ClassVar[bool] = False  # the group encoder has batch norms

    anchors: Literal["both", "text", "image"] = "both"
    scale: Scale = "learned"
    gradient: GradientDirections = "both"
    label: str = "label"
    language: str = "en"
    medium: str = "cloud"
    views: str = "views"
    depths: str = "depths"
    depth_share: float = 0.5
    crop: tuple[float, float] = (0.5, 1.0)
    pixels: Literal["imagenet", "own"] = "imagenet"
    clouds: CloudPreprocess = CLOUDS
    augment: CloudAugment = AUGMENT
    augmented: bool = True
    tower: PointBERTSettings = TOWER
    small_steps: int = 0
    small_data: str = ""

    batch_size: int = 512
    epochs: float = 250.0
    lr: float = 3e-3
    warmup: float = 1 / 250
    weight_decay: float = 0.1

    def __post_init__(self) -> None:
        if self.anchors not in ("both", "text", "image"):
            raise ConfigError(f"anchors {self.anchors!r} (expected both | text | image)")
        if self.pixels not in ("imagenet", "own") or not 0 <= self.depth_share <= 1 or not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise ConfigError(
                f"pixels {self.pixels!r}, depth_share {self.depth_share}, crop {self.crop} (expected imagenet | own, and shares)"
            )
        if self.clouds.channels != self.tower.in_channels or self.clouds.points < self.tower.group_size:
            raise ConfigError(
                f"clouds of {self.clouds.points} points and {self.clouds.channels} channels for groups of {self.tower.group_size} "
                f"points and {self.tower.in_channels} channels (expected equal channels, and at least as many points)"
            )

    @property
    def measured_by(self) -> str:
        return f"point_classification:label={self.label}"

    @property
    def decode_size(self) -> int | None:
        """The picture of a sample is read in `load`, if it is drawn."""
        return None

    @property
    def preprocess(self) -> Preprocess:
        preprocess = super().preprocess
        return preprocess if self.pixels == "own" else replace(preprocess, mean=IMAGENET_MEAN, std=IMAGENET_STD)

    def prepare(self, data: Dataset) -> Self:
        """Trains the small anchor, where one is asked for; else learns the vocabulary of fresh towers that have the data's own."""
        if self.small_steps and not self.weights:
            side = super().preprocess.size
            folder = small_encoder(self.small_data, data, steps=self.small_steps, language=self.language, size=side)
            return replace(self, weights=str(folder), small_steps=0)
        if self.weights or self.tokenizer != "data" or self.vocabulary:
            return self
        return self.with_vocabulary([name for row in range(len(data)) for name in self.names_of(data[row])])

    @abstractmethod
    def names_of(self, sample: Sample) -> list[str]:
        """The texts that a step may draw for this cloud."""

    @abstractmethod
    def texts(self, draw: Draw) -> tuple[str, ...]:
        """The texts whose mean a step takes."""

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        if self.medium not in sample.media:
            raise DataError(f"sample '{sample.uid}' has no cloud", field=self.medium, expected="KEY.ply, KEY.cloud.npy, ...")
        item = sample.media[self.medium]
        loaded: dict[str, Any] = {"cloud": self.clouds(item.decode(), name=item.name, rng=rng)}
        if self.anchors != "text":
            views = self.views_of(sample)
            if self.depths in sample.media and rng.random() < self.depth_share:
                views = sample.media[self.depths].parts
            loaded["view"] = int(rng.integers(len(views)))
            loaded["pixels"] = MediaItem("image", (views[loaded["view"]],)).decode()
        return loaded

    def views_of(self, sample: Sample) -> Sequence[ImageSource]:
        """The pictures of a cloud: its `views`, or the picture of the sample."""
        if self.views in sample.media:
            return sample.media[self.views].parts
        if sample.image is None:
            raise DataError(f"sample '{sample.uid}' has no view", field=self.views, expected="pictures, or anchors 'text'")
        return (sample.image,)

    def batch(self, draws: Draws) -> CloudBatch:
        clouds = [d.media["cloud"] for d in draws]
        point_BPF = torch.from_numpy(
            np.stack([self.augment(c, d.rng) if self.augmented else c for c, d in zip(clouds, draws, strict=True)])
        )
        text_BTL = mask_BTL = image_BCHW = weight_BT = None
        if self.anchors != "image":
            texts = [self.texts(draw) for draw in draws]
            most = max(map(len, texts))
            if min(map(len, texts)) < most:
                weight_BT = torch.tensor([[1.0] * len(row) + [0.0] * (most - len(row)) for row in texts])
            padded = [text for row in texts for text in (*row, *row[:1] * (most - len(row)))]
            words = self.words().encode(padded, self.read_length)
            text_BTL = torch.from_numpy(words.ids_BL).unflatten(0, (len(texts), most))
            mask_BTL = torch.from_numpy(words.mask_BL).unflatten(0, (len(texts), most))
        if self.anchors != "text":
            size, form = self.preprocess.size, CropForm(interpolation="bilinear")
            image_BCHW = self.preprocess.normalise(
                np.stack([random_crop(d.media["pixels"], size, d.rng, self.crop, form) for d in draws])
            )
        return CloudBatch(point_BPF, text_BTL, mask_BTL, image_BCHW, weight_BT)

    def model(self) -> PointEncoder:
        return PointEncoder(self.base().model, self.tower, scale=self.scale)

    def features(self, model: PointEncoder, batch: CloudBatch) -> AnchoredFeatures:
        features: AnchoredFeatures = model(
            batch.point_BPF, batch.text_BTL, batch.text_mask_BTL, batch.image_BCHW, batch.text_weight_BT
        )
        return features

    def losses(self, features: AnchoredFeatures, batch: CloudBatch) -> dict[str, Tensor]:
        named = {"text": features.text_ND, "image": features.image_ND}
        anchors = {name: anchor_ND for name, anchor_ND in named.items() if anchor_ND is not None}
        return anchored_contrast(features.point_ND, anchors, scale=features.scale, gradient=self.gradient)

    def metrics(self, features: AnchoredFeatures, batch: CloudBatch) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def after_update(self, model: PointEncoder, features: AnchoredFeatures, batch: CloudBatch, progress: float) -> None:
        model.clamp_scale_()

    def optimiser(self) -> Optimiser:
        chosen = replace(super().optimiser(), betas=(0.9, 0.98), eps=1e-8)
        return replace(chosen, warmup_from=1e-6 / 3e-3, warmup_peak="last", final_lr=1e-5 / 3e-3)

    def deploy(self, model: PointEncoder) -> PointCloudEmbedder:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            towers = towers_of(self.base().model)
        return PointCloudEmbedder(model, self.clouds, self.preprocess, self.words(), self.read_length, self.slug, towers=towers)
