"""Shared by recipes over two frozen encoders: features of every image and text, computed once and cached by fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Recipe
from diptych.core.disk.cache import cache_folder
from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.rows import Rows
from diptych.data.load.batch import TensorBatch, group_ids
from diptych.data.load.features import FeatureTable, Vectors
from diptych.data.text.captions.variants import UNIFORM, TextDraw
from diptych.models.io import weights
from diptych.models.io.open_address import weights_mtime
from diptych.recipes._shared.pairs import F, M, positive_texts, strings_of


@dataclass(frozen=True)
class FeatureBatch(TensorBatch):
    """Features of B pairs: image_BD of the image encoder, text_BE of the text encoder, group ids."""

    image_BD: Rows[Tensor]
    text_BE: Rows[Tensor]
    group_B: Rows[Tensor]


@dataclass(frozen=True, kw_only=True)
class FrozenPairRecipe(Recipe[M, FeatureBatch, F]):
    """Two trained encoders that stay as they are. Subclasses choose what is learned on top of their features.

    image_encoder, text_encoder   an encoder that comes in a package, or the address of a model: a run or model folder of a dual encoder,
                   hf:FOLDER, open_clip:ARCH/FILE, for images timm:NAME/FILE. It is read where it lies, now and whenever the model is opened
    encoder_size   side of the images that a packaged image encoder gets, in pixels; the default trades a little quality for speed. A model
                   at an address has its own
    text_length    tokens that a text encoder reads at most; a dual encoder at an address has its own
    language       texts of this language or of an unknown one; "" takes all
    text_draw      which of several texts of an image a step reads: `TextDraw`, whose fields are options of their own
    """

    image_encoder: str = "efficientnet-lite0"
    text_encoder: str = "minilm-l6"
    encoder_size: int = 112
    text_length: int = 64
    language: str = "en"
    text_draw: TextDraw = UNIFORM
    data_fingerprint: str = field(default="", metadata={"prepared": True})

    def prepare(self, data: Dataset) -> Self:
        """Encode what is not encoded yet. The features lie in the cache folder and are found again by fingerprint."""
        prepared = replace(self, data_fingerprint=data.fingerprint)
        images, texts = self.encoders()
        texts_of = partial(positive_texts, language=self.language)
        strings = list(dict.fromkeys(strings_of(data, texts_of, language=self.language)))
        uids = list(data.uids)
        digests: list[bytes] = []  # what each image is known by, in the order of uids: an image is opened once

        def encode(rows: Sequence[int]) -> Vectors:
            sources = [_image(data, row) for row in rows]
            digests.extend(map(weights.image_digest, sources))
            return images.encode_images(sources)

        table(prepared, "images", uids, encode, digests=digests)
        table(
            prepared,
            "texts",
            strings,
            lambda rows: texts.encode_texts([strings[row] for row in rows]),
            digests=list(map(weights.text_digest, strings)),
        )
        return prepared

    def encoders(self) -> tuple[weights.FrozenImageEncoder, weights.FrozenTextEncoder]:
        when = weights_mtime(self.image_encoder), weights_mtime(self.text_encoder)
        return _encoders(self.image_encoder, self.encoder_size, self.text_encoder, self.text_length, when)

    @property
    def decode_size(self) -> None:
        """Batches are made of features: images are not decoded."""
        return None

    def batch(self, draws: Draws) -> FeatureBatch:
        """The features of each image and of one of its texts."""
        image_BD = table(self, "images").rows([draw.sample.uid for draw in draws])
        text_BE = table(self, "texts").rows([self.text_draw(draw, self.language).string for draw in draws])
        return FeatureBatch(torch.from_numpy(image_BD), torch.from_numpy(text_BE), group_ids(draws))


def table(
    recipe: FrozenPairRecipe,
    side: str,
    keys: Sequence[str] = (),
    encode: Callable[[Sequence[int]], Vectors] | None = None,
    *,
    digests: Sequence[bytes] | None = None,
) -> FeatureTable:
    """The features of one side, "images" by uid or "texts" by string; computed first where `encode` is given and they are not there.
    By `digests`, which `encode` may fill in, other commands find the features."""
    images, texts = recipe.encoders()
    encoder = images if side == "images" else texts
    name = f"{recipe.data_fingerprint}-{recipe.language or 'all'}{weights.table_suffix(encoder, side)}"
    folder = cache_folder() / "features" / name
    if encode is None:
        return _opened(str(folder))
    return FeatureTable.open_or_make(folder, keys, encode, what=f"features of {side}", digests=digests)


@lru_cache(maxsize=4)
def _opened(folder: str) -> FeatureTable:
    return FeatureTable(Path(folder))


@lru_cache(maxsize=2)
def _encoders(
    image: str, size: int, text: str, length: int, when: object
) -> tuple[weights.FrozenImageEncoder, weights.FrozenTextEncoder]:
    """`when` they were written, which a name alone does not say."""
    return weights.image(image, image_size=size), weights.text(text, length=length)


def _image(data: Dataset, row: int) -> ImageSource:
    sample = data[row]
    if sample.image is None:
        raise DataError("the sample has no image", file=data.name, row=row, field="image", expected="an image for every sample")
    return sample.image
