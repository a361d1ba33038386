"""BEiT's image transformer (2106.08254): relative position biases instead of position embeddings.

Letters: B batch, C channel, H W, P patches and the class token, D width, N heads, R entries of the bias table.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.towers.outputs import Tower, TowerOutput

Other = Literal["resampled", "released"]
CLASS_ENTRIES = 3  # of a bias table: class token to patch, patch to class token, class token to itself


class RelativeBias(nn.Module):
    """Relative position bias: a value per head and offset (rows, columns) of two patches of a square grid;
    three more for the class token.

    `other` is the rule for a grid of another size. "resampled": the table of offsets is interpolated bilinearly, like an image.
    "released", as in LexLIP's code: a smaller grid takes the first rows and columns of the large grid's matrix,
    so that patches get the biases of others; for a larger grid the table is interpolated as one line, class entries included,
    whose indices stay the same.
    """

    index_PP: Tensor

    def __init__(self, count: int, heads: int, other: Other) -> None:
        super().__init__()
        if other not in get_args(Other):
            raise ConfigError(f"other_sizes is {other!r} (expected {' | '.join(get_args(Other))})")
        self.count, self.other = count, other
        self.table_RN = nn.Parameter(torch.zeros((2 * count - 1) ** 2 + CLASS_ENTRIES, heads))
        self.register_buffer("index_PP", relative_position_index(count), persistent=False)

    def forward(self, count: int) -> Tensor:
        """Return biases [N, P, P] for a grid of `count` x `count` patches."""
        if count == self.count:
            return self.table_RN[self.index_PP].permute(2, 0, 1)
        if self.other == "resampled":
            return self._stretched(count)[relative_position_index(count).to(self.index_PP)].permute(2, 0, 1)
        if count < self.count:
            positions = count * count + 1
            return self.table_RN[self.index_PP[:positions, :positions]].permute(2, 0, 1)
        return self._drawn_out(count)[relative_position_index(count, len(self.table_RN)).to(self.index_PP)].permute(2, 0, 1)

    def _stretched(self, count: int) -> Tensor:
        side, target = 2 * self.count - 1, 2 * count - 1
        plain_RN, class_RN = self.table_RN[:-CLASS_ENTRIES], self.table_RN[-CLASS_ENTRIES:]
        grid_1NHW = plain_RN.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        wide_1NHW = F.interpolate(grid_1NHW, size=(target, target), mode="bilinear")
        return torch.cat([wide_1NHW.permute(0, 2, 3, 1).reshape(target * target, -1), class_RN])

    def _drawn_out(self, count: int) -> Tensor:
        factor = ((2 * count - 1) ** 2 + CLASS_ENTRIES + 0.1) / len(self.table_RN)
        return F.interpolate(self.table_RN.T[None], scale_factor=factor, mode="linear", align_corners=False)[0].T


def relative_position_index(count: int, entries: int = 0) -> Tensor:
    """Return the bias table index of each pair of positions, [P, P]; the class token is first.

    Its entries are the last of `entries` (0: of those that the grid needs).
    """
    place_P = torch.arange(count * count)
    row_P, column_P = place_P // count, place_P % count
    side = 2 * count - 1
    down_PP = row_P[:, None] - row_P + count - 1
    right_PP = column_P[:, None] - column_P + count - 1
    entries = entries or side * side + CLASS_ENTRIES
    index_PP = torch.full((count * count + 1, count * count + 1), entries - 2)
    index_PP[1:, 1:] = down_PP * side + right_PP
    index_PP[0, :] = entries - 3
    index_PP[:, 0] = entries - 2
    index_PP[0, 0] = entries - 1
    return index_PP


class BiasedBlock(nn.Module):
    """x + a * attention(norm(x)), then x + b * mlp(norm(x)), with learned factors a and b per channel; keys have no bias."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        mlp_width: int,
        layer_scale: float,
        drop_path: float,
        eps: float,
        count: int,
        other: Other,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"attention of width {width} cannot be cut into {heads} heads (expected heads that divide the width)"
            )
        self.heads, self.drop_path = heads, drop_path
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.bias = RelativeBias(count, heads, other)
        self.mlp_in, self.mlp_out = nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)
        self.scale_1_D = nn.Parameter(torch.full((width,), layer_scale))
        self.scale_2_D = nn.Parameter(torch.full((width,), layer_scale))
        for layer in (self.query, self.key, self.value, self.out, self.mlp_in, self.mlp_out):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x_BPD: Tensor, count: int) -> Tensor:
        x_BPD = x_BPD + self._kept(self.scale_1_D * self._attended(self.norm_1(x_BPD), self.bias(count)))
        mlp_out_BPD: Tensor = self.scale_2_D * self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x_BPD))))
        return x_BPD + self._kept(mlp_out_BPD)

    def _attended(self, x_BPD: Tensor, bias_NPP: Tensor) -> Tensor:
        q, k, v = (part(x_BPD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_NPP.to(q.dtype)[None])
        out_BPD: Tensor = self.out(read.transpose(1, 2).flatten(2))
        return out_BPD

    def _kept(self, branch_BPD: Tensor) -> Tensor:
        """Stochastic depth: in training the branch is dropped for some images and scaled up for the others."""
        if not (self.training and self.drop_path):
            return branch_BPD
        keep_rate = 1 - self.drop_path
        return branch_BPD * (torch.rand(len(branch_BPD), 1, 1, device=branch_BPD.device) < keep_rate).to(branch_BPD) / keep_rate


class BEiT(Tower):
    """BEiT encoder of square images [B, 3, S, S] to patch tokens and a class token; S is any multiple of `patch`.

    layer_scale  initial value of the branches' factors
    drop_path    stochastic depth of the last block; it rises linearly from 0 at the first
    other_sizes  rule of the position biases for sizes other than `image_size`: `RelativeBias`
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch: int = 16,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        layer_scale: float = 0.1,
        drop_path: float = 0.1,
        other_sizes: Other = "resampled",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ConfigError(f"images of {image_size} pixels cannot be cut into patches of {patch} (expected a divisor)")
        self.image_size, self.patch, self.width = image_size, patch, width
        self.patches = nn.Conv2d(3, width, patch, stride=patch)
        self.class_D = nn.Parameter(torch.randn(width) * 0.02)  # at zero the norm after it has a gradient of 1 / sqrt(eps)
        self.blocks = nn.ModuleList(
            BiasedBlock(
                width,
                heads,
                mlp_width=int(width * mlp_ratio),
                layer_scale=layer_scale,
                drop_path=drop_path * block / max(layers - 1, 1),
                eps=eps,
                count=image_size // patch,
                other=other_sizes,
            )
            for block in range(layers)
        )
        self.norm_after = nn.LayerNorm(width, eps=eps)
        nn.init.normal_(self.patches.weight, std=0.02)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        size = image_BCHW.shape[-1]
        if image_BCHW.shape[1:] != (3, size, size) or size % self.patch:
            raise ShapeError(f"images must be [B, 3, S, S] with S a multiple of {self.patch}, got {list(image_BCHW.shape)}")
        count = size // self.patch
        cut = image_BCHW.reshape(-1, 3, count, self.patch, count, self.patch).permute(0, 2, 4, 1, 3, 5)
        x_BPD = F.linear(cut.flatten(3).flatten(1, 2), self.patches.weight.flatten(1), self.patches.bias)
        x_BPD = torch.cat([self.class_D.to(x_BPD).expand(len(x_BPD), 1, -1), x_BPD], 1)
        for block in self.blocks:
            x_BPD = block(x_BPD, count)
        x_BPD = self.norm_after(x_BPD)
        tokens_BPD = x_BPD[:, 1:]
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), x_BPD[:, 0])
