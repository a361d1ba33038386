"""A matcher ready for use: vectors for candidates, a reading of each pair for its score; saved as one folder.

Letters: N images, K texts, C channel, H W, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from diptych.core.image import ImageSource
from diptych.core.inputs import one_or_many
from diptych.data.media.decode import decode
from diptych.models.io.folder import fingerprint
from diptych.models.io.inference import evaluating, parts
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import Embedding, PairEmbedder
from diptych.models.pairs.matching.matcher import CHUNK, Matcher, PairMatcher, SideFeatures, as_module, match_matrix


class MatcherModel(PairEmbedder):
    """Scores pairs by reading them together; every pair costs a forward, so a search reads each item again for each query.

    `embed_images` and `embed_texts` give the vectors that training contrasts, which find candidates at once.
    """

    kind: ClassVar[str] = "matcher"
    fits_above: ClassVar[float] = 0.0

    def __init__(self, matcher: Matcher, *args: Any, **options: Any) -> None:
        super().__init__(matcher.encoder, *args, **options)
        self.matcher = matcher
        self.readings = CrossEncoder(self, matcher)

    @property
    def whole(self) -> nn.Module:
        return self.matcher

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            self.matcher, {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "kind": self.kind}
        )

    def settings(self) -> dict[str, Any]:
        return {"fusion_layers": self.matcher.layers, "fusion_heads": self.matcher.heads}

    @classmethod
    def around(cls, model: DualEncoder, config: Mapping[str, Any]) -> Any:
        return Matcher(model, layers=config["fusion_layers"], heads=config["fusion_heads"])

    @one_or_many
    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
    ) -> npt.NDArray[np.float32]:
        """Log-odds [N, K] that image and text fit, the same for either `query`: N * K forward passes."""
        return self.readings.score(images, texts)


class CrossEncoder:
    """Pairs that are read together, with the image settings and the tokenizer of an embedder."""

    def __init__(self, embedder: Embedding, reader: PairMatcher) -> None:
        self.embedder, self.reader = embedder, reader

    def score(self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        """[N, K] log-odds. Holds what is kept of all images at once."""
        if not len(images) or not len(texts):
            return np.zeros((len(images), len(texts)), np.float32)
        image = self.images(images, batch_size=batch_size)
        return np.concatenate([self.match(image, self.texts(part)) for part in parts(texts, batch_size)], axis=1)

    def images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> SideFeatures:
        """Cached features of images, to be read with texts later."""
        batches = []
        for part in parts(images, batch_size):
            with self.embedder._ready() as device:
                pixels_BCHW = self.embedder.preprocess([decode(image, exact=True) for image in part])
                batches.append(self.reader.read_images(pixels_BCHW.to(device)))
        return SideFeatures(
            *(torch.cat([getattr(part, name) for part in batches]) for name in ("vector_ND", "state_N", "mask_NT"))
        )

    def texts(self, texts: Sequence[str]) -> SideFeatures:
        embedder = self.embedder
        encoded = embedder.tokenizer.encode(list(texts), embedder.text_length)
        embedder.truncated += encoded.truncated
        with embedder._ready() as device:
            ids_BL, mask_BL = (torch.from_numpy(rows).to(device) for rows in (encoded.ids_BL, encoded.mask_BL))
            return self.reader.read_texts(ids_BL, mask_BL)

    def match(self, image: SideFeatures, text: SideFeatures, *, chunk: int = CHUNK) -> npt.NDArray[np.float32]:
        """[N, K] of every image with every text."""
        with self.embedder._ready(), evaluating(as_module(self.reader)):
            return match_matrix(self.reader, image, text, chunk=chunk).float().cpu().numpy()
