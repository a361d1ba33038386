"""What recipes over image-text pairs share: two towers, a tokeniser, square crops, one text an image a step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self

from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Recipe
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Text
from diptych.data.load.batch import PairBatch, pair_batch
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.outputs import Pairs, Tower
from diptych.models.towers.towers import image_tower, pools_last, text_tower

VOCABULARY_ROWS = 200_000
"""A vocabulary is learned from at most so many rows, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class PairRecipe(Recipe[DualEncoder, PairBatch, Pairs]):
    """A dual encoder over image-text pairs. Subclasses choose the loss.

    act          the activation of both towers: "gelu", "quick_gelu" (as OpenAI released CLIP), "gelu_tanh" (as SigLIP's code has it); None
                 takes each tower's own. A tower without such a choice (convolutions, transformers' or timm's) refuses one
    image_pool   how a vit_* tower becomes one vector: "class" token or "attention" (SigLIP's head); a dense_* one "class" or "mean"; None
                 takes the tower's own
    patch_bias   whether the patches of a vit_* tower get a bias; None takes the tower's own
    text_pooling  how a text becomes one vector: "eot", "mean", "last" (SigLIP), or "cls" for bert_* and hf:; None takes the tower's own
    tokenizer    "clip" (its 49,408 pieces), "data" (byte pairs learned from the training texts), or a path to a tokenizer.json
    pieces       vocabulary size when it is learned
    language     texts of this language or of an unknown one are drawn; "" draws from all
    crop         area of the random square crop, as shares of the image
    same_group   what another sample of the same group is to a sample: neither positive nor negative ("mask"), a further
                 "positive", or a "negative" as in the published losses
    """

    no_prefixes: ClassVar[str] = ""
    """Why its losses cannot be taken on prefixes of its features (`mrl`), in words; "" where they can."""

    image_tower: str = "vit_b32"
    text_tower: str = "text_clip"
    width: int = 512
    image_size: int = 224
    act: Literal["gelu", "quick_gelu", "gelu_tanh"] | None = None
    image_pool: Literal["class", "mean", "attention"] | None = None
    patch_bias: bool | None = None
    text_pooling: Literal["eot", "mean", "last", "cls"] | None = None
    text_length: int = 77
    tokenizer: str = "clip"
    pieces: int = 4096
    language: str = "en"
    crop: tuple[float, float] = (0.9, 1.0)
    flip: bool = False
    resize: Literal["crop", "squash", "pad"] = "crop"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    same_group: Literal["mask", "positive", "negative"] = "mask"
    vocabulary: str = field(default="", metadata={"prepared": True})

    def prepare(self, data: Dataset) -> Self:
        if self.tokenizer != "data" or self.vocabulary:
            return self
        texts = texts_of(data, self.language, stride=max(1, len(data) // VOCABULARY_ROWS))
        learned = Tokenizer.train((text.string for text in texts), self.pieces)
        return replace(self, vocabulary=learned.to_json())

    def words(self) -> Tokenizer:
        """The tokeniser in use."""
        if self.tokenizer == "data" and not self.vocabulary:
            raise ConfigError("tokenizer 'data' is learned from the data: call prepare(data) first")
        return _tokenizer(self.vocabulary or self.tokenizer)

    @property
    def preprocess(self) -> Preprocess:
        return Preprocess(self.image_size, self.mean, self.std, self.resize)

    @property
    def decode_size(self) -> int:
        return self.image_size

    def image_options(self) -> dict[str, Any]:
        """What the fields of this recipe ask of its image tower beside its name."""
        asked = {"act": self.act, "pool": self.image_pool, "patch_bias": self.patch_bias}
        return {"image_size": self.image_size, **{name: value for name, value in asked.items() if value is not None}}

    def text_options(self) -> dict[str, Any]:
        """What the fields of this recipe, and its tokeniser, ask of its text tower beside its name."""
        words = self.words()
        asked: dict[str, Any] = {"act": self.act, "pooling": self.text_pooling}
        if not self.text_tower.startswith(("hf", "bert")):  # those pool at the first token, or over all
            asked["eot_id"] = words.eot_id
            if pools_last(self.text_tower, self.text_pooling):
                asked["pad_id"] = words.pad_id
        given = {name: value for name, value in asked.items() if value is not None}
        return {"vocab_size": words.vocab_size, "length": self.text_length, **given}

    def towers(self) -> tuple[Tower, Tower]:
        return image_tower(self.image_tower, **self.image_options()), text_tower(self.text_tower, **self.text_options())

    def model(self) -> DualEncoder:
        image, text = self.towers()
        return DualEncoder(image, text, width=self.width)

    def batch(self, draws: Draws) -> PairBatch:
        return pair_batch(
            draws,
            preprocess=self.preprocess,
            tokenizer=self.words(),
            text_length=self.text_length,
            crop_scale=self.crop,
            flip=self.flip,
            language=self.language,
        )

    def features(self, model: DualEncoder, batch: PairBatch) -> Pairs:
        pairs: Pairs = model(batch.image_BCHW, batch.text_BL, batch.text_mask_BL)
        return pairs

    def metrics(self, features: Pairs, batch: PairBatch) -> dict[str, Tensor]:
        return {"scale": features.scale.detach()}

    def after_update(self, model: DualEncoder, features: Pairs, batch: PairBatch, progress: float) -> None:
        model.clamp_scale_()

    def deploy(self, model: DualEncoder) -> PairEmbedder:
        return PairEmbedder(model, self.preprocess, self.words(), self.text_length, name=self.slug)


def texts_of(data: Dataset, language: str, *, stride: int = 1) -> Iterator[Text]:
    """The positive texts of a data set in that language, from every `stride`-th row. None at all is refused."""
    found = False
    for row in range(0, len(data), stride):
        for text in data[row].positives(language):
            found = True
            yield text
    if not found:
        raise DataError(
            f"'{data.name}' has no text in language '{language}'",
            field="texts",
            expected="another --language, or '' for every language",
        )


@lru_cache(maxsize=8)
def _tokenizer(spec: str) -> Tokenizer:
    return Tokenizer.from_spec(spec)
