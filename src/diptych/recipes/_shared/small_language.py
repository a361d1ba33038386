"""A small language model that learns the texts of a data set once and is kept in the cache, for bridges that are given no other.

It learns to write what stands before it announces: the phrases of a caption in any order, then the caption; the same phrases and a
question, then the answer. One that learned captions alone heeds nothing before them, a picture neither.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diptych.core.cache import cache_folder
from diptych.core.contracts import Dataset, Optimiser
from diptych.core.errors import DataError
from diptych.core.files import atomic_folder
from diptych.core.lock import Lock
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.data.text.layout import Piece, lay_out
from diptych.data.text.questions import Question, questions_of
from diptych.data.text.template import Template
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.models.towers.hf_text import quiet
from diptych.recipes._shared.pairs import positives
from diptych.train.optimise import build_optimiser, clip, learning_rate, set_learning_rate
from diptych.train.precision import deterministic
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
FORMAT, ROWS = 1, 20_000
"""Of a larger data set so many rows are read, evenly spaced."""
ALONE, ASKED, COLON = 0.15, 0.5, 0.5
"""Shares of the texts that are learned with nothing before them, of rows with questions that are asked one, of phrases with a colon."""


@dataclass(frozen=True, slots=True)
class SmallLanguage:
    """How it is trained: `steps` of `batch_size` texts of at most `length` tokens, of a vocabulary of `pieces`."""

    steps: int = 2500
    batch_size: int = 32
    lr: float = 3e-3
    pieces: int = 512
    length: int = 96
    language: str = "en"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Known:
    """What of a row is learned."""

    texts: tuple[str, ...]
    questions: tuple[Question, ...]


def small_language(address: str, data: Dataset, settings: SmallLanguage) -> Path:
    """The folder of the language model, as transformers saves one, in the cache; trained first where it is not there.

    address  the data whose texts it learns, so that runs on different data share it; "" takes those of the run, `data`
    Two processes that ask at once wait for each other. A kill costs the training and leaves nothing behind.
    """
    corpus = training_rows(open_data(address)) if address else data
    key = json.dumps([FORMAT, corpus.fingerprint, asdict(settings), SMALL_LANGUAGE, torch.__version__], sort_keys=True)
    folder = cache_folder() / "languages" / hashlib.sha256(key.encode()).hexdigest()[:16]
    if not folder.exists():
        with _alone(folder.with_suffix(".lock")):
            if not folder.exists():
                _train(_known(corpus, settings.language), settings, folder, corpus.name)
    return folder


def shuffled(text: str, rng: np.random.Generator, *, most: int, alone: float = ALONE) -> str:
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
    words = [word for place in order for word in phrases[place]][:most]
    return "" if rng.random() < alone else " ".join(words)


_SMALL = (
    "a an the this that these those of in on at to by from with for and or but as is are was were be been being has have had it its "
    "there here which who whose while"
)
SMALL_WORDS = frozenset(_SMALL.split())
"""Where a text is cut into phrases."""


def _known(data: Dataset, language: str) -> list[Known]:
    found = []
    for row in range(0, len(data), max(1, len(data) // ROWS)):
        sample = data[row]
        texts = tuple(positives(sample, language))
        if texts:
            found.append(Known(texts, tuple(questions_of(sample))))
    if not found:
        raise DataError(
            f"no text in language '{language}' to learn from" if language else "no text to learn from",
            file=data.name,
            field="texts",
            expected="texts, or a language_model",
        )
    return found


def _drawn(row: Known, rng: np.random.Generator, most: int) -> list[Piece]:
    text = row.texts[int(rng.integers(len(row.texts)))]
    before = shuffled(text, rng, most=most)
    before = f"{before} :" if before and rng.random() < COLON else before
    if row.questions and rng.random() < ASKED:
        question = row.questions[int(rng.integers(len(row.questions)))]
        before, text = f"{before} {question.text}".strip(), question.answer
    return Template().pieces(0, before, " " + text)


def _train(known: Sequence[Known], settings: SmallLanguage, folder: Path, name: str) -> None:
    questions = (words for row in known for question in row.questions for words in (question.text, *question.answers))
    tokenizer = Tokenizer.train([*(text for row in known for text in row.texts), *questions], settings.pieces)
    words = LanguageVocabulary(tokenizer)
    ids = {"bos_token_id": tokenizer.sot_id, "eos_token_id": words.end_id, "pad_token_id": words.pad_id}
    with _own_numbers(keyed_seed("small language", settings.seed)), deterministic():
        model = LanguageModel(config={**SMALL_LANGUAGE, "vocab_size": tokenizer.vocab_size, **ids})
        spec = Optimiser(lr=settings.lr, warmup=0.04, weight_decay=0.01, clip_norm=1.0)
        optimiser = build_optimiser(model, spec)
        for step in _shown(settings.steps, name):
            rng = keyed_rng("small language", settings.seed, step)
            rows = [_drawn(known[int(n)], rng, settings.length // 3) for n in rng.integers(len(known), size=settings.batch_size)]
            layout = lay_out(rows, words, length=settings.length)
            nll_B, count_B = answer_nll(*model.answers(model.embed(layout.id_BL), layout), rows=len(layout))
            optimiser.zero_grad(set_to_none=True)
            (nll_B.sum() / count_B.sum()).backward()
            clip(model.parameters(), spec.clip_norm)
            set_learning_rate(optimiser, learning_rate(spec, step, settings.steps))
            optimiser.step()
    with atomic_folder(folder) as work, quiet():
        model.inner.save_pretrained(work)
        tokenizer.save(work)


def _shown(steps: int, name: str) -> Iterator[int]:
    """The steps, with a bar on stderr where a person is watching."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        yield from bar.track(range(steps), total=steps, description=f"language of {name}, once")


@contextmanager
def _own_numbers(seed: int) -> Iterator[None]:
    """Random numbers of its own, and single precision whatever the run's is, so that every run finds the same model."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    while (lock := Lock.take(path)) is None:
        time.sleep(1)
    try:
        yield
    finally:
        lock.close()
