"""SLATE (Singh et al., 2022, 2110.11405): slots from which a transformer writes the tokens of a discrete autoencoder.

Letters: B batch, C channels, V tokens of the codebook, N positions of the token grid, S slots, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.models.slots.initialised import convolution, linear, rectified
from diptych.models.slots.slot_attention import SlotEncoder


def gumbel_softmax(logit: Tensor, temperature: Tensor | float, *, hard: bool = False, dim: int = 1) -> Tensor:
    """A relaxed draw along `dim`; hard: one-hot, with the gradient of the relaxed one."""
    noise = -(torch.empty_like(logit).exponential_() + torch.finfo(logit.dtype).tiny).log()
    soft = ((logit + noise) / temperature).softmax(dim)
    if not hard:
        return soft
    one_hot = torch.zeros_like(logit).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
    return one_hot - soft.detach() + soft


def cosine_temperature(step: int, start: float, end: float, steps: int) -> float:
    """From `start` down to `end` over `steps` steps, by half a cosine."""
    share = min(1.0, step / steps) if steps else 1.0
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * share))


class DiscreteAutoencoder(nn.Module):
    """A picture as a grid of tokens, one for 4 x 4 pixels, and back."""

    def __init__(self, tokens: int, *, channels: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            rectified(channels, 64, 4, stride=4), *(rectified(64, 64, 1) for _ in range(6)), convolution(64, tokens, 1)
        )
        upward = [
            rectified(64, 64, 3, padding=1),
            rectified(64, 64, 1),
            rectified(64, 64, 1),
            rectified(64, 256, 1),
            nn.PixelShuffle(2),
        ]
        again = [
            rectified(64, 64, 3, padding=1),
            rectified(64, 64, 1),
            rectified(64, 64, 1),
            rectified(64, 256, 1),
            nn.PixelShuffle(2),
        ]
        self.decoder = nn.Sequential(rectified(tokens, 64, 1), *upward, *again, convolution(64, channels, 1))

    def logits(self, image_BCHW: Tensor) -> Tensor:
        """Log-probabilities [B, V, H / 4, W / 4] of the tokens."""
        log_BVhw: Tensor = self.encoder(image_BCHW).log_softmax(1)
        return log_BVhw


class TokenAttention(nn.Module):
    """Attention of several heads without biases; dropout of the weights and of the result."""

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0, gain: float = 1.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value = (linear(width, width, bias=False) for _ in range(3))
        self.output = linear(width, width, bias=False, gain=gain)
        self.output_dropout = nn.Dropout(dropout)

    def forward(self, query_BTD: Tensor, other_BND: Tensor, *, causal: bool = False) -> Tensor:
        query, key, value = (
            project(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.query, query_BTD), (self.key, other_BND), (self.value, other_BND))
        )
        read = F.scaled_dot_product_attention(
            query, key, value, dropout_p=self.dropout if self.training else 0.0, is_causal=causal
        )
        made: Tensor = self.output_dropout(self.output(read.transpose(1, 2).flatten(2)))
        return made


class DecoderBlock(nn.Module):
    """Causal attention, attention to slots and an MLP. The first block's residual begins after its norm, as in SLATE's code."""

    def __init__(self, width: int, heads: int, *, dropout: float, gain: float, first: bool) -> None:
        super().__init__()
        self.first = first
        self.norm_self, self.norm_slots, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = TokenAttention(width, heads, dropout=dropout, gain=gain)
        self.slot_attention = TokenAttention(width, heads, dropout=dropout, gain=gain)
        self.mlp = nn.Sequential(
            linear(width, 4 * width, start="kaiming"), nn.ReLU(), linear(4 * width, width, gain=gain), nn.Dropout(dropout)
        )

    def forward(self, token_BND: Tensor, slot_BSD: Tensor) -> Tensor:
        normed_BND = self.norm_self(token_BND)
        token_BND = (normed_BND if self.first else token_BND) + self.self_attention(normed_BND, normed_BND, causal=True)
        token_BND = token_BND + self.slot_attention(self.norm_slots(token_BND), slot_BSD)
        moved_BND: Tensor = token_BND + self.mlp(self.norm_mlp(token_BND))
        return moved_BND


class TokenDecoder(nn.Module):
    """Logits of each token from the tokens before it and the slots."""

    def __init__(self, tokens: int, length: int, width: int, slot_width: int, *, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.slots = linear(slot_width, width, bias=False)
        self.table = nn.Embedding(tokens, width)
        self.begin_11D = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.begin_11D)
        self.position_1ND = nn.Parameter(torch.zeros(1, 1 + length, width))
        nn.init.trunc_normal_(self.position_1ND)
        self.dropout = nn.Dropout(dropout)
        gain = (3 * blocks) ** -0.5
        self.blocks = nn.ModuleList(
            DecoderBlock(width, heads, dropout=dropout, gain=gain, first=not number) for number in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.output = linear(width, tokens, bias=False)

    def forward(self, id_BN: Tensor, slot_BSD: Tensor) -> Tensor:
        """[B, N, V]: at place n from the tokens before n; the last of `id_BN` is not read."""
        token_BND = torch.cat([self.begin_11D.expand(len(id_BN), -1, -1), self.table(id_BN[:, :-1])], 1)
        token_BND = self.dropout(token_BND + self.position_1ND[:, : token_BND.shape[1]])
        projected_BSD = self.slots(slot_BSD)
        for block in self.blocks:
            token_BND = block(token_BND, projected_BSD)
        logit_BNV: Tensor = self.output(self.norm(token_BND))
        return logit_BNV


@dataclass(frozen=True, slots=True)
class SlateOutput:
    """The autoencoder's picture, logits of the tokens and the tokens themselves, slots, and their attention."""

    image_BCHW: Tensor
    logit_BNV: Tensor
    id_BN: Tensor
    slot_BSD: Tensor
    mask_BSHW: Tensor


