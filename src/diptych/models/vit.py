"""CLIP's vision transformer (2103.00020).  Letters: B batch, C channel, H W, P patches, D width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.outputs import Tokens, Tower
from diptych.models.transformer import Transformer


class VisionTransformer(Tower):
    """Square images [B, 3, image_size, image_size] to patch tokens and the class token.

    What differs from the common ViT: the patch convolution has no bias, there is a norm before the first block, and the pooled
    vector is the class token after the last norm. Numerics are those of the released model, so its weights fit as they are.
    """

    def __init__(
        self,
        *,
        image_size: int = 224,
        patch: int = 32,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        mlp_ratio: float = 4.0,
        act: str = "gelu",
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ConfigError(f"images of {image_size} pixels cannot be cut into patches of {patch} (expected a divisor)")
        self.image_size, self.width = image_size, width
        self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.class_token_D = nn.Parameter(torch.randn(width) * width**-0.5)
        self.position_PD = nn.Parameter(torch.randn((image_size // patch) ** 2 + 1, width) * width**-0.5)
        self.norm_before = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, mlp_ratio=mlp_ratio, act=act)
        self.norm_after = nn.LayerNorm(width)

    def forward(self, image_BCHW: Tensor) -> Tokens:
        if image_BCHW.shape[1:] != (3, self.image_size, self.image_size):
            expected = ["B", 3, self.image_size, self.image_size]
            raise ShapeError(f"images must be {expected}, got {list(image_BCHW.shape)}")
        patch_BPD = self._embedded(image_BCHW)
        class_B1D = self.class_token_D.to(patch_BPD.dtype).expand(patch_BPD.shape[0], 1, -1)
        x_BPD = torch.cat([class_B1D, patch_BPD], dim=1) + self.position_PD.to(patch_BPD.dtype)
        x_BPD = self.norm_after(self.transformer(self.norm_before(x_BPD)))
        tokens_BPD = x_BPD[:, 1:]
        return Tokens(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), x_BPD[:, 0])

    def _embedded(self, image_BCHW: Tensor) -> Tensor:
        """The convolution, whose stride is its size, as one product with the cut-out patches: its backward is much faster on a CPU."""
        side, weight = self.patches.kernel_size[0], self.patches.weight.flatten(1)
        count = self.image_size // side
        cut = image_BCHW.reshape(-1, 3, count, side, count, side)  # [B, C, rows, side, columns, side]
        return F.linear(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), weight)
