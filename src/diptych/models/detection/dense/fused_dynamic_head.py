"""GLIP's deep fusion (Li et al., 2022, arXiv 2112.03857): maps and words attend to each other before each round of a dynamic head.

Letters: B batch, D width of maps, H W rows and columns of a map, P positions of all maps, L tokens, T width of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diptych.models.detection.dense.dynamic_head import Coarser, DynamicBlock
from diptych.models.detection.language_fusion import BidirectionalFusion
from diptych.models.layers.post_norm import PostNormBlock


class FusedDynamicHead(nn.Module):
    """Rounds of three steps: all positions of all maps and all tokens attend to each other, scaled by one gate per channel that
    starts at 1 / rounds; tokens attend to each other in a BERT layer; maps go through a `DynamicBlock`. Positions are compared
    with the tokens of the last round.

    What implementations get wrong: places and tokens go on from their *normed* vectors; places of padding are read by the tokens like any
    other, as published; layers among tokens start as plain layers do, and not as BERT's.

    meeting_width, meeting_heads   of the attention between places and tokens, all heads together
    word_heads, word_mlp           of the layers among tokens
    dropout                        of shares of attention, and of what a layer among tokens adds
    limit                          what scores and layers among tokens stay within
    """

    def __init__(
        self,
        width: int,
        token_width: int,
        rounds: int,
        *,
        groups: int = 16,
        coarser: Coarser = "released",
        meeting_width: int = 2048,
        meeting_heads: int = 8,
        word_heads: int = 12,
        word_mlp: int = 3072,
        dropout: float = 0.1,
        limit: float | None = 50_000.0,
    ) -> None:
        super().__init__()
        self.meetings = nn.ModuleList(
            BidirectionalFusion(
                width,
                token_width,
                width=meeting_width,
                heads=meeting_heads,
                gate="vector",
                gate_start=1 / rounds,
                dropout=dropout,
                limit=limit,
            )
            for _ in range(rounds)
        )
        self.words = nn.ModuleList(
            PostNormBlock(token_width, word_heads, mlp_width=word_mlp, dropout=dropout, limit=limit) for _ in range(rounds)
        )
        self.blocks = nn.ModuleList(DynamicBlock(width, groups=groups, coarser=coarser) for _ in range(rounds))
        for module in self.words.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()

    def forward(self, maps: Sequence[Tensor], token_BLT: Tensor, mask_BL: Tensor) -> tuple[list[Tensor], Tensor]:
        """Maps [B, D, H, W], the finest first, and tokens, after all rounds. `mask_BL` is True at real tokens."""
        levels = list(maps)
        for meet, among, block in zip(self.meetings, self.words, self.blocks, strict=True):
            place_BPD = torch.cat([map_BDHW.flatten(2).mT for map_BDHW in levels], 1)
            place_BPD, token_BLT = meet(place_BPD, token_BLT, label_mask_BT=mask_BL)
            token_BLT = among(token_BLT, mask_BL)
            counts = [map_BDHW.shape[2] * map_BDHW.shape[3] for map_BDHW in levels]
            parts = zip(place_BPD.split(counts, 1), levels, strict=True)
            levels = block([part_BPD.mT.unflatten(2, map_BDHW.shape[2:]).contiguous() for part_BPD, map_BDHW in parts])
        return levels, token_BLT
