"""Features of a frozen encoder for sets of pictures, texts, and pairs of both.

Letters: N pictures or texts, K pictures per set, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Embedder, FusedEmbedder
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource

Vectors = npt.NDArray[np.float32]


class SetEncoder:
    """Frozen `Embedder` whose unit vectors are scaled to norm sqrt(D), so that their values are of order 1.

    The feature of a picture with a text is the output of a `FusedEmbedder`;
    for a dual encoder it is the elementwise product of both vectors, as in ImageCoDe's ContextualCLIP (2203.15867),
    whose sum is D times their cosine.
    """

    def __init__(self, encoder: Any) -> None:
        if not isinstance(encoder, Embedder):
            raise ConfigError(f"'{getattr(encoder, 'name', encoder)}' embeds no images and texts (expected a model that does)")
        self.encoder, self.fused = encoder, isinstance(encoder, FusedEmbedder)

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    def width(self) -> int:
        """Return D, by embedding a word."""
        return int(self.texts(["a"]).shape[1])

    def images(self, sources: Sequence[ImageSource]) -> Vectors:
        """[N, D]"""
        return _scaled(self.encoder.embed_images(sources))

    def texts(self, strings: Sequence[str]) -> Vectors:
        """[N, D]"""
        return _scaled(self.encoder.embed_texts(strings))

    def pairs(self, sources: Sequence[ImageSource], text: str) -> Vectors:
        """Return features [N, D] of each picture with the text; for a dual encoder use `products`."""
        fused: Any = self.encoder
        return _scaled(fused.embed_pairs(sources, [text] * len(sources)))


def products(image_KD: Vectors, text_D: Vectors) -> Vectors:
    """Return features [K, D] of pictures with a text, for a dual encoder."""
    product_KD: Vectors = image_KD * text_D
    return product_KD


def _scaled(unit_ND: npt.NDArray[np.float32]) -> Vectors:
    return np.asarray(unit_ND * np.float32(unit_ND.shape[-1] ** 0.5), np.float32)
