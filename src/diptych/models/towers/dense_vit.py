"""A vision transformer for dense features: two class tokens, layer scale, masked patches, images of any size (TIPS, 2410.16512).

Letters: B batch, C channel, H W, P patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.transformer import Block, Transformer
from diptych.models.towers.outputs import Tower, TowerOutput


@dataclass(frozen=True, slots=True)
class DenseTokens(TowerOutput):
    """`TowerOutput` with the second class token."""

    second_BD: Tensor


class ScaledBlock(nn.Module):
    """Pre-norm block with layer scale (2103.17239): branches are multiplied by a learned factor per channel, initially small."""

    def __init__(self, block: Block, start: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.block, self.path = block, nn.Identity()
        if drop_path:
            from timm.layers import DropPath  # otherwise a text search would import timm

            self.path = DropPath(drop_path)
        self.scale_1_D = nn.Parameter(torch.full((block.mlp_in.in_features,), start))
        self.scale_2_D = nn.Parameter(torch.full((block.mlp_in.in_features,), start))

    def forward(self, x_BLD: Tensor) -> Tensor:
        block = self.block
        x_BLD = x_BLD + self.path(self.scale_1_D * block.attention(block.norm_1(x_BLD)))
        out_BLD: Tensor = x_BLD + self.path(self.scale_2_D * block.mlp_out(block.act(block.mlp_in(block.norm_2(x_BLD)))))
        return out_BLD


class DenseViT(Tower):
    """ViT encoder of square images to patch tokens and two class tokens, at any multiple of `patch`;
    positions are resized from `image_size`.

    The first class token has a position; the second is inserted after positions are added and is initialised near zero,
    like a register. Masked patches are replaced by one learned vector before positions are added.
    The patch convolution has a bias and there is no norm before the blocks, unlike in CLIP; CLIP's weights fit with
    `patch_bias=False, pre_norm=True, layer_scale=1`.

    layer_scale  initial value of the branches' factors
    pool         pooled vector: the first "class" token or the "mean" of the patches
    resized      how positions are resized for other sizes: "bicubic", or "bilinear" (TIPS in JAX, antialiased when they shrink;
                 its port to PyTorch does not antialias, and scales to a tenth of a patch more),
    or "dinov2": bicubic as in that port
    second       False: there is no second class token, and the first replaces it (DINOv2)
    drop_path    share of images for which a branch of a block is dropped in training
    start        initialisation: blocks as CLIP's text tower,
                 or "narrow" (`layers/initialisation.py`) with a class token near zero and a zero mask vector,
    as in the code of DINOv2 and TIPS
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch: int = 14,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        act: str = "gelu",
        layer_scale: float = 1e-5,
        pool: Literal["class", "mean"] = "class",
        patch_bias: bool = True,
        pre_norm: bool = False,
        eps: float = 1e-5,
        resized: Literal["bicubic", "bilinear", "dinov2"] = "bicubic",
        start: Literal["clip", "narrow"] = "clip",
        second: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if resized not in ("bicubic", "bilinear", "dinov2"):
            raise ConfigError(f"resized is {resized!r} (expected bicubic | bilinear | dinov2)")
        self.resized = resized
        if image_size % patch:
            raise ConfigError(f"images of {image_size} pixels cannot be cut into patches of {patch} (expected a divisor)")
        if pool not in ("class", "mean"):
            raise ConfigError(f"pool is {pool!r} (expected class | mean)")
        self.image_size, self.patch, self.width, self.pool = image_size, patch, width, pool
        self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=patch_bias)
        self.class_D = nn.Parameter(torch.randn(width) * 0.02)
        self.second_D = nn.Parameter(torch.randn(width) * 1e-6) if second else None
        self.mask_D = nn.Parameter(torch.randn(width) * 0.02)
        self.position_PD = nn.Parameter(torch.randn((image_size // patch) ** 2 + 1, width) * 0.02)
        self.norm_before = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        blocks = Transformer(width, layers, heads, mlp_ratio=mlp_ratio, act=act, eps=eps, start=start).blocks
        self.blocks = nn.ModuleList(ScaledBlock(block, layer_scale, drop_path) for block in blocks if isinstance(block, Block))
        self.norm_after = nn.LayerNorm(width, eps=eps)
        if start == "narrow":
            nn.init.trunc_normal_(self.position_PD, std=0.02)
            nn.init.normal_(self.class_D, std=1e-6)
            nn.init.zeros_(self.mask_D)

    @property
    def count(self) -> int:
        """Patches per side at `image_size`."""
        return self.image_size // self.patch

    def forward(self, image_BCHW: Tensor, masked_BP: Tensor | None = None) -> DenseTokens:
        """`masked_BP` is True at masked patches, row by row of the image."""
        size = image_BCHW.shape[-1]
        if image_BCHW.shape[1:] != (3, size, size) or size % self.patch:
            raise ShapeError(f"images must be [B, 3, S, S] with S a multiple of {self.patch}, got {list(image_BCHW.shape)}")
        x_BPD = self._embedded(image_BCHW)
        if masked_BP is not None:
            x_BPD = torch.where(masked_BP[..., None], self.mask_D.to(x_BPD), x_BPD)
        position_PD = self._positions(size // self.patch).to(x_BPD)
        first_B1D = (self.class_D + self.position_PD[0]).to(x_BPD).expand(len(x_BPD), 1, -1)
        tokens = [first_B1D] if self.second_D is None else [first_B1D, self.second_D.to(x_BPD).expand(len(x_BPD), 1, -1)]
        x_BPD = self.norm_before(torch.cat([*tokens, x_BPD + position_PD], 1))
        for block in self.blocks:
            x_BPD = block(x_BPD)
        x_BPD = self.norm_after(x_BPD)
        tokens_BPD = x_BPD[:, len(tokens) :]
        mask_BP = tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool)
        return DenseTokens(
            tokens_BPD, mask_BP, x_BPD[:, 0] if self.pool == "class" else tokens_BPD.mean(1), x_BPD[:, len(tokens) - 1]
        )

    def _embedded(self, image_BCHW: Tensor) -> Tensor:
        """Apply the patch convolution as one matrix product with the patches; a convolution with an adapter is called instead."""
        if type(self.patches) is not nn.Conv2d:
            map_BDHW: Tensor = self.patches(image_BCHW)
            return map_BDHW.flatten(2).transpose(1, 2)
        count = image_BCHW.shape[-1] // self.patch
        cut = image_BCHW.reshape(-1, 3, count, self.patch, count, self.patch).permute(0, 2, 4, 1, 3, 5)
        return F.linear(cut.flatten(3).flatten(1, 2), self.patches.weight.flatten(1), self.patches.bias)

    def _positions(self, count: int) -> Tensor:
        grid_PD = self.position_PD[1:]
        if count == self.count:
            return grid_PD
        grid_1DHW = grid_PD.T.reshape(1, self.width, self.count, self.count)
        if self.resized == "dinov2":
            scale = (count + 0.1) / self.count
            return F.interpolate(grid_1DHW, scale_factor=(scale, scale), mode="bicubic").flatten(2)[0].T
        return F.interpolate(grid_1DHW, size=(count, count), mode=self.resized, antialias=True).flatten(2)[0].T
