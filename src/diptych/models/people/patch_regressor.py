"""Regressor of another model's features of masked patches (UniPT's released code; after context autoencoders, 2202.03026).

Letters: B batch, K visible patches, M hidden ones, P all of them, D width, E width of the target.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError

Places = Literal["rows", "released"]


class RegressorBlock(nn.Module):
    """Queries read keys, each with its place, then think: q + attend(norm(q + place), norm(k + place), norm(v)), then y + mlp(y) of the
    normed sum, as released. Keys have no bias. `dropout` is after the attention, within the MLP and after it, while training."""

    def __init__(self, width: int, heads: int, *, mlp_ratio: float = 4.0, eps: float = 1e-5, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.norm_q, self.norm_k, self.norm_v, self.norm = (nn.LayerNorm(width, eps=eps) for _ in range(4))
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width, bias=False), nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, int(width * mlp_ratio)), nn.Linear(int(width * mlp_ratio), width)

    def forward(self, query_BMD: Tensor, key_BPD: Tensor, query_place_BMD: Tensor, key_place_BPD: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in (
                (self.q, self.norm_q(query_BMD + query_place_BMD)),
                (self.k, self.norm_k(key_BPD + key_place_BPD)),
                (self.v, self.norm_v(key_BPD)),
            )
        )
        attended_BMD = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x_BMD = self.norm(query_BMD + self.dropout(attended_BMD))
        out_BMD: Tensor = x_BMD + self.dropout(self.mlp_out(self.dropout(F.gelu(self.mlp_in(x_BMD)))))
        return out_BMD


class PatchRegressor(nn.Module):
    """From the visible patches of an image tower to the target's features at hidden places, and at visible ones by a layer of their own.

    grid    rows and columns of patches, whose places are fixed sines and cosines; the class token has the place 0
    target  E
    order   "rows": patches are numbered row by row, as the tower has them. "released": the released table goes down the columns, so that
            a patch has another's place
    eps, dropout  of the blocks
    """

    place_PD: Tensor

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        target: int,
        *,
        layers: int = 8,
        heads: int = 16,
        order: Places = "rows",
        eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("place_PD", sine_positions(grid, width, order), persistent=False)
        self.mask_D = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(RegressorBlock(width, heads, eps=eps, dropout=dropout) for _ in range(layers))
        self.hidden = nn.Sequential(nn.Linear(width, target), nn.LayerNorm(target))
        self.visible = nn.Sequential(nn.Linear(width, target), nn.LayerNorm(target))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, seen_BSD: Tensor, kept_BK: Tensor, hidden_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses at hidden places [B, M, E] and at visible ones [B, K, E]. `seen_BSD` is the class token and the K visible
        patches, after the tower's last norm."""
        batch, width = len(seen_BSD), seen_BSD.shape[2]
        place_PD = self.place_PD.to(seen_BSD)
        kept_BKD, hidden_BMD = place_PD[kept_BK], place_PD[hidden_BM]
        class_B1D = place_PD.new_zeros(batch, 1, width)
        query_BMD = self.mask_D.to(seen_BSD).expand(batch, hidden_BM.shape[1], -1)
        for block in self.blocks:
            keys_BPD = torch.cat([seen_BSD, query_BMD], 1)
            query_BMD = block(query_BMD, keys_BPD, hidden_BMD, torch.cat([class_B1D, kept_BKD, hidden_BMD], 1))
        return self.hidden(query_BMD), self.visible(seen_BSD[:, 1:])


def sine_positions(grid: tuple[int, int], width: int, order: Places = "rows") -> Tensor:
    """[P, D], rows of the grid one after the other: sines and cosines of the column, then of the row, frequencies from 1 to 1/10000."""
    if order not in ("rows", "released"):
        raise ConfigError(f"places is {order!r} (expected rows | released)")
    if width % 4:
        raise ConfigError(f"places of width {width} (expected a multiple of 4)")
    rows, columns = grid
    omega_F = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row_P, column_P = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    if order == "released":
        row_P, column_P = row_P.T, column_P.T
    angles = [place_P.flatten()[:, None] * omega_F for place_P in (column_P, row_P)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], 1).float()
