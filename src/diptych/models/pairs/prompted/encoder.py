"""Frozen dual encoder with learned context before class names: CoOp (2109.01134), CoCoOp (2203.05557).

Letters: B batch, N items, K classes, C channel, H W, L tokens, M context vectors, D width, J joint space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.data.text.prompts.class_prompts import ClassPrompts
from diptych.models.layers.learned_context import LearnedContext
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.text_embeddings import read_mask, token_table


@dataclass(frozen=True, slots=True)
class ClassLogits:
    """Logits [N, K] of every class: scale times the cosine, for a softmax over classes."""

    logit_NK: Rows[Tensor]


class MetaNet(nn.Module):
    """CoCoOp's meta-net: maps an image's unit vector to a shift of the context vectors. Linear, ReLU,
    linear, with a bottleneck.
    """

    def __init__(self, joint: int, width: int, *, reduction: int = 16) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(joint, max(1, joint // reduction)), nn.Linear(max(1, joint // reduction), width)

    def forward(self, image_BJ: Tensor) -> Tensor:
        shift_BD: Tensor = self.out(self.inside(image_BJ).relu())
        return shift_BD


class PromptedEncoder(nn.Module):
    """Encodes class names with learned context and the frozen text encoder, and images with the frozen image encoder.

    Both encoders stay in evaluation mode and get no gradient; it flows through the text encoder to the context.
    Token rows of classes are not part of the weights: `set_classes` sets them.
    """

    ids_KL: Tensor
    mask_KL: Tensor
    order_KL: Tensor

    def __init__(self, encoder: DualEncoder, bank: LearnedContext, conditioner: MetaNet | None = None) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval()
        self.bank, self.conditioner = bank, conditioner
        self.place = (0, 0)
        for name in ("ids_KL", "mask_KL", "order_KL"):
            self.register_buffer(name, torch.zeros(0, 0, dtype=torch.int64), persistent=False)

    def set_classes(self, prompts: ClassPrompts) -> None:
        """Set the current classes."""
        device = self.bank.context.device
        self.ids_KL = torch.from_numpy(prompts.ids_KL).to(device)
        self.mask_KL = torch.from_numpy(prompts.mask_KL).to(device)
        self.order_KL = torch.from_numpy(prompts.order_KL).to(device)
        self.place = prompts.context

    def train(self, mode: bool = True) -> PromptedEncoder:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, image: Tensor) -> ClassLogits:
        """Classify images [B, C, H, W], or precomputed unit vectors of images [B, J]."""
        image_BJ = self.encode_image(image) if image.ndim == 4 else image.to(self.bank.context.dtype)
        scale = self.encoder.log_scale.exp()
        if self.conditioner is None:
            return ClassLogits(scale * image_BJ @ self.encode_classes().T)
        text_BKJ = self.encode_classes(self.conditioner(image_BJ))
        return ClassLogits(scale * torch.einsum("bj,bkj->bk", image_BJ, text_BKJ))

    @torch.no_grad()
    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return self.encoder.encode_image(image_BCHW)

    def encode_classes(self, shift_BD: Tensor | None = None) -> Tensor:
        """Return unit-norm [K, J], or [B, K, J] with a shift of the context for each of B images."""
        tower = self.encoder.text_tower
        token_KLD = token_table(tower)(self.ids_KL)
        mask_KL = read_mask(tower, self.ids_KL, self.mask_KL)
        prompt = self.bank(token_KLD, self.order_KL, self.place, shift_BD)
        if shift_BD is None:
            return self._encoded(prompt, mask_KL)
        text_J = self._encoded(prompt.flatten(0, 1), mask_KL.repeat(len(shift_BD), 1))
        text_BKJ: Tensor = text_J.unflatten(0, (len(shift_BD), -1))
        return text_BKJ

    def _encoded(self, prompt_KLD: Tensor, mask_KL: Tensor) -> Tensor:
        return l2_normalise(self.encoder.text_projection(self.encoder.text_tower(prompt_KLD, mask_KL).pooled_BD))
