"""Captions from retrieved words: a picture is mapped into the embedding space of a language model, and the nearest words become
its prompt (SITTA, 2307.05591).

Letters: N images, V vocabulary, B batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import RunError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.core.prompt import PromptLike, single_image_requests
from diptych.data.media.decode import decode
from diptych.data.media.transforms import Preprocess
from diptych.data.text.prompts.layout import Piece, TextPiece, TokenPiece, lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.bridges.semantic_map import ImageOnlyEncoder, SemanticMap
from diptych.models.io.card import model_card
from diptych.models.io.folder import fingerprint, load_weights, parameters, read_config, write_model
from diptych.models.io.generation import require_room
from diptych.models.io.inference import evaluating, parts
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.packaged.hf_text import silence_transformers
from diptych.models.towers.towers import image_tower

IMAGES = "image_tower"
"""Kind of the subfolder that holds an image encoder without a text side."""


@dataclass(frozen=True, slots=True)
class WordPrompt:
    """Settings of the prompt that turns words into a caption.

    words     that stand in a prompt, the best first; they are taken from the `nearest` tokens, each spelling once
    orders    prompts a picture: the words by rank, then in random orders of `seed`, the same for every picture
    template  what follows the words, or a sentence with "{words}" where they go, for models that take instructions
    spaced    a space token stands after each word, as for GPT-J and LLaMA
    marks     tokens without letters count as words too, and in a sentence words stand as they are decoded, as in the released code
    stops     texts whose last token ends a caption, beside the end mark
    within    a stop also ends it that stands directly after a letter, which for LLaMA is another token
    """

    words: int = 8
    orders: int = 40
    template: str = "A picture of"
    spaced: bool = True
    nearest: int = 50
    seed: int = 101
    marks: bool = False
    stops: tuple[str, ...] = (".", "\n")
    within: bool = False


class WordCaptioner:
    """Answers `Generator` and `WordRanker`. `joint` chooses among the captions that the orders give, by cosine with the picture;
    where the map reads an image encoder without a text side (`ImageOnlyEncoder`), it is another model than that."""

    kind: ClassVar[str] = "word_writer"

    def __init__(
        self,
        model: SemanticMap,
        joint: PairEmbedder,
        vocabulary: LanguageVocabulary,
        prompt: WordPrompt,
        name: str,
        *,
        images: Preprocess | None = None,
        folder: str = "",
        card: dict[str, Any] | None = None,
    ) -> None:
        """images  how the encoder sees them; None: as `joint` does
        folder  where the language model came from, when it is not saved with the rest"""
        self.model, self.joint, self.vocabulary, self.prompt, self.name = model, joint, vocabulary, prompt, name
        self.preprocess, self.folder, self.card = images or joint.preprocess, folder, card or {}

    @cached_property
    def fingerprint(self) -> str:
        settings: dict[str, Any] = {"preprocess": self.preprocess.to_json(), "prompt": asdict(self.prompt)}
        if isinstance(self.model.joint, ImageOnlyEncoder):
            settings["judge"] = self.joint.fingerprint
        return fingerprint(self.model, settings)

    # ------------------------------------------------------------ words

    @cached_property
    def words(self) -> list[str]:
        """Every token of the vocabulary as a word: decoded, without spaces around it, in lower case. "" for marks."""
        decoder, marks = self.vocabulary.tokenizer.inner, self.prompt.marks
        return [decoder.decode([token], skip_special_tokens=not marks).strip().lower() for token in range(self.model.words)]

    def rank_words(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.int64]:
        """Tokens by how near they are to each picture, [N, V]."""
        batches = [np.zeros((0, self.model.words), np.int64)]
        with torch.no_grad(), evaluating(self.model):
            for some in parts(images, batch_size):
                batches.append(self.model.nearest_words(self._pixels(some)).cpu().numpy())
        return np.concatenate(batches)

    def chosen(self, ranked_V: npt.NDArray[np.int64]) -> list[int]:
        """The tokens of a prompt: of the nearest ones each spelling once."""
        by_word: dict[str, int] = {}
        for token in ranked_V[: self.prompt.nearest].tolist():
            word = self.words[token]
            if word or self.prompt.marks:
                by_word.setdefault(word, token)
        return list(by_word.values())[: self.prompt.words]

    def orders(self, tokens: Sequence[int]) -> list[list[int]]:
        """The tokens by rank, then in random orders."""
        rng = np.random.RandomState(self.prompt.seed)
        drawn = [[tokens[position] for position in rng.permutation(len(tokens))] for _ in range(self.prompt.orders - 1)]
        return [list(tokens), *drawn]

    # ------------------------------------------------------------ captions

    @one_or_many
    def generate(
        self,
        images: Sequence[ImageSource | None],
        prompts: Sequence[PromptLike],
        *,
        max_tokens: int = 67,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """A caption for each image. A prompt that is not "" stands in place of the template. `options` are transformers'."""
        requests = single_image_requests(images, prompts, model=self.name)
        captions = []
        ranked = self.rank_words([image for image, _ in requests])
        for (image, words), ranked_V in zip(requests, ranked, strict=True):
            written = self.written(self.chosen(ranked_V), words, max_tokens=max_tokens, batch_size=batch_size, **options)
            captions.append(self.best(image, written))
        return captions

    def written(
        self, tokens: Sequence[int], asked: str = "", *, max_tokens: int = 67, batch_size: int = 64, **options: Any
    ) -> list[str]:
        """Distinct captions generated from every order of these tokens, sorted, without empty ones."""
        rows = [self._row(order, asked or self.prompt.template) for order in self.orders(tokens)]
        ends = self._ends()
        language, device, captions = self.model.language, self.model.map.mean_D.device, set[str]()
        with torch.no_grad(), evaluating(self.model):
            for some in parts(rows, batch_size):
                layout = lay_out(some, self.vocabulary, side="left").to(device)
                require_room(
                    int(layout.id_BL.shape[1]),
                    max_tokens,
                    language.context_length,
                    source="words and prompt",
                    model=f"the language model of '{self.name}'",
                )
                embed_BLD = language.embed(layout.id_BL)
                captions |= set(language.write(embed_BLD, layout, self.vocabulary, max_tokens=max_tokens, ends=ends, **options))
        return sorted(captions - {""})

    def _ends(self) -> list[int]:
        """The tokens that end a caption."""
        inner = self.vocabulary.tokenizer.inner
        ends = [ids[-1] for stop in self.prompt.stops if (ids := self.vocabulary.pieces(stop))]
        for stop in self.prompt.stops if self.prompt.within else ():
            last = self.vocabulary.pieces("a" + stop)[-1:]
            ends += [token for token in last if token not in ends and inner.decode([token]).strip(" ") == stop]
        return ends

    def best(self, image: ImageSource, captions: Sequence[str]) -> str:
        """The caption that is nearest to the picture in the joint space, of equal ones the first; "" if there is none."""
        if len(captions) < 2:
            return "".join(captions)
        image_1D = self.joint.embed_images([image])
        return captions[int((self.joint.embed_texts(captions) @ image_1D[0]).argmax())]

    def _row(self, tokens: Sequence[int], template: str) -> list[Piece]:
        if "{words}" in template:
            decoder, marks = self.vocabulary.tokenizer.inner, self.prompt.marks
            decoded = [decoder.decode([token], skip_special_tokens=not marks) for token in tokens]
            listed = " ".join(word if marks else word.strip() for word in decoded)
            return [TextPiece(template.replace("{words}", listed))]
        space = tuple(self.vocabulary.pieces(" ")) if self.prompt.spaced else ()
        return [TokenPiece(tuple(token for word in tokens for token in (word, *space)), picture=True), TextPiece(template)]

    def _pixels(self, images: Sequence[ImageSource]) -> Tensor:
        return self.preprocess([decode(image, exact=True) for image in images]).to(self.model.map.mean_D.device)

    # ------------------------------------------------------------ kept

    def save(self, folder: Path) -> None:
        """Write config.json, model.safetensors with map and statistics, tokenizer.json; the joint model in `joint`, an image
        encoder alone in `images`, the language model in `language` unless it has a folder of its own, which is then identified by
        the hash of its weights."""
        config: dict[str, Any] = {
            "kind": self.kind,
            "name": self.name,
            "features": self.model.joint.width,
            "words": self.model.words,
            "prompt": asdict(self.prompt),
            "start": bool(self.vocabulary.start_ids),
            **({"start_behind": True} if self.vocabulary.start_behind else {}),
            **({"end_starts": True} if self.vocabulary.end_starts else {}),
            **({"closes": True} if self.vocabulary.close_ids else {}),
            "language_folder": self.folder,
            "preprocess": self.preprocess.to_json(),
            "card": {"description": "Writes about an image by the words that lie nearest to it.", **self.card},
        }
        if self.folder:
            config["language_hash"] = fingerprint(self.model.language, {})

        def language(work: Path) -> None:
            if not self.folder:
                with silence_transformers():
                    self.model.language.inner.save_pretrained(work / "language")

        def images(work: Path) -> None:
            if isinstance(self.model.joint, ImageOnlyEncoder):
                spec = {"kind": IMAGES, "tower": self.model.joint.image_tower.spec}
                write_model(work / "images", self.model.joint.image_tower, spec, f"The image encoder of {self.name}.\n")

        readme = model_card(self.name, config, parameters(self.model))
        more = (self.vocabulary.tokenizer.save, lambda work: self.joint.save(work / "joint"), images, language)
        write_model(folder, self.model.map, config, readme, *more)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load from a folder that `save` wrote. Raises RunError if the separate language model folder has changed."""
        config = read_config(folder, cls.kind)
        away = config["language_folder"]
        joint = PairEmbedder.load(folder / "joint")
        language = LanguageModel.from_folder(away or folder / "language")
        if away and fingerprint(language, {}) != config["language_hash"]:
            raise RunError(f"{away} holds another language model than the one that '{config['name']}' was made for")
        model = SemanticMap(_images_alone(folder / "images") or joint.model, language, words=config["words"])
        load_weights(model.map, folder)
        marks = {name: config.get(name, False) for name in ("start", "start_behind", "end_starts", "closes")}
        vocabulary = LanguageVocabulary(Tokenizer.load(folder), **marks)
        settings = {**config["prompt"], "stops": tuple(config["prompt"]["stops"])}
        images = Preprocess.from_json(config["preprocess"])
        prompt = WordPrompt(**settings)
        return cls(model.eval(), joint, vocabulary, prompt, config["name"], images=images, folder=away, card=config.get("card"))


def _images_alone(folder: Path) -> ImageOnlyEncoder | None:
    """The image encoder of a folder, None if there is none. Leaves the torch random state unchanged."""
    if not folder.is_dir():
        return None
    with torch.random.fork_rng(devices=[]):
        tower = image_tower(**read_config(folder, IMAGES)["tower"])
    load_weights(tower, folder)
    return ImageOnlyEncoder(tower.eval())
