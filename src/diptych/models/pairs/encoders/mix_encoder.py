"""Dual encoder of one or several texts per image, with the state of mixed recipes: running means of agreement, feature queues.

Letters: B batch, N images, C channel, H W, K texts per image, L tokens, Q rows of a queue, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diptych.models.layers.feature_queue import FeatureQueue
from diptych.models.pairs.encoders.text_set_encoder import TextSetEncoder, TextSets
from diptych.models.towers.outputs import Tower


@dataclass(frozen=True, kw_only=True, slots=True)
class MixSets(TextSets):
    """`TextSets` with state of earlier steps, shared by all rows, without gradient.

    mean_3          agreements of raw text with caption, image with raw text, image with caption; None without gates
    queue_..._QD    features of earlier steps and their groups; None without queues
    """

    mean_3: Tensor | None = None
    queue_image_QD: Tensor | None = None
    queue_image_group_Q: Tensor | None = None
    queue_text_QD: Tensor | None = None
    queue_text_group_Q: Tensor | None = None

    @property
    def text_ND(self) -> Tensor:  # noqa: N802, named as the field of pairs
        """The first text of every image, for losses on pairs."""
        return self.text_NKD[:, 0]


class MixEncoder(TextSetEncoder):
    """`TextSetEncoder` with additional buffers, which are in every checkpoint but not in the deployed model.

    mean_3  initial running means; None: no running means
    queue   number of stored features of images, and of texts; 0: no queues
    """

    mean_3: Tensor | None

    def __init__(
        self,
        image_tower: Tower,
        text_tower: Tower,
        *,
        width: int,
        patches: bool,
        mean_3: Tensor | None,
        queue: int,
        **options: Any,
    ) -> None:
        super().__init__(image_tower, text_tower, width=width, patches=patches, **options)
        self.register_buffer("mean_3", mean_3)
        self.image_queue = FeatureQueue(queue, width) if queue else None
        self.text_queue = FeatureQueue(queue, width) if queue else None

    def forward(self, image_BCHW: Tensor, text_BKL: Tensor, text_mask_BKL: Tensor) -> MixSets:
        sets = super().forward(image_BCHW, text_BKL, text_mask_BKL)
        image_QD, image_Q = self.image_queue.held() if self.image_queue is not None else (None, None)
        text_QD, text_Q = self.text_queue.held() if self.text_queue is not None else (None, None)
        return MixSets(
            image_ND=sets.image_ND,
            text_NKD=sets.text_NKD,
            scale=sets.scale,
            patch_NPD=sets.patch_NPD,
            patch_mask_NP=sets.patch_mask_NP,
            bias=sets.bias,
            mean_3=None if self.mean_3 is None else self.mean_3.clone(),
            queue_image_QD=image_QD,
            queue_image_group_Q=image_Q,
            queue_text_QD=text_QD,
            queue_text_group_Q=text_Q,
        )

    @torch.no_grad()
    def remember_(self, mean_3: Tensor) -> None:
        """Store the running means of this step."""
        assert self.mean_3 is not None
        self.mean_3.copy_(mean_3)

    @torch.no_grad()
    def push_(self, image_ND: Tensor, text_NKD: Tensor, group_N: Tensor) -> None:
        """Add the features of all processes to the queues."""
        assert self.image_queue is not None
        assert self.text_queue is not None
        self.image_queue.push_(image_ND, group_N)
        self.text_queue.push_(text_NKD.flatten(0, 1), group_N.repeat_interleave(text_NKD.shape[1]))