class Slate(nn.Module):
    """Discrete autoencoder, slot encoder and token decoder. The decoder's targets are hard draws, apart from those that the autoencoder
    learns by, and have no gradient."""

    temperature: Tensor

    def __init__(
        self,
        size: int,
        encoder: SlotEncoder,
        *,
        tokens: int = 4096,
        width: int = 192,
        blocks: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.autoencoder = DiscreteAutoencoder(tokens)
        self.encoder = encoder
        self.decoder = TokenDecoder(tokens, (size // 4) ** 2, width, encoder.width, blocks=blocks, heads=heads, dropout=dropout)
        self.register_buffer("temperature", torch.ones(1))

    def forward(self, image_BCHW: Tensor) -> SlateOutput:
        logit_BVhw = self.autoencoder.logits(image_BCHW)
        soft_BVhw = gumbel_softmax(logit_BVhw, self.temperature)
        id_BN = gumbel_softmax(logit_BVhw.detach(), self.temperature, hard=True).argmax(1).flatten(1)
        slot_BSD, mask_BSHW = self.encoder(image_BCHW)
        return SlateOutput(self.autoencoder.decoder(soft_BVhw), self.decoder(id_BN, slot_BSD), id_BN, slot_BSD, mask_BSHW)

    @torch.no_grad()
    def generate(self, slot_BSD: Tensor) -> Tensor:
        """Pictures [B, C, H, W] that the most likely tokens after the slots make."""
        side = math.isqrt(self.decoder.position_1ND.shape[1] - 1)
        id_BN = torch.zeros(len(slot_BSD), 0, dtype=torch.int64, device=slot_BSD.device)
        for _ in range(side * side):
            logit_BV = self.decoder(F.pad(id_BN, (0, 1)), slot_BSD)[:, -1]
            id_BN = torch.cat([id_BN, logit_BV.argmax(-1, keepdim=True)], 1)
        one_hot = F.one_hot(id_BN, self.decoder.table.num_embeddings).to(slot_BSD).transpose(1, 2)
        made: Tensor = self.autoencoder.decoder(one_hot.unflatten(2, (side, side)))
        return made
