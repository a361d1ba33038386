"""Prefixes of embeddings as smaller embeddings (Matryoshka, 2205.13147).

Letters: N items, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core.contracts import Embedder, Unit
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many


class PrefixEmbedder:
    """Embedder of the first `width` dimensions of `whole`'s vectors, normalised again,
    since the prefix of a unit vector is not a unit vector.

    It works for any embedder, but best if `whole` was trained for that prefix (recipe `mrl`, whose models list theirs in `dims`).
    """

    def __init__(self, whole: Embedder, width: int) -> None:
        if width < 1:
            raise ConfigError(f"a prefix has {width} dimensions (expected 1 or more)")
        self.whole, self.width = whole, width
        self.tokenizer: Any = getattr(whole, "tokenizer", None)
        self.text_length: int | None = getattr(whole, "text_length", None)

    @property
    def name(self) -> str:
        return f"{self.whole.name}-first-{self.width}"

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self.whole.fingerprint} first {self.width}".encode()).hexdigest()

    @one_or_many
    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        return prefix(self.whole.embed_images(images, batch_size=batch_size), self.width)

    @one_or_many
    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        return prefix(self.whole.embed_texts(texts, batch_size=batch_size), self.width)


def prefix(rows_ND: Unit, width: int) -> Unit:
    """Return the first `width` dimensions of each row, normalised again. A row whose prefix is all zeros stays zero.

    >>> prefix(np.array([[0.6, 0.0, 0.8]], np.float32), 2).tolist()
    [[1.0, 0.0]]
    """
    if width > rows_ND.shape[1]:
        raise ConfigError(f"a prefix of {width} dimensions was requested of embeddings that have {rows_ND.shape[1]}")
    cut_ND = rows_ND[:, :width]
    norm_N1 = np.linalg.norm(cut_ND, axis=1, keepdims=True)
    unit_ND: Unit = (cut_ND / np.where(norm_N1 > 0, norm_N1, 1)).astype(np.float32)
    return unit_ND
