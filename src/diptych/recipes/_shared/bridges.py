"""What recipes share that put an image encoder before a language model.

Letters: B batch, C channel, H W, L places.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from diptych.core.contracts import Dataset, Draws, Recipe, Stage
from diptych.core.errors import ConfigError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch, choose_text, view
from diptych.data.media.transforms import OPENAI_MEAN, OPENAI_STD, Preprocess
from diptych.data.text.layout import Layout, lay_out
from diptych.data.text.template import Template
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.bridge import Bridge, Written
from diptych.models.bridges.connectors import connector
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.writer import BridgeWriter
from diptych.models.io.opened import open_address
from diptych.models.towers.outputs import Tower
from diptych.models.towers.towers import image_tower
from diptych.objectives.language.answers import Per, answer_loss
from diptych.recipes._shared.pairs import VOCABULARY_ROWS, positives, strings_of
from diptych.recipes._shared.vocabulary import learned_vocabulary, tokenizer_of

SMALL_LANGUAGE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
"""A language model that learns the texts of a small data set in minutes: 0.45 million parameters beside its vocabulary."""


@dataclass(frozen=True)
class BridgeBatch(TensorBatch):
    """Images, and rows of a language model that end in what it is to write. Without images in a phase that trains words alone."""

    image_BCHW: Rows[Tensor] | None
    id_BL: Rows[Tensor]
    slot_BL: Rows[Tensor]
    mask_BL: Rows[Tensor]
    answer_BL: Rows[Tensor]
    truncated: int = 0

    @property
    def layout(self) -> Layout:
        return Layout(self.id_BL, self.slot_BL, self.mask_BL, self.answer_BL, self.truncated)


@dataclass(frozen=True, kw_only=True)
class BridgeRecipe(Recipe[Bridge, BridgeBatch, Written]):
    """A frozen image encoder, a connector that is trained, a frozen language model. Subclasses choose the connector and the template.

    image_tower   by name, with fresh weights; or `image_weights`: the address of a trained model whose image tower it is (a run of clip,
                  hf:, open_clip:, timm:), with that model's image settings
    language_model  "hf:FOLDER" of transformers, causal or sequence-to-sequence; "" trains a small one on the texts of the data first, for
                  `words_share` of the steps and at rate `words_lr`, with the phrases of each text in another order before it
    template      what stands before the answer, "{image}" and "{prompt}" where they go; `space` stands between it and the answer
    start         whether a start mark stands before the picture; none: as the language model's tokenizer has it
    per           the loss is the mean over "token"s of the batch, or over the tokens of a "row" first
    blind         features are zeros: what the language model writes without seeing. A control
    match_norms   a fresh connector starts with tokens of the norm of words (`models.bridges.splice.norm_ratio`); the releases leave it
                  as it comes, which beside small embeddings can be thirty times as large
    """

    needs = ("image", "texts")
    presets = ("tiny", "paper")
    trained: ClassVar[tuple[str, ...]] = ("connector",)

    image_tower: str = "vit_b32"
    image_weights: str = ""
    language_model: str = ""
    template: str = "A picture of"
    space: str = " "
    start: bool | None = None
    per: Per = "token"
    blind: bool = False
    match_norms: bool = False
    image_size: int = 224
    resize: Literal["crop", "squash", "pad"] = "crop"
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    crop: tuple[float, float] = (1.0, 1.0)
    flip: bool = False
    language: str = "en"
    text_length: int = 128
    pieces: int = 4096
    words_share: float = 0.5
    words_lr: float = 1e-3
    vocabulary: str = field(default="", metadata={"prepared": True})
    slots: int = field(default=0, metadata={"prepared": True})
    phase: str = field(default="", metadata={"prepared": True})

    @property
    def measured_by(self) -> str:
        return "captions"

    @property
    def written_after(self) -> str:
        """The template of use, where it differs from that of training."""
        return self.template

    @abstractmethod
    def connector_spec(self) -> dict[str, Any]:
        """The connector by kind and options (`models.bridges.connectors.connector`)."""

    # ------------------------------------------------------------ data

    def prepare(self, data: Dataset) -> Self:
        """Learns the vocabulary, where there is no language model yet, and counts the tokens that a picture becomes."""
        prepared = self
        if self.image_weights:
            prepared = replace(prepared, image_size=_trained(self.image_weights)[1].size)
        if not self.language_model and not self.vocabulary:
            prepared = replace(prepared, vocabulary=self.learned(data, more=(self.template,)))
        return replace(prepared, slots=prepared._slots())

    def learned(self, data: Dataset, *, more: Sequence[str] = ()) -> str:
        """A vocabulary of the texts of the data, evenly spaced rows of it where there are many."""
        texts = strings_of(data, self.texts_of, stride=max(1, len(data) // VOCABULARY_ROWS), language=self.language)
        return learned_vocabulary([*texts, *more], self.pieces)

    def texts_of(self, sample: Sample) -> list[str]:
        """What of a sample is read and written."""
        return positives(sample, self.language)

    def _slots(self) -> int:
        """K, by one image through a tower without memory."""
        with torch.device("meta"):
            tower = image_tower(**_trained(self.image_weights)[0].spec) if self.image_weights else self._fresh_encoder()
            spec = self.connector_spec()
            made: Any = connector(spec.pop("kind"), tower.token_width, 8, **spec)
            patches = tower(torch.zeros(1, 3, self.image_size, self.image_size)).tokens_BPD.shape[1]
        count: int = made.count(patches)
        return count

    def _fresh_encoder(self) -> Tower:
        return image_tower(self.image_tower, image_size=self.image_size)

    def words(self) -> LanguageVocabulary:
        if self.language_model:
            return LanguageVocabulary(_tokenizer(str(_folder(self.language_model))), start=self.start)
        return LanguageVocabulary(tokenizer_of("data", self.vocabulary), start=self.start)

    @property
    def preprocess(self) -> Preprocess:
        if self.image_weights:
            return _trained(self.image_weights)[1]
        return Preprocess(self.image_size, self.mean, self.std, self.resize)

    @property
    def decode_size(self) -> int | None:
        return None if self.phase == "words" else self.image_size

    def batch(self, draws: Draws) -> BridgeBatch:
        texts = [choose_text(draw, self.language).string for draw in draws]
        template, vocabulary = Template(self.template), self.words()
        if self.phase == "words":
            most = self.text_length // 3
            before = [shuffled(text, draw.rng, most=most) + " :" for text, draw in zip(texts, draws, strict=True)]
            rows = [Template().pieces(0, words, self.space + text) for words, text in zip(before, texts, strict=True)]
            image_BCHW = None
        else:
            rows = [template.pieces(self.slots, "", self.space + text) for text in texts]
            image_BCHW = self.preprocess([view(draw, self.image_size, self.crop, self.flip) for draw in draws])
        laid = lay_out(rows, vocabulary, length=self.text_length, names=[draw.sample.uid for draw in draws])
        return BridgeBatch(image_BCHW, laid.id_BL, laid.slot_BL, laid.mask_BL, laid.answer_BL, laid.truncated)

    # ------------------------------------------------------------ model

    def model(self) -> Bridge:
        words = self.words()
        if self.language_model:
            language = LanguageModel.from_folder(_folder(self.language_model))
        else:
            ids = {"bos_token_id": words.tokenizer.sot_id, "eos_token_id": words.end_id, "pad_token_id": words.pad_id}
            language = LanguageModel(config={**SMALL_LANGUAGE, "vocab_size": words.tokenizer.vocab_size, **ids})
        encoder = copy.deepcopy(_trained(self.image_weights)[0]) if self.image_weights else self._fresh_encoder()
        spec = self.connector_spec()
        made = connector(spec.pop("kind"), encoder.token_width, language.width, **spec)
        trained = ("language",) if self.phase == "words" else self.trained
        bridge = Bridge(encoder, made, language, trained=trained, blind=self.blind)
        if self.match_norms:
            bridge.match_norms_(torch.randn(4, 3, self.image_size, self.image_size))
        return bridge

    def features(self, model: Bridge, batch: BridgeBatch) -> Written:
        written: Written = model(batch.image_BCHW, batch.layout)
        return written

    def losses(self, features: Written, batch: BridgeBatch) -> dict[str, Tensor]:
        return {"answer": answer_loss(features.nll_B, features.count_B, per=self.per)}

    def metrics(self, features: Written, batch: BridgeBatch) -> dict[str, Tensor]:
        hits = features.hit_B.sum() / features.count_B.sum().clamp_min(1)
        return {"token_accuracy": hits.detach(), "norm_ratio": features.ratio.mean().detach()}

    def deploy(self, model: Bridge) -> BridgeWriter:
        return BridgeWriter(
            model,
            self.preprocess,
            self.words(),
            Template(self.written_after),
            self.slug,
            connector=self.connector_spec(),
            length=model.language.places,
            space=self.space,
            folder=str(_folder(self.language_model)) if self.language_model else "",
        )

    def stored(self, name: str) -> bool:
        """A language model from a folder, and an encoder from another run, are loaded again and not kept in checkpoints."""
        away = (("language.", self.language_model), ("encoder.", self.image_weights))
        return not any(name.startswith(part) and source for part, source in away)

    def stages(self) -> Sequence[Stage]:
        """Words alone first, where there is no language model yet; then the picture."""
        if self.language_model or self.phase:
            return ()
        words = replace(self, phase="words", lr=self.words_lr, per="token")
        return (
            Stage("words", words, self.words_share),
            Stage("picture", replace(self, phase="picture"), 1 - self.words_share),
        )


_SMALL = (
    "a an the this that these those of in on at to by from with for and or but as is are was were be been being has have had it its "
    "there here which who whose while"
)
SMALL_WORDS = frozenset(_SMALL.split())
"""Where a text is cut into phrases."""


def shuffled(text: str, rng: np.random.Generator, *, most: int, alone: float = 0.15) -> str:
    """The phrases of a text in a random order, `most` words at most, small words left out: what a language model learns to read before
    it writes, so that it heeds what stands before, as a picture later will. Words of a phrase stay together, so that what is red is still
    known. For a share `alone` of the texts nothing."""
    phrases: list[list[str]] = [[]]
    for word in text.split():
        if word.lower() in SMALL_WORDS:
            phrases.append([])
        else:
            phrases[-1].append(word)
    phrases = [phrase for phrase in phrases if phrase]
    order = rng.permutation(len(phrases))
    words = [word for place in order for word in phrases[place]][:most]
    return "" if rng.random() < alone else " ".join(words)


def _folder(address: str) -> Path:
    folder = Path(address.removeprefix("hf:")).expanduser()
    if not (folder / "config.json").is_file():
        raise ConfigError(f"language_model is {address!r} (expected hf:FOLDER, a folder of transformers with config.json, or '')")
    return folder


@lru_cache(maxsize=4)
def _tokenizer(folder: str) -> Tokenizer:
    return Tokenizer.load(Path(folder))


@lru_cache(maxsize=2)
def _trained(address: str) -> tuple[Tower, Preprocess]:
    """The image tower of a trained model, and how it sees images."""
    opened: Any = open_address(address)
    tower = getattr(getattr(opened, "model", None), "image_tower", None)
    if not isinstance(tower, Tower):
        raise ConfigError(
            f"image_weights is {address!r}, which holds no image tower (expected the run of a dual encoder, such as clip)"
        )
    return tower.eval(), opened.preprocess
