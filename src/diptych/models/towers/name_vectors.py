"""One vector per name from word vectors, which initialise label embeddings of scene graph models (Neural Motifs, PE-Net).

    a name that is in the table              its vector
    "mean"     (predicates)                  the mean of its words' vectors
    "longest"  (objects)                     that of its longest word, the first one if there are several
    no word is in the table                  a random normal vector

Sources: a file of lines "word number number ..." (GloVe's form), "minilm-l6" or another frozen sentence encoder, which reads whole names,
or "random": a normal vector per word, so that "near above" and "far above" share a half, but there is no prior knowledge.

Difference to the released code: a predicate without a known word is 0 / 0 there.

Letters: N names, E width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.registry import TEXT_WEIGHTS
from diptych.models.io import weights

Rule = Literal["mean", "longest"]
Vector = npt.NDArray[np.float32]
RANDOM = "random"
TEXT_LENGTH = 16


def name_vectors(names: Sequence[str], source: str, *, rule: Rule, width: int) -> Tensor:
    """Return float32 [N, E]; the same names give the same vectors, also random ones.
    Raises ConfigError for a width other than the source's.
    """
    if source in TEXT_WEIGHTS:
        vector_NE = torch.from_numpy(np.array(weights.text(source, length=TEXT_LENGTH).encode_texts(list(names)), np.float32))
        if vector_NE.shape[1] != width:
            raise ConfigError(
                f"vectors of {source} have {vector_NE.shape[1]} dimensions (expected word_width {vector_NE.shape[1]})"
            )
        return vector_NE
    words = {word for name in names for word in (name, *name.split())}
    table = (
        {word: random_vector(word, width) for name in names for word in name.split()}
        if source == RANDOM
        else read_glove(source, words, width)
    )
    return torch.from_numpy(np.stack([vector_of(name, table, rule, width) for name in names]))


def vector_of(name: str, table: Mapping[str, Vector], rule: Rule, width: int) -> Vector:
    """Return the vector of one name, float32 [E]."""
    if name in table:
        return table[name]
    words = name.split()
    if rule == "longest":
        words = [max(words, key=len)] if words else []
    vectors = [table[word] for word in words if word in table]
    return np.stack(vectors).mean(axis=0) if vectors else random_vector(name, width)


def random_vector(word: str, width: int) -> Vector:
    """Return a normal random vector that is a function of the word."""
    return keyed_rng("name vectors", word).standard_normal(width).astype(np.float32)


def read_glove(path: Path | str, words: Iterable[str], width: int) -> dict[str, Vector]:
    """Read the vectors of these words from a file in GloVe's format. Raises DataError, with the line,
    for a vector of another width.
    """
    file, vocabulary, vectors = Path(path), set(words), dict[str, Vector]()
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for row, line in enumerate(lines):
                word, *numbers = line.rstrip().split(" ")
                if word in vocabulary:
                    vectors[word] = _vector(numbers, width, file, row)
    except OSError as error:
        expected = f"a file of word vectors, {RANDOM}, or {' | '.join(TEXT_WEIGHTS)}"
        raise DataError(f"cannot be read: {error}", file=file, field="words", expected=expected) from error
    return vectors


def _vector(numbers: Sequence[str], width: int, file: Path, row: int) -> Vector:
    try:
        vector_E = np.array(numbers, np.float32)
    except ValueError as error:
        raise DataError(
            f"is not a vector: {error}", file=file, row=row, expected="a word and numbers, blanks between them"
        ) from error
    if len(vector_E) != width or not np.isfinite(vector_E).all():
        raise DataError(f"has {len(vector_E)} numbers", file=file, row=row, expected=f"{width} finite ones (word_width)")
    return vector_E
