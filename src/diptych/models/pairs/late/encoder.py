"""A dual encoder whose patches and words are projected instead of its pooled vectors (FILIP, 2111.07783).

Letters: B batch, N items, C channel, H W, P patches, L tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings, Rows
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder

POOLS = ("pool", "net.pooler")
"""Where towers keep a layer that makes one vector of their tokens."""


@dataclass(frozen=True, slots=True)
class TokenPairs:
    """Unit-norm tokens of images and of their texts, which of them are real, and the learned scale [1]."""

    patch_NPD: Embeddings[Tensor]
    word_NLD: Embeddings[Tensor]
    patch_mask_NP: Rows[Tensor]
    word_mask_NL: Rows[Tensor]
    scale: Tensor


class LateEncoder(nn.Module):
    """Trains a `DualEncoder` by its tokens: its two projections are applied to every patch and word, and each is normalised.

    So weights of a dual encoder start it, and its temperature is the encoder's own. A layer by which a tower pools (SigLIP's head) is
    frozen, since no loss reaches it. A tower whose tokens are not as wide as its pooled vector is refused.
    """

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        check_tokens(encoder)
        self.encoder = encoder
        for name in POOLS:
            for module in (encoder.image_tower, encoder.text_tower):
                if isinstance(pool := _inner(module, name), nn.Module):
                    pool.requires_grad_(False)

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, text_mask_BL: Tensor, word_mask_BL: Tensor) -> TokenPairs:
        """`text_mask_BL` says what the text tower reads, `word_mask_BL` which of that is compared."""
        patch_BPD, patch_mask_BP = encode_patches(self.encoder, image_BCHW)
        word_BLD = encode_words(self.encoder, text_BL, text_mask_BL)
        return TokenPairs(patch_BPD, word_BLD, patch_mask_BP, word_mask_BL, self.encoder.log_scale.exp())


def encode_patches(encoder: DualEncoder, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Unit-norm patches [B, P, D], and which of them are real."""
    output = encoder.image_tower(image_BCHW)
    return l2_normalise(encoder.image_projection(output.tokens_BPD)), output.mask_BP


def encode_words(encoder: DualEncoder, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Unit-norm words [B, L, D], those of padding among them."""
    return l2_normalise(encoder.text_projection(encoder.text_tower(text_BL, mask_BL).tokens_BPD))


def content_mask(mask_BL: Tensor, *, prefix: int, suffix: int) -> Tensor:
    """`mask_BL` without the first `prefix` and the last `suffix` real tokens of each row: the marks around a text."""
    place_BL = mask_BL.cumsum(1)
    return mask_BL & (place_BL > prefix) & (place_BL <= mask_BL.sum(1, keepdim=True) - suffix)


def check_tokens(encoder: DualEncoder) -> None:
    """Refuses an encoder whose tokens cannot be projected as its pooled vectors are."""
    for side, tower in (("image", encoder.image_tower), ("text", encoder.text_tower)):
        if tower.projects or tower.token_width != tower.width:
            raise ConfigError(
                f"the tokens of the {side} tower are {tower.token_width} wide and its vector {tower.width} (expected equal)"
            )


def _inner(module: nn.Module, name: str) -> object:
    """Attribute at a dotted name, None if there is none."""
    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def mean_vector(token_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """The unit-norm mean of a row's real tokens [B, D]: one vector to find candidates by, before tokens are compared."""
    return l2_normalise(torch.einsum("btd,bt->bd", token_BTD, mask_BT.to(token_BTD.dtype)))
