"""Image towers with a projected feature map, averaged over positions (BioViL, 2204.09817; BioViL-T, 2301.04558).

Letters: B batch, C channel, H W, P positions, D width.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.sine_position import map_sine
from diptych.models.layers.synced_batch_norm import SyncedBatchNorm
from diptych.models.towers.outputs import Tower, TowerOutput
from diptych.models.towers.packaged.timm_tower import TimmTower

Order = Literal["map", "pooled"]


class ProjectedMapTower(Tower):
    """Linear (no bias), batch norm, ReLU, Linear on every position of `inner`'s map, as 1x1 convolutions.

    The pooled vector is the mean of the projected positions,
    so that a patch and a whole image are compared with a text in one space.

    order  "map" as released; "pooled" projects the mean of the map instead, and its positions by the same layers

    Batch norm uses the whole batch: with gradient caching it would normalise within a chunk.
    """

    projects = True

    def __init__(self, inner: Tower, out: int, *, order: Order = "map") -> None:
        super().__init__()
        if order not in get_args(Order):
            raise ConfigError(f"order of a projected map is {order!r} (expected {' | '.join(get_args(Order))})")
        self.inner, self.width, self.order = inner, out, order
        first, second = nn.Linear(inner.token_width, out, bias=False), nn.Linear(out, out)
        self.project = nn.Sequential(first, SyncedBatchNorm(out), nn.ReLU(), second)
        self.image_size: Any = getattr(inner, "image_size", None)

    def forward(self, image_BCHW: Tensor, *earlier: Tensor) -> TowerOutput:
        """`earlier` [B, C, H, W] is a prior image of the same patient, for an `inner` that compares images (BioViL-T)."""
        output = self.inner(image_BCHW, *earlier)
        tokens_BPD = self._projected(output.tokens_BPD)
        pooled_BD = tokens_BPD.mean(1) if self.order == "map" else self._projected(output.tokens_BPD.mean(1, keepdim=True))[:, 0]
        return TowerOutput(tokens_BPD, output.mask_BP, pooled_BD)

    def _projected(self, tokens_BPC: Tensor) -> Tensor:
        projected: Tensor = self.project(tokens_BPC.flatten(0, 1))
        whole: Tensor = projected.unflatten(0, tokens_BPC.shape[:2])
        return whole


class TemporalImageTower(Tower):
    """BioViL-T's image encoder: the map of a residual network, concatenated with the difference to a prior image.

    The difference is computed by three transformer blocks on the positions of both;
    it is a learned vector if there is no prior image. Tokens are [B, P, 2 `half`], pooled by their mean.

    model  a residual network of timm; released with resnet50 at 448 pixels, which gives 14 x 14 positions
    """

    def __init__(
        self, *, model: str = "resnet50", image_size: int = 448, half: int = 256, heads: int = 8, blocks: int = 3
    ) -> None:
        super().__init__()
        self.net = TimmTower(model=model, image_size=image_size)
        self.width, self.image_size, self.grid = 2 * half, image_size, -(-image_size // 32)
        self.narrow = nn.Linear(self.net.width, half, bias=False)
        self.missing_D = nn.Parameter(torch.empty(half))
        self.kind_2D = nn.Parameter(torch.empty(2, half))
        nn.init.trunc_normal_(self.missing_D, std=0.02)
        nn.init.trunc_normal_(self.kind_2D, std=0.02)
        self.blocks = nn.ModuleList(_DifferenceBlock(half, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(half, eps=1e-6)
        self.dropout = nn.Dropout(0.1)

    def forward(self, image_BCHW: Tensor, *earlier: Tensor) -> TowerOutput:
        """Raises ShapeError if an earlier image has another size."""
        tokens_BPD = self.narrow(self.net(image_BCHW).tokens_BPD)
        if earlier:
            if len(earlier) > 1 or earlier[0].shape != image_BCHW.shape:
                raise ShapeError(f"an earlier image must be {list(image_BCHW.shape)}, got {[list(one.shape) for one in earlier]}")
            difference_BPD = self._difference(tokens_BPD, self.narrow(self.net(earlier[0]).tokens_BPD))
        else:
            difference_BPD = self.missing_D.expand_as(tokens_BPD)
        both_BPD = torch.cat([tokens_BPD, difference_BPD], -1)
        return TowerOutput(both_BPD, both_BPD.new_ones(both_BPD.shape[:2], dtype=torch.bool), both_BPD.mean(1))

    def _difference(self, tokens_BPD: Tensor, earlier_BPD: Tensor) -> Tensor:
        """Return the difference features; positions and image types are added to queries, keys and values in every block."""
        count, width = tokens_BPD.shape[1:]
        places_1HW = torch.ones(1, self.grid, self.grid, device=tokens_BPD.device)
        position_PD = map_sine(places_1HW, width, centred=False)[0].to(tokens_BPD)
        added_SD = torch.cat([position_PD + kind_D for kind_D in self.kind_2D])
        state_BSD = self.dropout(torch.cat([tokens_BPD, earlier_BPD], 1))
        for block in self.blocks:
            state_BSD = block(state_BSD, added_SD)
        difference_BPD: Tensor = self.norm(state_BSD)[:, :count]
        return difference_BPD


class _DifferenceBlock(nn.Module):
    """Pre-norm block: self-attention without biases in its projections, an MLP of the same width; dropout 0.1, drop path 0.25."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.proj_q, self.proj_k, self.proj_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.proj, self.fc1, self.fc2 = (nn.Linear(width, width) for _ in range(3))
        self.dropout, self.path = nn.Dropout(0.1), DropPath(0.25)
        for layer in (self.proj_q, self.proj_k, self.proj_v, self.proj, self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, x_BSD: Tensor, added_SD: Tensor) -> Tensor:
        asked_BSD = self.norm1(x_BSD) + added_SD
        q, k, v = (
            layer(asked_BSD).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.proj_q, self.proj_k, self.proj_v)
        )
        read_BSD = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0).transpose(1, 2).flatten(2)
        x_BSD = x_BSD + self.path(self.dropout(self.proj(read_BSD)))
        inner_BSD = self.dropout(F.gelu(self.fc1(self.norm2(x_BSD))))
        out_BSD: Tensor = x_BSD + self.path(self.dropout(self.fc2(inner_BSD)))
        return out_BSD


def projected_map(inner: Tower, out: int, *, order: Order = "map") -> ProjectedMapTower:
    """Return `inner` with such layers after it, and a `spec` that rebuilds it."""
    made = ProjectedMapTower(inner, out, order=order)
    made.spec = {"name": "projected_map", "inner": inner.spec, "out": out, "order": order}
    if made.image_size is not None:
        made.spec["image_size"] = made.image_size
    return made
