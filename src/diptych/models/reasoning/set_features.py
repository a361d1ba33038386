"""Features of a frozen encoder for a set of pictures, of texts, and of both together.

Letters: N pictures or texts, K pictures of a set, D width.
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
    """A frozen `Embedder`, whose unit vectors get the norm sqrt(D), so that their values are of the size of 1.

    A picture together with a text is what a `FusedEmbedder` makes of them; of an encoder of two towers it is the product of both vectors,
    value by value, as in ImageCoDe's ContextualCLIP (2203.15867): its sum is D times their cosine.
    """

    def __init__(self, encoder: Any) -> None:
        if not isinstance(encoder, Embedder):
            raise ConfigError(f"'{getattr(encoder, 'name', encoder)}' embeds no images and texts (expected a model that does)")
        self.encoder, self.fused = encoder, isinstance(encoder, FusedEmbedder)

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    def width(self) -> int:
        """D, by embedding a word."""
        return int(self.texts(["a"]).shape[1])

    def images(self, sources: Sequence[ImageSource]) -> Vectors:
        """[N, D]"""
        return _scaled(self.encoder.embed_images(sources))

    def texts(self, strings: Sequence[str]) -> Vectors:
        """[N, D]"""
        return _scaled(self.encoder.embed_texts(strings))

    def pairs(self, sources: Sequence[ImageSource], text: str) -> Vectors:
        """[N, D]: each picture with the text; of an encoder of two towers ask `products`."""
        fused: Any = self.encoder
        return _scaled(fused.embed_pairs(sources, [text] * len(sources)))


def products(image_KD: Vectors, text_D: Vectors) -> Vectors:
    """[K, D]: pictures with a text, of an encoder of two towers."""
    product_KD: Vectors = image_KD * text_D
    return product_KD


def _scaled(unit_ND: npt.NDArray[np.float32]) -> Vectors:
    return np.asarray(unit_ND * np.float32(unit_ND.shape[-1] ** 0.5), np.float32)
