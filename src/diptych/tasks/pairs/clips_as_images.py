"""Adapter of video clips to image protocols: the same ranks, ties and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import ClipEmbedder, ClipScorer, Dataset, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.sample import Sample


@dataclass(frozen=True, slots=True, eq=False)
class ClipSource:
    """Clip in the place of an image's source; only `ClipsAsImages` adapters look inside."""

    clip: MediaItem
    name: str

    def read(self) -> bytes:
        return self.clip.parts[0].read()


@dataclass(frozen=True)
class ClipsAsImages:
    """The rows of a data set with their clip, or other medium, of that name in place of the image. Satisfies `Dataset`."""

    data: Dataset
    medium: str

    @property
    def name(self) -> str:
        return self.data.name

    @property
    def fingerprint(self) -> str:
        return self.data.fingerprint

    @property
    def uids(self) -> Sequence[str]:
        return self.data.uids

    @property
    def groups(self) -> Sequence[str]:
        return self.data.groups

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Sample:
        sample = self.data[row]
        clip = sample.media.get(self.medium)
        if clip is None:
            raise DataError(
                f"sample '{sample.uid}' has no {self.medium}", field=self.medium, expected=f"a {self.medium} in every row"
            )
        return replace(sample, image=ClipSource(clip, sample.uid), media={})

    def select(self, rows: Sequence[int]) -> ClipsAsImages:
        return ClipsAsImages(self.data.select(rows), self.medium)

    def split(self, name: str) -> ClipsAsImages:
        return ClipsAsImages(self.data.split(name), self.medium)


class ClipEmbedderAdapter:
    """A `ClipEmbedder` as an embedder of `ClipSource`s."""

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "embed_texts"):
            raise ConfigError(f"'{model.name}' embeds clips and no texts (expected a model of both)")
        self.model, self.name, self.fingerprint = model, model.name, model.fingerprint
        self.tokenizer, self.text_length = getattr(model, "tokenizer", None), getattr(model, "text_length", None)

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        unit: Unit = self.model.embed_clips(_clips(images))
        return unit

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        unit: Unit = self.model.embed_texts(texts, batch_size=batch_size)
        return unit


class ClipScorerAdapter(ClipEmbedderAdapter):
    """A `ClipScorer` as a scorer of pairs. views, crops: of a test, see `ClipScorer`."""

    def __init__(self, model: Any, *, views: int = 1, crops: int = 1) -> None:
        super().__init__(model)
        self.views, self.crops = views, crops

    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = self.model.score_clips(_clips(images), texts, views=self.views, crops=self.crops)
        return scores


def as_images(model: ClipScorer | ClipEmbedder, *, views: int = 1, crops: int = 1) -> ClipEmbedderAdapter:
    """Model of clips adapted to the protocols of images. Several views need a model that scores clips."""
    if isinstance(model, ClipScorer):
        return ClipScorerAdapter(model, views=views, crops=crops)
    if views * crops > 1:
        raise ConfigError(f"'{getattr(model, 'name', model)}' has vectors of clips and no scores (expected 1 view and 1 crop)")
    return ClipEmbedderAdapter(model)


def _clips(images: Sequence[ImageSource]) -> list[MediaItem]:
    return [image.clip for image in images if isinstance(image, ClipSource)]
