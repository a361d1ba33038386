"""LexLIP's second phase: contrast with the keys of a momentum model, of the batch and of queues.

Letters: B batch, N items, C channel, H W, L tokens, K keys of a queue, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.sparse_queue import SparseQueue, Start
from diptych.models.lexlip.lexical_encoder import LexicalEncoder


@dataclass(frozen=True, kw_only=True, slots=True)
class MomentumOutput:
    """image_NV, text_NV      unit-norm term weights
    key_image_NV, ...       the momentum model's, without gradient
    image_queue_NK, ...     dot products of each item with the queue of the other modality
    queue_group_K           groups of the queue's items, the same for both modalities
    """

    image_NV: Embeddings[Tensor]
    text_NV: Embeddings[Tensor]
    key_image_NV: Embeddings[Tensor]
    key_text_NV: Embeddings[Tensor]
    image_queue_NK: Rows[Tensor]
    text_queue_NK: Rows[Tensor]
    queue_group_K: Tensor


class MomentumEncoder(nn.Module):
    """`LexicalEncoder` with its moving average and a queue of sparse vectors for each modality.

    dropout  whether the average has dropout and stochastic depth in training, as in the released code
    after   the average follows the weights from before the step, as in the released code; a copy of them is kept
    `forward` changes no state, so it may be called in chunks and twice; call `follow_` and `remember_` after the optimiser step.
    """

    def __init__(
        self, encoder: LexicalEncoder, *, queue: int, start: Start = "empty", dropout: bool = False, behind: bool = False
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.companions = FrozenModules(encoder, "momentum", *(("before",) if behind else ()))
        self.queue_image = SparseQueue(queue, encoder.width, start=start)
        self.queue_text = SparseQueue(queue, encoder.width, start=start)
        self.dropout = dropout

    @property
    def momentum(self) -> LexicalEncoder:
        return cast(LexicalEncoder, self.companions["momentum"])

    def train(self, mode: bool = True) -> MomentumEncoder:
        super().train(mode)
        self.momentum.train(mode and self.dropout)
        return self

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, text_mask_BL: Tensor) -> MomentumOutput:
        image_NV, text_NV = self.encoder.encode_image(image_BCHW), self.encoder.encode_text(text_BL, text_mask_BL)
        with torch.no_grad():
            key_text_NV = self.momentum.encode_text(text_BL, text_mask_BL)
            key_image_NV = self.momentum.encode_image(image_BCHW)
        return MomentumOutput(
            image_NV=image_NV,
            text_NV=text_NV,
            key_image_NV=key_image_NV,
            key_text_NV=key_text_NV,
            image_queue_NK=self.queue_text.similarities(image_NV),
            text_queue_NK=self.queue_image.similarities(text_NV),
            queue_group_K=self.queue_image.group_K,
        )

    def begin_(self, *, own: bool = False) -> None:
        """Reset the average to the current model, or keep it as a model of its `own`."""
        for name in self.companions:
            if name != "momentum" or not own:
                self.companions.copy_(name, self.encoder)

    def follow_(self, momentum: float) -> None:
        """Update average <- momentum * average + (1 - momentum) * this model, or its weights from before the step."""
        if "before" not in self.companions:
            self.companions.average_("momentum", self.encoder, momentum)
            return
        self.companions.average_("momentum", self.companions["before"], momentum)
        self.companions.copy_("before", self.encoder)

    def remember_(self, image_NV: Tensor, text_NV: Tensor, group_N: Tensor) -> None:
        """Push the keys of a step, from all processes, to the queues."""
        self.queue_image.push_(image_NV, group_N)
        self.queue_text.push_(text_NV, group_N)
