"""Locked towers: two frozen encoders, their features computed once, a small head on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn

from diptych.core.cache import cache_folder
from diptych.core.contracts import Dataset, Draws, Optimiser, Recipe
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.data.load.batch import TensorBatch, choose_text, group_ids
from diptych.data.load.features import FeatureTable, Rows
from diptych.models.io import weights
from diptych.models.pairs.locked import LockedEmbedder, LockedPair
from diptych.models.towers.outputs import Pairs
from diptych.objectives.pairs.info_nce import info_nce
from diptych.recipes._shared.pairs import texts_of


@dataclass(frozen=True)
class FeatureBatch(TensorBatch):
    """Features of B pairs: image_BD of the image encoder, text_BE of the text encoder, group ids."""

    image_BD: Tensor
    text_BE: Tensor
    group_B: Tensor


@dataclass(frozen=True, kw_only=True)
class Locked(Recipe):
    """Two trained encoders stay as they are; a small head on each learns to bring them together. A baseline beside `clip`.

    Related to LiT (Zhai et al., 2022, arXiv 2111.07991), which locks the image tower only and trains the text tower. Since nothing
    below the heads changes, `prepare` encodes every image and text once and training reads the features: seconds instead of
    minutes, the fastest way from a folder to a search engine. The price: no augmentation, and nothing is learned that the encoders
    do not see.

    encoder_size   side of the images that the image encoder gets, in pixels; the default trades a little quality for speed
    hidden, width  sizes of the heads
    """

    slug = "locked"

    image_encoder: str = "efficientnet-lite0"
    text_encoder: str = "minilm-l6"
    encoder_size: int = 112
    text_length: int = 64
    width: int = 256
    hidden: int = 1024
    dropout: float = 0.1
    language: str = "en"
    same_group: Literal["mask", "positive", "negative"] = "mask"
    batch_size: int = 256
    steps: int = 300
    lr: float = 1e-3
    warmup: float = 30.0
    weight_decay: float = 0.1
    data_fingerprint: str = field(default="", metadata={"prepared": True})

    def prepare(self, data: Dataset) -> Self:
        """Encode what is not encoded yet. The features lie in the cache folder and are found again by fingerprint."""
        prepared = replace(self, data_fingerprint=data.fingerprint)
        images, texts = self.encoders()
        strings = list(dict.fromkeys(text.string for text in texts_of(data, self.language)))
        uids = list(data.uids)
        _table(prepared, "images", uids, lambda rows: images.encode_images([_image(data, row) for row in rows]))
        _table(prepared, "texts", strings, lambda rows: texts.encode_texts([strings[row] for row in rows]))
        return prepared

    def encoders(self) -> tuple[weights.FrozenImages, weights.FrozenTexts]:
        return _encoders(self.image_encoder, self.encoder_size, self.text_encoder, self.text_length)

    def model(self) -> LockedPair:
        images, texts = self.encoders()
        return LockedPair(images.width, texts.width, width=self.width, hidden=self.hidden, dropout=self.dropout)

    @property
    def decode_size(self) -> None:
        """Batches are made of features: images are not decoded."""
        return None

    def batch(self, draws: Draws) -> FeatureBatch:
        images, texts = (_table(self, side) for side in ("images", "texts"))
        image_BD = images.rows([draw.sample.uid for draw in draws])
        text_BE = texts.rows([choose_text(draw, self.language).string for draw in draws])
        return FeatureBatch(torch.from_numpy(image_BD), torch.from_numpy(text_BE), group_ids(draws))

    def features(self, model: nn.Module, batch: FeatureBatch) -> Pairs:
        pairs: Pairs = model(batch.image_BD, batch.text_BE)
        return pairs

    def losses(self, features: Pairs, batch: FeatureBatch) -> dict[str, Tensor]:
        loss, _ = info_nce(
            features.image_ND,
            features.text_ND,
            scale=features.scale,
            group_N=batch.group_B,
            group_M=batch.group_B,
            same=self.same_group,
        )
        return {"contrastive": loss}

    def metrics(self, features: Pairs, batch: FeatureBatch) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def optimiser(self) -> Optimiser:
        return replace(super().optimiser(), betas=(0.9, 0.98))

    def after_update(self, model: nn.Module, features: Pairs, batch: FeatureBatch, progress: float) -> None:
        model.clamp_scale_()  # type: ignore[operator]

    def deploy(self, model: nn.Module) -> LockedEmbedder:
        assert isinstance(model, LockedPair)
        return LockedEmbedder(model, *self.encoders(), name=self.slug)

    @classmethod
    def tiny(cls) -> Self:
        """Seconds of training after the features."""
        return cls()

    @classmethod
    def paper(cls) -> Self:
        """No paper has these heads; this is the larger setting, at the encoders' own image size."""
        return cls(encoder_size=224, hidden=2048, width=512, batch_size=4096, steps=5000, warmup=500.0)


def _table(
    recipe: Locked, side: str, keys: Sequence[str] = (), encode: Callable[[Sequence[int]], Rows] | None = None
) -> FeatureTable:
    images, texts = recipe.encoders()
    encoder = images if side == "images" else texts
    folder = (
        cache_folder() / "features" / f"{recipe.data_fingerprint}-{recipe.language or 'all'}-{side}-{encoder.fingerprint[:16]}"
    )
    return _opened(str(folder)) if encode is None else FeatureTable.made(folder, keys, encode)


@lru_cache(maxsize=4)
def _opened(folder: str) -> FeatureTable:
    return FeatureTable(Path(folder))


@lru_cache(maxsize=2)
def _encoders(image: str, size: int, text: str, length: int) -> tuple[weights.FrozenImages, weights.FrozenTexts]:
    return weights.image(image, image_size=size), weights.text(text, length=length)


def _image(data: Dataset, row: int) -> ImageSource:
    sample = data[row]
    if sample.image is None:
        raise DataError("the sample has no image", file=data.name, row=row, field="image", expected="an image for every sample")
    return sample.image
