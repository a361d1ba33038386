"""Fewer image tokens: pooling, pixel shuffle, concatenation of neighbours, merging of alike tokens, resampling by queries.

Every method returns the tokens and a source map: for each token, the weight of each patch in it. Positions, overlays and
questions about regions use that map, since merging permutes tokens and pooling windows may overlap.

Letters: B batch, T frames, P patches (frames times rows times columns), K tokens, D width, H W rows and columns of patches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError

Grid = tuple[int, int, int]
"""Frames, rows and columns; an image is one frame."""


@dataclass(frozen=True, slots=True)
class ReducedTokens:
    """Tokens [B, K, D] and the share of each patch in each token, [B, K, P]; the shares of a token sum to 1."""

    token_BKD: Tensor
    source_BKP: Tensor


def pool_tokens(token_BPD: Tensor, grid: Grid, size: Grid) -> ReducedTokens:
    """Means over windows in time, rows and columns (adaptive average pooling; PLLaVA, 2404.16994). K = product of `size`.

    If a side is not a multiple of its size, windows overlap: 24 columns to 16 are 0-2, 1-3, 3-5 and so on, not a strided mean.
    """
    _check(token_BPD, grid)
    if any(small > large or small < 1 for small, large in zip(size, grid, strict=True)):
        raise ConfigError(f"pooling to {list(size)} of {list(grid)} frames, rows and columns (expected 1 up to as many of each)")
    volume_BDTHW = token_BPD.transpose(1, 2).unflatten(2, grid)
    pooled_BKD = F.adaptive_avg_pool3d(volume_BDTHW, size).flatten(2).transpose(1, 2)
    share_KP = _window_shares(tuple(size), tuple(grid), token_BPD.dtype, token_BPD.device)
    return ReducedTokens(pooled_BKD, share_KP.expand(len(token_BPD), -1, -1))


@lru_cache(maxsize=16)
def _window_shares(size: tuple[int, ...], grid: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[K, P]: the share of each patch in the window of each token. Kept: it would be copied to the device in every step."""
    with torch.inference_mode(False):
        share_KP = torch.ones(1, 1)
        for small, large in zip(size, grid, strict=True):
            share_KP = torch.kron(share_KP, _windows(large, small))
        return share_KP.to(device, dtype)


