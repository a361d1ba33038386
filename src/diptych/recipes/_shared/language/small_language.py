"""A small language model that learns the texts of a data set once and is kept in the cache, for bridges that are given no other.

It learns to write what stands before it announces: the phrases of a caption in any order, then the caption; the same phrases, then
questions about them and their answers, one after another. One that learned captions alone heeds nothing before them, a picture neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.contracts import Dataset, Optimiser
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.terminal.progress import with_bar
from diptych.data.text.prompts.layout import Piece, TextPiece, lay_out
from diptych.data.text.prompts.template import Template
from diptych.data.text.question_answering.questions import Question, questions_of
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.towers.packaged.hf_text import silence_transformers
from diptych.recipes._shared.cached_models import cached_model, steps_within_passes
from diptych.recipes._shared.pairs import positive_texts
from diptych.train.optimise import build_optimiser, clip, learning_rate, set_learning_rate
from diptych.worlds.address import open_data, training_rows

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
"""0.44 million parameters beside its vocabulary."""
FORMAT, ROWS = 2, 20_000
"""Of a larger data set so many rows are read, evenly spaced."""
ALONE, ASKED, COLON = 0.15, 0.6, 0.5
"""Shares of the texts that are learned with nothing before them, of rows with questions that are asked them, of phrases with a colon."""


@dataclass(frozen=True, slots=True)
class SmallLanguage:
    """Training of a small language model: `steps` of `batch_size` texts of at most `length` tokens, vocabulary of `pieces`.
    On few rows steps end after `cached_models.PASSES` passes."""

    steps: int = 2500
    batch_size: int = 32
    lr: float = 2e-3
    pieces: int = 512
    length: int = 96
    language: str = "en"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class LanguageExamples:
    """Texts and questions of a sample that the language model is trained on."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]


def small_language(address: str, data: Dataset, settings: SmallLanguage) -> Path:
    """The folder of the language model, as transformers saves one, in the cache; trained first where it is not there.

    address  the data whose texts it learns, so that runs on different data share it; "" takes those of the run, `data`
    """
    corpus = training_rows(open_data(address)) if address else data
    settings = replace(settings, steps=steps_within_passes(settings.steps, min(len(corpus), ROWS), settings.batch_size))
    key = [FORMAT, corpus.fingerprint, asdict(settings), SMALL_LANGUAGE]
    seed = keyed_seed("small language", settings.seed)

    def make() -> Callable[[Path], object]:
        return _train(_examples(corpus, settings.language), settings, corpus.name)

    return cached_model("languages", key, make, seed=seed, doubles=True)


def shuffle_phrases(text: str, rng: np.random.Generator, *, most: int, alone: float = ALONE) -> str:
    """The phrases of a text in a random order, `most` words at most, small words left out. Words of a phrase stay together, so that what is
    red is still known. For a share `alone` of the texts nothing."""
    phrases: list[list[str]] = [[]]
    for word in text.split():
        if word.lower() in SMALL_WORDS:
            phrases.append([])
        else:
            phrases[-1].append(word)
    phrases = [phrase for phrase in phrases if phrase]
    order = rng.permutation(len(phrases))
    words = [word for index in order for word in phrases[index]][:most]
    return "" if rng.random() < alone else " ".join(words)


_SMALL = (
    "a an the this that these those of in on at to by from with for and or but as is are was were be been being has have had it its "
    "there here which who whose while"
)
SMALL_WORDS = frozenset(_SMALL.split())
"""Where a text is cut into phrases."""


def _examples(data: Dataset, language: str) -> list[LanguageExamples]:
    examples = []
    for row in range(0, len(data), max(1, len(data) // ROWS)):
        sample = data[row]
        texts = tuple(positive_texts(sample, language))
        if texts:
            examples.append(LanguageExamples(texts, tuple(questions_of(sample))))
    if not examples:
        raise DataError(
            f"no text in language '{language}' to learn from" if language else "no text to learn from",
            file=data.name,
            field="texts",
            expected="texts, or a language_model",
        )
    return examples


def _sample_text(row: LanguageExamples, rng: np.random.Generator, most: int) -> list[Piece]:
    text = row.texts[int(rng.integers(len(row.texts)))]
    before = shuffle_phrases(text, rng, most=most)
    before = f"{before} :" if before and rng.random() < COLON else before
    if not row.questions or rng.random() >= ASKED:
        return Template().pieces(0, before, " " + text)
    questions = [row.questions[index] for index in rng.permutation(len(row.questions))]
    turns: list[Piece] = [TextPiece(before)] if before else []
    for question in questions:
        turns += [TextPiece(" " + question.text), TextPiece(" " + question.answer, answer=True)]
    return turns


def _train(examples: Sequence[LanguageExamples], settings: SmallLanguage, name: str) -> Callable[[Path], object]:
    questions = (words for row in examples for question in row.questions for words in (question.text, *question.answers))
    tokenizer = Tokenizer.train([*(text for row in examples for text in row.texts), *questions], settings.pieces)
    words = LanguageVocabulary(tokenizer)
    ids = {"bos_token_id": tokenizer.sot_id, "eos_token_id": words.end_id, "pad_token_id": words.pad_id}
    model = LanguageModel(config={**SMALL_LANGUAGE, "vocab_size": tokenizer.vocab_size, **ids})
    spec = Optimiser(lr=settings.lr, warmup=0.04, weight_decay=0.01, clip_norm=1.0)
    optimiser = build_optimiser(model, spec)
    for step in with_bar(range(settings.steps), settings.steps, f"language of {name}, once"):
        rng = keyed_rng("small language", settings.seed, step)
        rows = [
            _sample_text(examples[int(n)], rng, settings.length // 3)
            for n in rng.integers(len(examples), size=settings.batch_size)
        ]
        try:
            layout = lay_out(rows, words, length=settings.length)
        except DataError as error:
            raise ConfigError(
                f"a text of '{name}' does not fit into the small language model: {error.problem} (expected more --pieces than "
                f"{settings.pieces}, or a --language-model of your own)"
            ) from error
        nll_B, count_B = answer_nll(*model.answers(model.embed(layout.id_BL), layout), rows=len(layout))
        optimiser.zero_grad(set_to_none=True)
        (nll_B.sum() / count_B.sum()).backward()
        clip(model, spec.clip_norm)
        set_learning_rate(optimiser, learning_rate(spec, step, settings.steps))
        optimiser.step()

    def write(folder: Path) -> None:
        with silence_transformers():
            model.inner.float().save_pretrained(folder)
        tokenizer.save(folder)

    return write
