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
from diptych.data.media.decode import decode
from diptych.models.io.folder import fingerprint
from diptych.models.io.inference import evaluating, parts
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.matcher import CHUNK, Matcher, Read, match_matrix


class MatchEmbedder(PairEmbedder):
    """Scores pairs by reading them together; every pair costs a forward, so a search reads each item anew for each query.

    `embed_images` and `embed_texts` give the vectors that training contrasts, which find candidates at once.
    """

    kind: ClassVar[str] = "matcher"

    def __init__(self, matcher: Matcher, *args: Any, **options: Any) -> None:
        super().__init__(matcher.encoder, *args, **options)
        self.matcher = matcher

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

    def score_pairs(
        self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"], batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """[N, K], log-odds that image and text fit, the same whoever asks: N * K readings."""
        if not len(images) or not len(texts):
            return np.zeros((len(images), len(texts)), np.float32)
        read = self.read_images(images, batch_size=batch_size)
        columns = [self.match(read, self.read_texts(part)) for part in parts(texts, batch_size)]
        return np.concatenate(columns, axis=1)

    def read_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Read:
        """What is kept of images until they are read with texts."""
        found = []
        for part in parts(images, batch_size):
            with self._ready() as device:
                found.append(self.matcher.read_images(self.preprocess([decode(i, exact=True) for i in part]).to(device)))
        return _joined(found)

    def read_texts(self, texts: Sequence[str]) -> Read:
        encoded = self.tokenizer.encode(list(texts), self.text_length)
        self.truncated += encoded.truncated
        with self._ready() as device:
            ids_BL, mask_BL = self._fitted(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
            return self.matcher.read_texts(ids_BL.to(device), mask_BL.to(device))

    def match(self, image: Read, text: Read, *, chunk: int = CHUNK) -> npt.NDArray[np.float32]:
        """[N, K] of every image with every text."""
        with self._ready(), evaluating(self.matcher):
            return match_matrix(self.matcher, image, text, chunk=chunk).float().cpu().numpy()


def _joined(read: Sequence[Read]) -> Read:
    return Read(*(torch.cat([getattr(part, name) for part in read]) for name in ("vector_ND", "state_N", "mask_NT")))
