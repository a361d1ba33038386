"""Dual encoder with projected patches and words instead of pooled vectors (FILIP, 2111.07783).

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
"""Names of pooling layers in towers."""


@dataclass(frozen=True, slots=True)
class TokenPairs:
    """Unit-norm tokens of images and of their texts, which of them are real, and the learned scale [1]."""

    patch_NPD: Embeddings[Tensor]
    word_NLD: Embeddings[Tensor]
    patch_mask_NP: Rows[Tensor]
    word_mask_NL: Rows[Tensor]
    scale: Tensor


class LateEncoder(nn.Module):
    """Late-interaction training of a `DualEncoder`: its two projections are applied to every patch and word,
    followed by normalisation.

    So it can start from the weights of a dual encoder, whose temperature it uses. Pooling layers of towers (SigLIP's head) are
    frozen, since no loss reaches them. A tower whose tokens have another width than its pooled vector is refused.
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
        """`text_mask_BL` is the mask of the text tower, `word_mask_BL` that of the compared tokens."""
        patch_BPD, patch_mask_BP = encode_patches(self.encoder, image_BCHW)
        word_BLD = encode_words(self.encoder, text_BL, text_mask_BL)
        return TokenPairs(patch_BPD, word_BLD, patch_mask_BP, word_mask_BL, self.encoder.log_scale.exp())


def encode_patches(encoder: DualEncoder, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return unit-norm patches [B, P, D], and their mask."""
    output = encoder.image_tower(image_BCHW)
    return l2_normalise(encoder.image_projection(output.tokens_BPD)), output.mask_BP


def encode_words(encoder: DualEncoder, text_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return unit-norm words [B, L, D], including padding."""
    return l2_normalise(encoder.text_projection(encoder.text_tower(text_BL, mask_BL).tokens_BPD))


def content_mask(mask_BL: Tensor, *, prefix: int, suffix: int) -> Tensor:
    """Return `mask_BL` without the first `prefix` and the last `suffix` real tokens of each row:
    the special tokens around a text.
    """
    place_BL = mask_BL.cumsum(1)
    return mask_BL & (place_BL > prefix) & (place_BL <= mask_BL.sum(1, keepdim=True) - suffix)


def check_tokens(encoder: DualEncoder) -> None:
    """Refuse an encoder whose tokens cannot be projected like its pooled vectors."""
    for side, tower in (("image", encoder.image_tower), ("text", encoder.text_tower)):
        if tower.projects or tower.token_width != tower.width:
            raise ConfigError(
                f"the tokens of the {side} tower are {tower.token_width} wide and its vector {tower.width} (expected equal)"
            )


def _inner(module: nn.Module, name: str) -> object:
    """Return the attribute at a dotted name, None if there is none."""
    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
    return value


def mean_vector(token_BTD: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the unit-norm mean of a row's real tokens [B, D], for candidate retrieval before tokens are compared."""
    return l2_normalise(torch.einsum("btd,bt->bd", token_BTD, mask_BT.to(token_BTD.dtype)))
