"""BLIP and its pre-training: contrastive learning with a momentum encoder and queues, matching, captioning (Li et al., 2022,
arXiv 2201.12086).

Letters: B N batch, C channel, H W, P image tokens (the class token first), L tokens, D width, K keys of a queue, V vocabulary, M pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.rows import Embeddings, Rows
from diptych.models.blip.text import BlipText
from diptych.models.layers.feature_queue import FeatureQueue, Start
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.matching.matcher import SideFeatures, sample_columns
from diptych.models.towers.outputs import Tower


class Blip(nn.Module):
    """An image tower and BLIP's text transformer, projections into one space, and a head of two answers ("fits" is the second).

    A text is encoded again with each picture, so `PairMatcher` keeps the ids of a text.
    """

    def __init__(self, tower: Tower, text: BlipText, *, width: int) -> None:
        super().__init__()
        self.image_tower, self.text, self.width = tower, text, width
        self.image_projection = nn.Linear(tower.token_width, width)
        self.text_projection = nn.Linear(text.width, width)
        self.fits = nn.Linear(text.width, 2)
        self.fused_width = text.width
        for layer in (self.image_projection, self.text_projection, self.fits):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def image_tokens(self, image_BCHW: Tensor) -> Tensor:
        """[B, P, D], the class token first."""
        output = self.image_tower(image_BCHW)
        return torch.cat([output.pooled_BD[:, None], output.tokens_BPD], 1)

    def image_vector(self, token_BPD: Tensor) -> Tensor:
        return l2_normalise(self.image_projection(token_BPD[:, 0]))

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return self.image_vector(self.image_tokens(image_BCHW))

    def encode_text(self, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return l2_normalise(self.text_projection(self.text.read(text_BL, mask_BL)[:, 0]))

    def read_images(self, image_BCHW: Tensor) -> SideFeatures:
        token_BPD = self.image_tokens(image_BCHW)
        return SideFeatures(self.image_vector(token_BPD), token_BPD, token_BPD.new_ones(token_BPD.shape[:2], dtype=torch.bool))

    def read_texts(self, text_BL: Tensor, mask_BL: Tensor) -> SideFeatures:
        return SideFeatures(self.encode_text(text_BL, mask_BL), text_BL, mask_BL)

    def match(self, image: SideFeatures, text: SideFeatures) -> tuple[Tensor, Tensor]:
        fused_MD = self.text.read(text.state_N, text.mask_NT, image.state_N)[:, 0]
        answer_M2 = self.fits(fused_MD)
        return answer_M2[:, 1] - answer_M2[:, 0], fused_MD

    def answers(self, token_BPD: Tensor, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Logits [B, 2] of "does not fit" and "fits"."""
        logit_B2: Tensor = self.fits(self.text.read(text_BL, mask_BL, token_BPD)[:, 0])
        return logit_B2


@dataclass(frozen=True, slots=True)
class BlipFeatures:
    """Inputs of BLIP's three losses.

    key_..._ND        the momentum copy's features of the same rows
    ..._queue_KD, group_K   of earlier batches
    alpha_1, temperature_1  weight of the momentum encoder's predictions in the targets; temperature of the similarities
    own_N2, ...       answers for own pairs, for a wrong text of each image and a wrong image of each text
    wrong_N           False where a row had no wrong partner
    logit_BLV         of each next token
    """

    image_ND: Embeddings[Tensor]
    text_ND: Embeddings[Tensor]
    key_image_ND: Rows[Tensor]
    key_text_ND: Rows[Tensor]
    image_queue_KD: Tensor
    text_queue_KD: Tensor
    group_K: Tensor
    alpha_1: Tensor
    temperature_1: Tensor
    own_N2: Rows[Tensor]
    wrong_text_N2: Rows[Tensor]
    wrong_image_N2: Rows[Tensor]
    wrong_N: Rows[Tensor]
    logit_BLV: Rows[Tensor]


class BlipTraining(nn.Module):
    """A BLIP with its momentum copy, queues and temperature. The queues start "empty", or "random" as released."""

    alpha_1: Tensor

    def __init__(self, blip: Blip, *, queue: int, temperature: float = 0.07, queue_start: Start = "empty") -> None:
        super().__init__()
        self.blip = blip
        self.momentum = FrozenModules(blip, "copy")
        self.image_queue, self.text_queue = (FeatureQueue(queue, blip.width, start=queue_start) for _ in range(2))
        self.temperature_1 = nn.Parameter(torch.full((1,), temperature))
        self.register_buffer("alpha_1", torch.zeros(1))

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor, group_B: Tensor) -> BlipFeatures:
        blip, copy = self.blip, self.momentum["copy"]
        assert isinstance(copy, Blip)
        token_BPD = blip.image_tokens(image_BCHW)
        image_ND, text_ND = blip.image_vector(token_BPD), blip.encode_text(text_BL, mask_BL)
        (image_queue_KD, group_K), (text_queue_KD, _) = self.image_queue.held(), self.text_queue.held()
        may_NN = group_B[:, None] != group_B
        with torch.no_grad():
            key_image_ND, key_text_ND = copy.encode_image(image_BCHW), copy.encode_text(text_BL, mask_BL)
            text_N = sample_columns(image_ND @ key_text_ND.T / self.temperature_1, may_NN)
            image_N = sample_columns(text_ND @ key_image_ND.T / self.temperature_1, may_NN)
        return BlipFeatures(
            image_ND,
            text_ND,
            key_image_ND,
            key_text_ND,
            image_queue_KD,
            text_queue_KD,
            group_K,
            self.alpha_1.clone(),
            self.temperature_1.clone(),  # a sharded parameter is whole only while the model is at work
            blip.answers(token_BPD, text_BL, mask_BL),
            blip.answers(token_BPD, text_BL[text_N], mask_BL[text_N]),
            blip.answers(token_BPD[image_N], text_BL, mask_BL),
            may_NN.any(1),
            blip.text.write(text_BL, mask_BL, token_BPD),
        )

    @torch.no_grad()
    def remember_(self, key_image_ND: Tensor, key_text_ND: Tensor, group_N: Tensor, *, momentum: float) -> None:
        """Updates the momentum encoder and pushes keys to the queues. Pass the keys of all processes, so that every process has
        the same queues."""
        self.momentum.average_("copy", self.blip, momentum)
        self.image_queue.push_(key_image_ND, group_N)
        self.text_queue.push_(key_text_ND, group_N)
