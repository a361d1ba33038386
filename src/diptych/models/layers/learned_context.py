"""Learned context vectors between the words of prompts (CoOp, 2109.01134; DenseCLIP, 2112.01518).

Letters: B batch, K classes, L tokens, M context vectors, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError

Start = Literal["normal", "truncated"]


class LearnedContext(nn.Module):
    """Learned context vectors, shared by all classes [M, D] or per class [K, M, D], in the space of a tower's token embeddings.

    classes  0: shared; else K sets ("class-specific context")
    words_MD initial embeddings of words; None: random
    start    random vectors are "normal" with deviation `std` (CoOp: 0.02), or "truncated" normal at two units (DenseCLIP: 1)
    """

    def __init__(
        self,
        width: int,
        count: int,
        *,
        classes: int = 0,
        words_MD: Tensor | None = None,
        start: Start = "normal",
        std: float = 0.02,
    ) -> None:
        super().__init__()
        if words_MD is not None and words_MD.shape != (count, width):
            raise ShapeError(f"the words to start from must be [{count}, {width}], got {list(words_MD.shape)}")
        if start not in ("normal", "truncated"):
            raise ConfigError(f"start is {start!r} (expected normal | truncated)")
        self.width, self.count, self.classes = width, count, classes
        shape = (classes, count, width) if classes else (count, width)
        self.context = nn.Parameter(torch.empty(shape, dtype=None if words_MD is None else words_MD.dtype))
        with torch.no_grad():
            if words_MD is not None:
                self.context.copy_(words_MD.expand(shape))
            elif start == "normal":
                nn.init.normal_(self.context, std=std)
            else:
                nn.init.trunc_normal_(self.context, std=std)

    def forward(self, token_KLD: Tensor, order_KL: Tensor, span: tuple[int, int], shift_BD: Tensor | None = None) -> Tensor:
        """Return prompts [K, L, D]: embedded rows whose positions `span` are replaced by the context, then reordered.

        Rows and order are those of `data.text.prompts.class_prompts`.

        shift_BD  is added to every context vector, one per image (CoCoOp, 2203.05557): prompts [B, K, L, D]
        """
        first, behind = span
        if behind - first != self.count:
            raise ShapeError(f"the prompts have {behind - first} context positions (expected {self.count})")
        if self.classes and self.classes != len(token_KLD):
            raise ConfigError(f"{len(token_KLD)} classes for {self.classes} sets of context (expected one set for each class)")
        context_KMD = self.context.expand(len(token_KLD), -1, -1)
        if shift_BD is None:
            return _ordered(torch.cat([token_KLD[:, :first], context_KMD, token_KLD[:, behind:]], dim=1), order_KL)
        images = len(shift_BD)
        shifted_BKMD = context_KMD + shift_BD[:, None, None]
        parts = (
            token_KLD[:, :first].expand(images, -1, -1, -1),
            shifted_BKMD,
            token_KLD[:, behind:].expand(images, -1, -1, -1),
        )
        return _ordered(torch.cat(parts, dim=2), order_KL.expand(images, -1, -1))


def _ordered(row_KLD: Tensor, order_KL: Tensor) -> Tensor:
    return row_KLD.gather(-2, order_KL[..., None].expand(row_KLD.shape))
