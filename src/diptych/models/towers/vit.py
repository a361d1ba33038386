"""Vision transformer of CLIP (2103.00020) and, with options, of SigLIP (2303.15343).

Letters: B batch, C channel, H W, P patches, D width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.layers.initialisation import Start, lecun_normal_
from diptych.models.layers.transformer import Transformer
from diptych.models.towers.attention_pool import AttentionPool
from diptych.models.towers.outputs import Tower, TowerOutput


class VisionTransformer(Tower):
    """ViT encoder of images [B, 3, image_height, image_size] to patch tokens and one vector; square unless `image_height` is set.

    Differences from the common ViT: the patch convolution has no bias, there is a norm before the first block,
    and the pooled vector is the class token after the final norm. Outputs equal those of the released model,
    whose weights can be loaded directly.

    act         "gelu", "quick_gelu" (OpenAI's weights) or "gelu_tanh" (SigLIP's)
    pool        "class", or "attention": no class token, a learned query attends to the patches after the final norm (SigLIP's
    head)
    patch_bias  whether the patch convolution has a bias (SigLIP's)
    pre_norm    whether there is a norm before the first block
    eps         of every norm
    dropout     of every block in training (timm's `drop_rate`)
    cut         images whose sides are not multiples of the patch size are cropped at the right and bottom,
                as SigLIP's at 384 pixels with patches of 14; False: such sizes are refused
    start       initialisation (`layers/initialisation.py`): "torch" as in CLIP's released code, "xavier" SigLIP's,
                "narrow" timm's, or "clip", as CLIP's text tower
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
        pool: Literal["class", "attention"] = "class",
        patch_bias: bool = False,
        pre_norm: bool = True,
        eps: float = 1e-5,
        cut: bool = False,
        dropout: float = 0.0,
        image_height: int | None = None,
        start: Start = "clip",
    ) -> None:
        super().__init__()
        height = image_height or image_size
        for side in (image_size, height):
            if side % patch and not cut:
                raise ConfigError(f"images of {side} pixels cannot be cut into patches of {patch} (expected a divisor)")
        if pool not in ("class", "attention"):
            raise ConfigError(f"pool is {pool!r} (expected class | attention)")
        self.image_size, self.image_height, self.width = image_size, height, width
        by_class, count = pool == "class", (image_size // patch) * (height // patch)
        self.patches = nn.Conv2d(3, width, patch, stride=patch, bias=patch_bias)
        self.style: nn.Module | None = None
        """Module applied to the patches [B, P, D] before positions are added; None unless a recipe sets it (MixStyle)."""
        self.class_token_D = nn.Parameter(torch.randn(width) * width**-0.5) if by_class else None
        self.position_PD = nn.Parameter(torch.randn(count + int(by_class), width) * width**-0.5)
        self.norm_before = nn.LayerNorm(width, eps=eps) if pre_norm else nn.Identity()
        self.transformer = Transformer(width, layers, heads, mlp_ratio=mlp_ratio, act=act, eps=eps, start=start, dropout=dropout)
        self.norm_after = nn.LayerNorm(width, eps=eps)
        self.pool: AttentionPool | None = None
        if not by_class:
            self.pool = AttentionPool(width, heads, mlp_width=int(width * mlp_ratio), act=act, eps=eps)
        if start == "xavier":
            lecun_normal_(self.patches.weight)
            if self.patches.bias is not None:
                nn.init.zeros_(self.patches.bias)
        elif start == "narrow":
            for parameter in (self.position_PD, *((self.class_token_D,) if self.class_token_D is not None else ())):
                nn.init.trunc_normal_(parameter, std=0.02)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        patch = int(self.patches.kernel_size[0])
        return self.image_height // patch, self.image_size // patch

    def states(self, image_BCHW: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        """Return token states after the blocks, before the final norm: the class token, if there is one, and every patch.

        With `kept_BK`, only the patches at those positions are passed to the blocks and returned.
        """
        if image_BCHW.shape[1:] != (3, self.image_height, self.image_size):
            expected = ["B", 3, self.image_height, self.image_size]
            raise ShapeError(f"images must be {expected}, got {list(image_BCHW.shape)}")
        return self._states(image_BCHW, self.position_PD, kept_BK)

    def of_any_size(self, image_BCHW: Tensor) -> TowerOutput:
        """As `forward`, for square images of another size, a multiple of the patch size.

        Positions are resized, bicubic and antialiased when they shrink.
        """
        patch, side = int(self.patches.kernel_size[0]), image_BCHW.shape[-1]
        if image_BCHW.shape[1:] != (3, side, side) or side % patch:
            raise ShapeError(f"images must be [B, 3, S, S] with S a multiple of {patch}, got {list(image_BCHW.shape)}")
        count = side // patch
        if self.grid == (count, count):
            return self(image_BCHW)  # type: ignore[no-any-return]
        first = 0 if self.class_token_D is None else 1
        grid_1DHW = self.position_PD[first:].T.reshape(1, self.width, *self.grid)
        resized_PD = F.interpolate(grid_1DHW, size=(count, count), mode="bicubic", antialias=True).flatten(2)[0].T
        position_PD = torch.cat([self.position_PD[:first], resized_PD])
        return self._tokens(self._states(image_BCHW, position_PD))

    def _states(self, image_BCHW: Tensor, position_PD: Tensor, kept_BK: Tensor | None = None) -> Tensor:
        x_BPD = self._embedded(image_BCHW)
        if self.style is not None:
            x_BPD = self.style(x_BPD)
        if self.class_token_D is not None:
            x_BPD = torch.cat([self.class_token_D.to(x_BPD.dtype).expand(x_BPD.shape[0], 1, -1), x_BPD], dim=1)
        x_BPD = x_BPD + position_PD.to(x_BPD.dtype)
        if kept_BK is not None:
            first = 0 if self.class_token_D is None else 1
            chosen_BKD = x_BPD[:, first:].gather(1, kept_BK[..., None].expand(-1, -1, x_BPD.shape[2]))
            x_BPD = torch.cat([x_BPD[:, :first], chosen_BKD], 1)
        found_BPD: Tensor = self.transformer(self.norm_before(x_BPD))
        return found_BPD

    def forward(self, image_BCHW: Tensor) -> TowerOutput:
        return self._tokens(self.states(image_BCHW))

    def _tokens(self, state_BPD: Tensor) -> TowerOutput:
        x_BPD = self.norm_after(state_BPD)
        tokens_BPD = x_BPD if self.pool is not None else x_BPD[:, 1:]
        pooled_BD = self.pool(x_BPD) if self.pool is not None else x_BPD[:, 0]
        return TowerOutput(tokens_BPD, tokens_BPD.new_ones(tokens_BPD.shape[:2], dtype=torch.bool), pooled_BD)

    def _embedded(self, image_BCHW: Tensor) -> Tensor:
        """Apply the patch convolution as one matrix product with the patches, whose backward is much faster on a CPU.

        A convolution with an adapter is called instead.
        """
        if type(self.patches) is not nn.Conv2d:
            map_BDHW: Tensor = self.patches(image_BCHW)
            return map_BDHW.flatten(2).transpose(1, 2)
        side, weight = self.patches.kernel_size[0], self.patches.weight.flatten(1)
        rows, columns = (length // side for length in image_BCHW.shape[-2:])
        image_BCHW = image_BCHW[..., : rows * side, : columns * side]
        cut = image_BCHW.reshape(-1, 3, rows, side, columns, side)  # [B, C, rows, side, columns, side]
        return F.linear(cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), weight, self.patches.bias)
