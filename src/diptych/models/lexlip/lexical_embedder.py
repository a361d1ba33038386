"""Inference with a trained `LexicalEncoder`: term weights of pictures and texts; saved as one folder.

Letters: B batch, L tokens, P positions, D width, V vocabulary, W sets of weighted words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.inputs import image_of, one_or_many
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.data.text.tokens.whole_words import empty_text_reasons, term_names
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.inference import parts
from diptych.models.layers.transformer import l2_normalise
from diptych.models.lexlip.lexical_encoder import LexicalEncoder, lexical_weights
from diptych.models.pairs.embedder import Embedding
from diptych.models.towers.towers import image_tower, text_tower

SIZE = 64  # pictures or texts at a time: [64, V] weights


class LexicalModel(Embedding):
    """`LexicalEmbedder` that returns term weights, and `Embedder` that returns them as unit vectors over the whole vocabulary.

    terms  number of terms with the largest weights that are kept per picture and text; 0 keeps all. Only
           `embed_images` and `embed_texts` normalise the kept weights again

    A text without a token or without a word of the vocabulary is refused, not searched with its start and end tokens.
    """

    kind: ClassVar[str] = "lexical_encoder"
    model: LexicalEncoder
    tokenizer: Tokenizer

    def __init__(
        self,
        model: LexicalEncoder,
        preprocess: Preprocess,
        tokenizer: Tokenizer,
        text_length: int,
        name: str,
        *,
        bf16: bool = False,
        card: Mapping[str, Any] | None = None,
        terms: int = 0,
    ) -> None:
        super().__init__(model, preprocess, tokenizer, text_length, name, bf16=bf16)
        if terms < 0:
            raise ConfigError(f"terms is {terms} (expected 0 for all words, or how many)")
        self.card, self.terms = dict(card or {}), terms

    @cached_property
    def fingerprint(self) -> str:
        settings = {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "terms": self.terms}
        return fingerprint(self.model, settings)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the word of each entry of a vector."""
        return term_names(self.tokenizer)

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def keeping(self, terms: int) -> Self:
        """Return the same model that keeps only this many terms per picture and text. Shares the towers."""
        return type(self)(
            self.model,
            self.preprocess,
            self.tokenizer,
            self.text_length,
            f"{self.name}/{terms}" if terms else self.name,
            bf16=self.bf16,
            card=self.card,
            terms=terms,
        )

    # ------------------------------------------------------------ words

    @one_or_many
    def lexicalise_images(self, images: Sequence[ImageSource]) -> list[dict[str, float]]:
        """Return the words of each picture with their weights, largest first; empty if no word has a weight."""
        return [words for part in self._image_blocks(images, SIZE) for words in self._named(part)]

    @one_or_many
    def lexicalise_texts(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Return the words of each text with their weights, largest first.
        Raises DataError for a text without a word of the vocabulary.
        """
        return [words for part in self._text_blocks(texts, SIZE) for words in self._named(part)]

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        return self._rows([l2_normalise(part) for part in self._image_blocks(images, batch_size)])

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return self._rows([l2_normalise(part) for part in self._text_blocks(texts, batch_size)])

    def map_words(self, image: ImageSource, weights: Sequence[Mapping[str, float]]) -> npt.NDArray[np.float32]:
        """Return a heat map per set of weighted words, [W, rows, columns]: term weights of each patch times those of the words.

        Raises UnknownName for a word that is not in the vocabulary.
        """
        terms = sorted({term for one in weights for term in one})
        for term in terms:
            if term not in self._number_of:
                raise UnknownName("word of the vocabulary", term, self.names)
        with self._ready() as device:
            head, output = self.model.image_head, self.model.image_tower(self._pixels([image_of(image)]).to(device))
            number_T = torch.tensor([self._number_of[term] for term in terms], dtype=torch.int64, device=device)
            logit_PT = head.transformed(output.tokens_BPD[0]) @ head.words.weight[number_T].T + head.words.bias[number_T]
            weight_PT = lexical_weights(logit_PT).float().cpu().numpy()
        side = math.isqrt(len(weight_PT))
        if side * side != len(weight_PT):
            raise ConfigError(f"the {len(weight_PT)} patches of '{self.name}' do not form a square")
        factor_WT = np.array([[one.get(term, 0.0) for term in terms] for one in weights], np.float32).reshape(
            len(weights), len(terms)
        )
        return np.asarray(factor_WT @ weight_PT.T, np.float32).reshape(len(weights), side, side)

    # ------------------------------------------------------------ inside

    def _image_blocks(self, images: Sequence[ImageSource], size: int) -> Iterator[Tensor]:
        return self._blocks(images, size, lambda part: (self._pixels(part),), self.model.image_weights)

    def _text_blocks(self, texts: Sequence[str], size: int) -> Iterator[Tensor]:
        return self._blocks(texts, size, self._ids, self.model.text_weights)

    def _blocks(
        self,
        items: Sequence[Any],
        size: int,
        read: Callable[[Sequence[Any]], tuple[Tensor, ...]],
        weigh: Callable[..., Tensor],
    ) -> Iterator[Tensor]:
        """Yield weights [B, V] batch by batch, with only the kept words."""
        for part in parts(items, size):
            with self._ready() as device:
                weight_BV = weigh(*(tensor.to(device) for tensor in read(part)))
            yield top_entries(weight_BV, self.terms)

    def _pixels(self, images: Sequence[ImageSource]) -> Tensor:
        return self.preprocess([decode(image, exact=True) for image in images])

    def _ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        encoded = self.tokenizer.encode(list(texts), self.text_length)
        for text, problem in zip(texts, empty_text_reasons(self.tokenizer, encoded.ids_BL, encoded.mask_BL), strict=True):
            if problem:
                raise DataError(
                    f"the text {text[:60]!r} {problem} of '{self.name}'", expected="a text in the language of the model"
                )
        self.truncated += encoded.truncated
        longest = int(encoded.mask_BL.sum(1).max())
        return torch.from_numpy(encoded.ids_BL[:, :longest]), torch.from_numpy(encoded.mask_BL[:, :longest])

    def _named(self, weight_BV: Tensor) -> list[dict[str, float]]:
        weights = []
        for row_V in weight_BV.float().cpu().numpy():
            number_T = np.flatnonzero(row_V)
            number_T = number_T[np.argsort(-row_V[number_T], kind="stable")]
            weights.append({self.names[number]: float(row_V[number]) for number in number_T})
        return weights

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors, tokenizer.json, README.md, replacing the whole folder."""
        model = self.model
        config = {
            "kind": self.kind,
            "name": self.name,
            "image_tower": model.image_tower.spec,
            "text_tower": model.text_tower.spec,
            "class_token": model.class_token,
            "width": model.width,
            "preprocess": self.preprocess.to_json(),
            "text_length": self.text_length,
            "terms": self.terms,
            "card": self.card,
        }
        write_model(folder, model, config, model_card(self.name, config, parameters(model)), self.tokenizer.save)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Leaves torch's random state unchanged."""
        config = read_config(folder, cls.kind)
        with torch.random.fork_rng(devices=[]):
            towers = image_tower(**config["image_tower"]), text_tower(**config["text_tower"])
            model = LexicalEncoder(*towers, class_token=config["class_token"])
        load_weights(model, folder)
        preprocess, tokenizer = Preprocess.from_json(config["preprocess"]), Tokenizer.load(folder)
        length, terms = config["text_length"], config.get("terms", 0)
        return cls(model.eval(), preprocess, tokenizer, length, config["name"], card=config.get("card"), terms=terms)


def top_entries(weight_BV: Tensor, count: int) -> Tensor:
    """Keep only the `count` largest entries of each row (0 keeps all); ties at the cut-off keep the first words."""
    if not 0 < count < weight_BV.shape[1]:
        return weight_BV
    place_BT = weight_BV.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(weight_BV).scatter_(1, place_BT, weight_BV.gather(1, place_BT))
