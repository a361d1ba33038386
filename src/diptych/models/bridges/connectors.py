"""Connectors from image features [B, P, F] to token embeddings [B, K, D] of a language model.

Letters: B batch, P patches, F features, K tokens per picture, D width of the language model, E total output width per feature,
T queries and words, Q queries, L words of an instruction.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self

import torch
import transformers
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.bridges.token_reduction import Grid, ReducedTokens, pool_tokens, shuffle_tokens
from diptych.models.towers.packaged.key_mask import key_mask

Kind = Literal["linear", "spread", "grouped", "mlp", "queries", "merging", "pooled", "shuffled"]


class LinearConnector(nn.Module):
    """One linear map of every feature, then dropout (LiMBeR, 2209.15162: .1, no norm). K = P.

    tokens  for an encoder with one vector per image: a map to that many tokens at once, [B, 1, F] -> [B, tokens, D]
    pooled  average all features to one vector first
    """

    def __init__(self, features: int, width: int, *, tokens: int = 1, dropout: float = 0.1, pooled: bool = False) -> None:
        super().__init__()
        self.tokens, self.pooled = tokens, pooled
        self.map = nn.Linear(features, tokens * width)
        self.dropout = nn.Dropout(dropout)

    def count(self, patches: int) -> int:
        return self.tokens if self.pooled else patches * self.tokens

    def forward(self, feature_BPF: Tensor) -> Tensor:
        if self.pooled:
            feature_BPF = feature_BPF.mean(1, keepdim=True)
        spread_BPE: Tensor = self.dropout(self.map(feature_BPF))
        picture_BKD: Tensor = spread_BPE.unflatten(2, (self.tokens, -1)).flatten(1, 2)
        return picture_BKD


class GroupedConnector(nn.Module):
    """Neighbouring patches side by side, then one linear map (MiniGPT-4, 2304.10592, without Q-Former: four). K = P / group.

    norm  a LayerNorm of the patches before, without gain or bias, 0 for none, else its epsilon
    """

    def __init__(self, features: int, width: int, *, group: int = 4, norm: float = 0.0) -> None:
        super().__init__()
        self.group = group
        self.norm = nn.LayerNorm(features, eps=norm, elementwise_affine=False) if norm else nn.Identity()
        self.map = nn.Linear(group * features, width)

    def count(self, patches: int) -> int:
        if patches % self.group:
            raise ConfigError(f"{patches} patches cannot be taken {self.group} at a time (expected a multiple)")
        return patches // self.group

    def forward(self, feature_BPF: Tensor) -> Tensor:
        self.count(feature_BPF.shape[1])
        picture_BKD: Tensor = self.map(self.norm(feature_BPF).unflatten(1, (-1, self.group)).flatten(2))
        return picture_BKD


class MlpConnector(nn.Module):
    """Two linear maps with a GELU between (LLaVA 1.5, 2310.03744). K = P.

    unit     tokens are scaled to norm 1 (Croc, 2410.14332)
    newline  a learned token ends every row of an image's tiles (`tile_packing.pack_tiles`; LLaVA 1.6)
    """

    def __init__(self, features: int, width: int, *, unit: bool = False, newline: bool = False) -> None:
        super().__init__()
        self.unit = unit
        self.newline_D = nn.Parameter(torch.randn(width) * width**-0.5) if newline else None
        self.linear_1, self.act, self.linear_2 = nn.Linear(features, width), nn.GELU(), nn.Linear(width, width)

    def count(self, patches: int) -> int:
        return patches

    def forward(self, feature_BPF: Tensor) -> Tensor:
        picture_BPD: Tensor = self.linear_2(self.act(self.linear_1(feature_BPF)))
        return nn.functional.normalize(picture_BPD, dim=2) if self.unit else picture_BPD


class PooledConnector(MlpConnector):
    """`MlpConnector` first, then means over windows of frames, rows and columns (PLLaVA, 2404.16994). K = product of `size`.

    size    output frames, rows and columns; published: 16, 12, 12
    frames  of a clip, whose patches [B, frames * P, F] follow one another
    """

    def __init__(self, features: int, width: int, *, size: tuple[int, int, int], frames: int = 1) -> None:
        super().__init__(features, width)
        self.size, self.frames = (size[0], size[1], size[2]), frames

    def count(self, patches: int) -> int:
        self._grid(patches)
        return self.size[0] * self.size[1] * self.size[2]

    def _grid(self, patches: int) -> Grid:
        side = math.isqrt(patches // self.frames)
        if patches % self.frames or side * side * self.frames != patches:
            raise ConfigError(f"{patches} patches are not {self.frames} square frames (expected a square of patches each)")
        return self.frames, side, side

    def reduce(self, feature_BPF: Tensor) -> ReducedTokens:
        """Tokens and their source map over patches."""
        return pool_tokens(super().forward(feature_BPF), self._grid(feature_BPF.shape[1]), self.size)

    def forward(self, feature_BPF: Tensor) -> Tensor:
        return self.reduce(feature_BPF).token_BKD


class ShuffledConnector(nn.Module):
    """Squares of `factor` x `factor` patches as one token, norm, two linear maps with a GELU between (InternVL 1.5, 2404.16821).
    K = P / factor squared.

    order  see `token_reduction.shuffle_tokens`
    """

    def __init__(self, features: int, width: int, *, factor: int = 2, order: Literal["v1", "v2"] = "v2") -> None:
        super().__init__()
        self.factor, self.order = factor, order
        self.norm = nn.LayerNorm(features * factor**2)
        self.linear_1, self.act, self.linear_2 = nn.Linear(features * factor**2, width), nn.GELU(), nn.Linear(width, width)

    def _grid(self, patches: int) -> Grid:
        side = math.isqrt(patches)
        if side * side != patches or side % self.factor:
            raise ConfigError(f"{patches} patches are not a square that {self.factor} divides (expected such a square)")
        return 1, side, side

    def count(self, patches: int) -> int:
        self._grid(patches)
        return patches // self.factor**2

    def reduce(self, feature_BPF: Tensor) -> ReducedTokens:
        """Tokens and their source map over patches."""
        cut = shuffle_tokens(feature_BPF, self._grid(feature_BPF.shape[1]), self.factor, order=self.order)
        return ReducedTokens(self.linear_2(self.act(self.linear_1(self.norm(cut.token_BKD)))), cut.source_BKP)

    def forward(self, feature_BPF: Tensor) -> Tensor:
        return self.reduce(feature_BPF).token_BKD


class QueryConnector(nn.Module):
    """A Q-Former (BLIP-2, 2301.12597; InstructBLIP, 2305.06500) and one linear map: K = Q learned queries read the features.

    The Q-Former is transformers'; `former` is its configuration, `Blip2QFormerConfig` or, with `reads_text`, `InstructBlipQFormerConfig`:
    width 768, 12 layers and heads, cross-attention in every second layer. With `reads_text` the instruction shares self-attention with
    the queries, which therefore depend on the instruction; only the queries attend to the image, and only they are passed on.

    norm  LayerNorm of the features before (`ln_vision`), 0 for none, else its epsilon
    still  everything except the linear map is frozen (MiniGPT-4, 2304.10592)
    rests  the frozen part is also in evaluation mode; False: its dropout is active in training (mBLIP, 2307.06930)
    """

    def __init__(
        self,
        features: int,
        width: int,
        *,
        queries: int = 32,
        former: dict[str, Any] | None = None,
        reads_text: bool = False,
        norm: float = 1e-5,
        still: bool = False,
        rests: bool = True,
    ) -> None:
        super().__init__()
        kinds = (transformers.Blip2QFormerConfig, transformers.Blip2QFormerModel)
        if reads_text:
            kinds = (transformers.InstructBlipQFormerConfig, transformers.InstructBlipQFormerModel)
        settings = kinds[0](**{**(former or {}), "encoder_hidden_size": features})
        self.reads_text = reads_text
        self.norm = nn.LayerNorm(features, eps=norm) if norm else nn.Identity()
        self.former = kinds[1](settings)
        self.query_QD = nn.Parameter(torch.randn(queries, settings.hidden_size) * 0.02)
        self.map = nn.Linear(settings.hidden_size, width)
        self.resting = still and rests
        if still:
            self.requires_grad_(False)
            self.map.requires_grad_(True)
            self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.resting:
            self.former.eval()
        return self

    def count(self, patches: int) -> int:
        return len(self.query_QD)

    def forward(self, feature_BPF: Tensor, text_BL: Tensor | None = None, text_mask_BL: Tensor | None = None) -> Tensor:
        if (text_BL is None) == self.reads_text:
            raise ShapeError(
                "this Q-Former reads the instruction, and got none" if self.reads_text else "this Q-Former does not read text"
            )
        rows, queries = len(feature_BPF), len(self.query_QD)
        given: dict[str, Any] = {"encoder_hidden_states": self.norm(feature_BPF)}
        if text_BL is not None:
            mask_BL = torch.ones_like(text_BL) if text_mask_BL is None else text_mask_BL.long()
            mask_BT = torch.cat([mask_BL.new_ones(rows, queries), mask_BL], 1)
            attention = str(self.former.config._attn_implementation)
            given |= {"input_ids": text_BL, "attention_mask": key_mask(mask_BT, attention)}
        found_BTD = self.former(query_embeds=self.query_QD.expand(rows, -1, -1), **given).last_hidden_state
        picture_BQD: Tensor = self.map(found_BTD[:, :queries])
        return picture_BQD


def connector(kind: Kind, features: int, width: int, **options: Any) -> nn.Module:
    """A connector by name: linear (`tokens` 1), spread (`tokens` many of one vector), grouped, mlp, queries, merging, pooled,
    shuffled."""
    from diptych.models.bridges.merging_connector import MergingConnector

    made: dict[str, type[nn.Module]] = {
        "merging": MergingConnector,
        "pooled": PooledConnector,
        "shuffled": ShuffledConnector,
        "linear": LinearConnector,
        "spread": LinearConnector,
        "grouped": GroupedConnector,
        "mlp": MlpConnector,
        "queries": QueryConnector,
    }
    if kind not in made:
        raise ConfigError(f"connector is {kind!r} (expected {' | '.join(made)})")
    return made[kind](features, width, **options)