def shuffle_tokens(token_BPD: Tensor, grid: Grid, factor: int = 2, *, order: Literal["v1", "v2"] = "v2") -> ReducedTokens:
    """Squares of `factor` x `factor` patches as one token of factor squared the width (InternVL's pixel shuffle). K = P / factor squared.

    Features of a square stand in the order row, column, feature. "v2" numbers tokens row by row; "v1", as InternVL's first models
    have it, column by column.
    """
    _check(token_BPD, grid)
    frames, rows, columns = grid
    if factor < 1 or rows % factor or columns % factor:
        raise ConfigError(f"{rows} x {columns} patches cannot be shuffled by {factor} (expected a divisor of both)")
    cut = (frames, rows // factor, factor, columns // factor, factor)
    across = (0, 1, 2, 4, 3, 5, 6) if order == "v2" else (0, 1, 4, 2, 3, 5, 6)
    token_BKE = token_BPD.unflatten(1, cut).permute(across).flatten(4).flatten(1, 3)
    place_P = torch.arange(token_BPD.shape[1], device=token_BPD.device)
    place_KG = place_P.view(1, *cut, 1).permute(across).reshape(-1, factor * factor)
    return ReducedTokens(token_BKE, _shares(place_KG, token_BPD))


def concatenate_tokens(token_BPD: Tensor, group: int = 4) -> ReducedTokens:
    """`group` patches in a row side by side as one token (MiniGPT-v2 and MiniGPT-4 without Q-Former). K = P / group."""
    if token_BPD.ndim != 3 or group < 1 or token_BPD.shape[1] % group:
        raise ConfigError(f"{token_BPD.shape[1]} patches cannot be taken {group} at a time (expected a multiple)")
    place_P = torch.arange(token_BPD.shape[1], device=token_BPD.device)
    return ReducedTokens(token_BPD.unflatten(1, (-1, group)).flatten(2), _shares(place_P.view(-1, group), token_BPD))


def merged_count(tokens: int, merged: int) -> int:
    """Number of tokens after one merging step, which removes at most half of those after the class token.

    >>> merged_count(257, 19), merged_count(9, 19)
    (238, 5)
    """
    return tokens - max(0, min(merged, (tokens - 1) // 2))


def merge_tokens(token_BPD: Tensor, metric_BPE: Tensor, merged: int, source_BPQ: Tensor | None = None) -> ReducedTokens:
    """One step of merging alike tokens (ToMe, 2210.09461, as SimVLG has it, 2310.03291): `merged` fewer.

    Tokens in even places are matched to those in odd places by the cosine of their metric; the `merged` best matches become the
    plain mean of a token and of all tokens merged into it, regardless of how many patches these already represent. Token 0 is the
    class token, which is never merged. The result is the even tokens that are left, then the odd ones.

    metric_BPE  what is compared; no gradient runs through it
    source_BPQ  the source map of `token_BPD`, which that of the result continues; None: each token is its own patch
    """
    count = token_BPD.shape[1]
    going = count - merged_count(count, merged)
    with torch.no_grad():
        target_BP = torch.empty(token_BPD.shape[:2], dtype=torch.int64, device=token_BPD.device)
        even = (count + 1) // 2
        unit_BPE = F.normalize(metric_BPE.float(), dim=-1)
        score_BEO = unit_BPE[:, ::2] @ unit_BPE[:, 1::2].transpose(1, 2)
        score_BEO[:, 0] = -torch.inf
        best_BE, match_BE = score_BEO.max(2)
        order_BE = best_BE.argsort(1, descending=True)
        gone_BR, left_BU = order_BE[:, :going], order_BE[:, going:].sort(1).values
        kept = even - going
        place_BE = torch.empty_like(order_BE)
        place_BE.scatter_(1, left_BU, torch.arange(kept, device=left_BU.device).expand_as(left_BU))
        place_BE.scatter_(1, gone_BR, kept + match_BE.gather(1, gone_BR))
        target_BP[:, ::2] = place_BE
        target_BP[:, 1::2] = kept + torch.arange(count - even, device=left_BU.device)
    index_BPD = target_BP[..., None].expand_as(token_BPD)
    empty_BKD = token_BPD.new_zeros(len(token_BPD), count - going, token_BPD.shape[2])
    mean_BKD = empty_BKD.scatter_reduce(1, index_BPD, token_BPD, reduce="mean", include_self=False)
    with torch.no_grad():
        one_BKP = torch.zeros(len(token_BPD), count - going, count, device=token_BPD.device)
        one_BKP.scatter_(1, target_BP[:, None], 1.0)
        share_BKP = one_BKP / one_BKP.sum(2, keepdim=True)
        source_BKQ = share_BKP if source_BPQ is None else share_BKP @ source_BPQ
    return ReducedTokens(mean_BKD, source_BKQ)


class TokenResampler(nn.Module):
    """Learned queries read all patches by one attention, each side with its norm (Qwen-VL, 2308.12966). K = `queries`."""

    def __init__(self, width: int, *, queries: int, heads: int = 8) -> None:
        super().__init__()
        self.query_KD = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.norm_query, self.norm_token = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, token_BPD: Tensor) -> ReducedTokens:
        read_BPD = self.norm_token(token_BPD)
        query_BKD = self.norm_query(self.query_KD).expand(len(token_BPD), -1, -1)
        token_BKD, source_BKP = self.attention(query_BKD, read_BPD, read_BPD, average_attn_weights=True)
        return ReducedTokens(token_BKD, source_BKP.detach())


def source_heat(source_BKP: Tensor, grid: Grid) -> Tensor:
    """Shares of the patches in each token as maps of frames, rows and columns, [B, K, T, H, W], for overlays."""
    if source_BKP.shape[2] != int(np.prod(grid)):
        raise ShapeError(f"a source map of {source_BKP.shape[2]} patches for {list(grid)} (expected as many)")
    heat_BKTHW: Tensor = source_BKP.unflatten(2, grid)
    return heat_BKTHW


def _check(token_BPD: Tensor, grid: Grid) -> None:
    if token_BPD.ndim != 3 or token_BPD.shape[1] != grid[0] * grid[1] * grid[2]:
        raise ShapeError(f"tokens must be [B, {grid[0] * grid[1] * grid[2]}, D] of {list(grid)}, got {list(token_BPD.shape)}")


def _windows(large: int, small: int) -> Tensor:
    """Shares [small, large] of adaptive average pooling along one side."""
    share = torch.zeros(small, large)
    for window in range(small):
        first, last = window * large // small, -(-(window + 1) * large // small)
        share[window, first:last] = 1 / (last - first)
    return share


def _shares(place_KG: Tensor, token_BPD: Tensor) -> Tensor:
    share_KP = torch.zeros(len(place_KG), token_BPD.shape[1], device=token_BPD.device)
    share_KP.scatter_(1, place_KG, 1 / place_KG.shape[1])
    return share_KP.expand(len(token_BPD), -1, -1)
