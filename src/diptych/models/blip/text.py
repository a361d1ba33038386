"""BLIP's text transformer (Li et al., 2022, arXiv 2201.12086): BERT's layers with cross-attention; encoder and decoder share all
parameters but self-attention.

Letters: B batch, L tokens, P image tokens, D width, H heads, E width of a head, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.post_norm import PostNormAttention

Mode = Literal["read", "write"]


class BlipBlock(nn.Module):
    """Self-attention (one for reading, unless `reads` is False, one for writing), cross-attention if there is a picture, two layers."""

    def __init__(
        self, width: int, heads: int, image_width: int, *, mlp_width: int, dropout: float, eps: float, reads: bool = True
    ) -> None:
        super().__init__()
        options = {"dropout": dropout, "eps": eps}
        self.reading = PostNormAttention(width, heads, width, **options) if reads else None
        self.writing = PostNormAttention(width, heads, width, **options)
        self.cross = PostNormAttention(width, heads, image_width, **options)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.dropout = dropout

    def forward(self, x_BLD: Tensor, may: Tensor, image_BPD: Tensor | None, mode: Mode) -> Tensor:
        attention = self.writing if mode == "write" else self.reading
        if attention is None:
            raise ConfigError("this text transformer can only generate (expected one with reads True)")
        x_BLD = attention(x_BLD, x_BLD, may)
        if image_BPD is not None:
            x_BLD = self.cross(x_BLD, image_BPD, None)
        mlp_out_BLD = F.dropout(self.mlp_out(F.gelu(self.mlp_in(x_BLD))), self.dropout, self.training)
        out_BLD: Tensor = self.norm(x_BLD + mlp_out_BLD)
        return out_BLD


class BlipText(nn.Module):
    """Token ids to one vector per token; logits of the next token when it writes.

    The ids of `decode_id` and `read_id` follow the tokenizer's: they take the place of the start mark when a text is written, and
    when it is read with a picture. The output layer is tied to the word embedding. `reads` False omits the parameters that only
    the encoder needs.

    spread  standard deviation of the initial weights of linear layers; BERT's, for a width of 768. In a narrow transformer so
            small a value makes the branches negligible beside the residual, and all texts look alike for many steps
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        image_width: int,
        length: int = 512,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        eps: float = 1e-12,
        reads: bool = True,
        spread: float = 0.02,
    ) -> None:
        super().__init__()
        self.vocab_size, self.length, self.width, self.heads, self.dropout = vocab_size, length, width, heads, dropout
        self.decode_id, self.read_id = vocab_size, vocab_size + 1
        self.words = nn.Embedding(vocab_size + 2, width)
        self.position_LD = nn.Parameter(torch.empty(length, width))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.blocks = nn.ModuleList(
            BlipBlock(width, heads, image_width, mlp_width=int(width * mlp_ratio), dropout=dropout, eps=eps, reads=reads)
            for _ in range(layers)
        )
        self.head = nn.Linear(width, width)
        self.head_norm = nn.LayerNorm(width, eps=eps)
        self.bias_V = nn.Parameter(torch.zeros(vocab_size + 2))
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.position_LD, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=spread)
                nn.init.zeros_(module.bias)

    def read(self, text_BL: Tensor, mask_BL: Tensor, image_BPD: Tensor | None = None) -> Tensor:
        """[B, L, D]: alone, or with a picture, whose start mark is then `read_id`."""
        ids_BL = text_BL if image_BPD is None else self._begun(text_BL, self.read_id)
        return self._through(ids_BL, mask_BL[:, None, None, :], image_BPD, "read")

    def write(self, text_BL: Tensor, mask_BL: Tensor, image_BPD: Tensor) -> Tensor:
        """Logits [B, L, V + 2]: at each place of the token after it."""
        length = text_BL.shape[1]
        earlier_LL = torch.ones(length, length, dtype=torch.bool, device=text_BL.device).tril()
        may = earlier_LL & mask_BL[:, None, None, :]
        x_BLD = self._through(self._begun(text_BL, self.decode_id), may, image_BPD, "write")
        logit_BLV: Tensor = F.linear(self.head_norm(F.gelu(self.head(x_BLD))), self.words.weight, self.bias_V)
        return logit_BLV

    def _begun(self, text_BL: Tensor, mark: int) -> Tensor:
        return torch.cat([torch.full_like(text_BL[:, :1], mark), text_BL[:, 1:]], 1)

    def _through(self, ids_BL: Tensor, may: Tensor, image_BPD: Tensor | None, mode: Mode) -> Tensor:
        if ids_BL.shape[1] > self.length:
            raise ShapeError(f"texts must be ids [B, L] with L up to {self.length}, got {list(ids_BL.shape)}")
        x_BLD = self.norm(self.words(ids_BL) + self.position_LD[: ids_BL.shape[1]])
        x_BLD = F.dropout(x_BLD, self.dropout, self.training)
        for block in self.blocks:
            next_BLD: Tensor = block(x_BLD, may, image_BPD, mode)
            x_BLD = next_BLD
        return x_BLD
