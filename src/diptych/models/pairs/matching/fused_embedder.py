"""Dual encoder with fusion blocks: one vector of an image and its text, for search by category (CTP, 2308.07146).

Letters: B batch, C channel, H W, L tokens, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.contracts import Unit
from diptych.core.errors import ShapeError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.models.io.folder import fingerprint
from diptych.models.io.inference import evaluating, parts
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.matching.fusion_reader import FusionEncoder


class FusedEncoder(nn.Module):
    """`encoder` for each side separately, and `reader`, whose first position represents image and text together.

    class_token  the blocks also attend to the image tower's pooled vector, before the patches
    shape        arguments that rebuild the reader
    """

    def __init__(self, encoder: DualEncoder, reader: FusionEncoder, *, class_token: bool, shape: Mapping[str, Any]) -> None:
        super().__init__()
        self.encoder, self.reader, self.class_token, self.shape = encoder, reader, class_token, dict(shape)

    def encode_pairs(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Return unit-norm [B, D]: the start token of each text after the last block."""
        output = self.encoder.image_tower(image_BCHW)
        x_BPD = torch.cat([output.pooled_BD[:, None], output.tokens_BPD], 1) if self.class_token else output.tokens_BPD
        return l2_normalise(self.reader.read(self.encoder.text_tower, text_BL, mask_BL, x_BPD)[:, 0])


class FusedPairs(PairEmbedder):
    """Embedder with `embed_images` and `embed_texts` of a dual encoder, and `embed_pairs` of the fused pair."""

    kind: ClassVar[str] = "fused_pairs"

    def __init__(self, fused: FusedEncoder, *args: Any, **options: Any) -> None:
        super().__init__(fused.encoder, *args, **options)
        self.fused = fused

    def embed_pairs(self, images: Sequence[ImageSource], texts: Sequence[str], *, batch_size: int = 64) -> Unit:
        if len(images) != len(texts):
            raise ShapeError(f"{len(images)} images and {len(texts)} texts (expected a text for each image)")
        if not images:
            return np.zeros((0, self.fused.encoder.text_tower.token_width), np.float32)
        blocks = []
        for pairs in parts(list(zip(images, texts, strict=True)), batch_size):
            encoded = self.tokenizer.encode([text for _, text in pairs], self.text_length)
            self.truncated += encoded.truncated
            rows = self._fitted(torch.from_numpy(encoded.ids_BL), torch.from_numpy(encoded.mask_BL))
            with self._ready() as device, evaluating(self.fused):
                pixels_BCHW = self.preprocess([decode(image, exact=True) for image, _ in pairs])
                blocks.append(self.fused.encode_pairs(*(tensor.to(device) for tensor in (pixels_BCHW, *rows))).float().cpu())
        return torch.cat(blocks).numpy()

    @property
    def whole(self) -> nn.Module:
        return self.fused

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint(
            self.fused, {"preprocess": self.preprocess.to_json(), "text_length": self.text_length, "kind": self.kind}
        )

    def settings(self) -> dict[str, Any]:
        return {"class_token": self.fused.class_token, "fusion": self.fused.shape}

    @classmethod
    def around(cls, model: DualEncoder, config: Mapping[str, Any]) -> Any:
        shape = config["fusion"]
        reader = FusionEncoder(model.text_tower, image_width=model.image_tower.token_width, **shape)
        return FusedEncoder(model, reader, class_token=config["class_token"], shape=shape)
