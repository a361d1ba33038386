"""Shared by recipes that adapt a trained dual encoder: where it is loaded from, and features that are computed once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from diptych.core.config import config_hash
from diptych.core.contracts import Dataset, Recipe, Unit
from diptych.core.disk.cache import cache_folder
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.data.load.features import FeatureTable
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.io.open_address import open_address, weights_mtime
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.recipes._shared.pairs import B, F, M
from diptych.recipes._shared.texts.vocabulary import learned_vocabulary, tokenizer_of


@dataclass(frozen=True, kw_only=True)
class AdaptedEncoderRecipe(Recipe[M, B, F]):
    """Adapts a dual encoder that is there already.

    weights     the model that is adapted: a run or model folder, hf:FOLDER, open_clip:ARCH/FILE; its towers, tokenizer, text length and
                image settings are used. "": fresh towers of the names below, for trying things out
    image_tower, patch, text_tower, width, image_size, text_length, tokenizer, pieces  of fresh
                towers; patch 0: its own; "data" learns a vocabulary from the class names
    decoding    in training: "whole" pictures, as published code reads them, or JPEG files "reduced" to the least size that is at least
                the model's
    """

    weights: str = ""
    image_tower: str = "vit_b16"
    patch: int = 0
    text_tower: str = "text_clip"
    width: int = 512
    image_size: int = 224
    text_length: int = 77
    tokenizer: str = "clip"
    pieces: int = 4096
    decoding: Literal["reduced", "whole"] = "reduced"
    vocabulary: str = field(default="", metadata={"prepared": True})

    def started(self, model: Any) -> Self:
        """Refuses: `--init` brings tensors, and this recipe needs the whole model."""
        raise ConfigError(f"recipe '{self.slug}' needs the model that it adapts as --weights, not --init")

    def base(self) -> PairEmbedder:
        """The model that is adapted, with a module of its own that may be trained. Fresh towers draw from the torch random state."""
        if self.weights:
            opened = adapted_model(self.weights)
            module = copy.deepcopy(opened.model)
            return PairEmbedder(module, opened.preprocess, opened.tokenizer, opened.text_length, opened.name)
        words = tokenizer_of(self.tokenizer, self.vocabulary)
        options: dict[str, Any] = {"vocab_size": words.vocab_size, "length": self.text_length, "eot_id": words.eot_id}
        options |= {"causal": True, "pooling": "eot"}  # CLIP's, whatever the small towers have
        image = image_tower(self.image_tower, image_size=self.image_size, **({"patch": self.patch} if self.patch else {}))
        encoder = DualEncoder(image, text_tower(self.text_tower, **options), width=self.width)
        return PairEmbedder(encoder, Preprocess(self.image_size), words, self.text_length, self.slug)

    def words(self) -> Tokenizer:
        """The tokeniser in use."""
        return adapted_model(self.weights).tokenizer if self.weights else tokenizer_of(self.tokenizer, self.vocabulary)

    @property
    def read_length(self) -> int:
        """Tokens that the text side reads at most."""
        return adapted_model(self.weights).text_length if self.weights else self.text_length

    @property
    def preprocess(self) -> Preprocess:
        return adapted_model(self.weights).preprocess if self.weights else Preprocess(self.image_size)

    @property
    def decode_size(self) -> int | None:
        return 0 if self.decoding == "whole" else self.preprocess.size

    def with_vocabulary(self, texts: Iterable[str]) -> Self:
        """With a vocabulary of these texts, where it is to be learned and is not there yet."""
        if self.weights or self.tokenizer != "data" or self.vocabulary:
            return self
        return replace(self, vocabulary=learned_vocabulary(texts, self.pieces))


def adapted_model(address: str) -> PairEmbedder:
    """The model at an address, opened once a process unless its files change. It is shared: copy its module before training it."""
    return _opened(address, weights_mtime(address))


@lru_cache(maxsize=2)
def _opened(address: str, when: tuple[int, ...]) -> PairEmbedder:
    opened = open_address(address)
    if not isinstance(opened, PairEmbedder) or opened.kind != PairEmbedder.kind:
        what = getattr(opened, "kind", type(opened).__name__)
        raise ConfigError(f"weights is {address!r}, a model of kind {what} (expected a dual encoder, such as a run of clip)")
    opened.model.float()  # whatever torch makes by default just now
    return opened


def image_features(data: Dataset, address: str, uids: Sequence[str]) -> FeatureTable:
    """The unit vectors of these images by the model at an address, computed where they are not in the cache yet."""
    row_of = {uid: row for row, uid in enumerate(data.uids)}
    model = adapted_model(address)

    def encode(indices: Sequence[int]) -> Unit:
        return model.embed_images([_image(data, row_of[uids[index]]) for index in indices])

    return FeatureTable.open_or_make(
        features_folder(data.fingerprint, address, uids), list(uids), encode, what="features of images"
    )


def features_folder(data: str, address: str, uids: Sequence[str]) -> Path:
    """Where the cache holds them; `data` is the fingerprint of the data set."""
    return (
        cache_folder() / "features" / f"{data}-adapted-{adapted_model(address).fingerprint[:16]}-{config_hash(list(uids))[:16]}"
    )


@lru_cache(maxsize=4)
def opened_features(folder: str) -> FeatureTable:
    return FeatureTable(Path(folder))


def _image(data: Dataset, row: int) -> ImageSource:
    sample = data[row]
    if sample.image is None:
        raise DataError("the sample has no image", file=data.name, row=row, field="image", expected="an image for every sample")
    return sample.image
