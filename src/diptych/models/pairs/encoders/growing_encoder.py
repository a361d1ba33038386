"""Dual encoder that can grow, with blocks shared by both towers (GrowCLIP, 2308.11331).

Letters: B batch, N items, C channel, H W, L tokens, P patches or words, D width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.transformer import Block, Transformer, l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.growth import Grown, GrowthInit, TowerSizes, deepen, widen
from diptych.models.towers.outputs import Tower, TowerOutput


class GrowingEncoder(DualEncoder):
    """A `DualEncoder` with `shared` blocks after either tower: the same weights are applied to [pooled vector;
    tokens] of an image or of a text, and the first output is projected. Their MLPs are as wide as the image tower's.
    Without shared blocks it is exactly a `DualEncoder`.

    Growth changes the module in place and keeps existing parameters and the towers' `spec` up to date,
    so that a grown model is saved and loaded like any other.
    """

    def __init__(self, image_tower: Tower, text_tower: Tower, *, shared_layers: int = 0, **options: Any) -> None:
        super().__init__(image_tower, text_tower, **options)
        self.shared = nn.ModuleList()
        if shared_layers:
            like = transformer_of(image_tower)
            first = like.blocks[0]
            assert isinstance(first, Block)
            ratio = first.mlp_in.out_features / like.width
            self.shared = Transformer(
                like.width, shared_layers, first.attention.heads, mlp_ratio=ratio, act=first.act_name
            ).blocks
            self._check_widths()

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return l2_normalise(self.image_projection(self._fused(self.image_tower(image_BCHW))))

    def encode_text(self, text: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        return l2_normalise(self.text_projection(self._fused(self.text_tower(text, mask_BL))))

    def _fused(self, output: TowerOutput) -> Tensor:
        if not len(self.shared):
            return output.pooled_BD
        x_BPD = torch.cat([output.pooled_BD[:, None], output.tokens_BPD], 1)
        mask_BP = torch.cat([output.mask_BP.new_ones(len(x_BPD), 1), output.mask_BP], 1)
        for block in self.shared:
            x_BPD = block(x_BPD, mask_BP)
        return x_BPD[:, 0]

    @property
    def shape(self) -> TowerSizes:
        image, text = transformer_of(self.image_tower), transformer_of(self.text_tower)
        return TowerSizes(len(image.blocks), len(text.blocks), len(self.shared), _ratio(image), _ratio(text))

    def variant(self) -> dict[str, Any]:
        """Settings to rebuild this variant, in addition to those of every `DualEncoder`."""
        return {"kind": "growing", "shared_layers": len(self.shared)} if len(self.shared) else {}

    def grow_(self, shape: TowerSizes, inherit: GrowthInit) -> Grown:
        """Grow to that shape, with new weights from the current torch random state. Returns which parameters extend which."""
        now = self.shape
        if not now.within(shape):
            raise ConfigError(f"{now} cannot grow to {shape}: something would shrink")
        grown: Grown = {}
        for tower, layers, ratio in (
            (self.image_tower, shape.image_layers, shape.image_mlp),
            (self.text_tower, shape.text_layers, shape.text_mlp),
        ):
            transformer = transformer_of(tower)
            grown |= widen(transformer.blocks, ratio * transformer.width, inherit)
            deepen(transformer.blocks, layers, inherit)
            tower.spec = {**tower.spec, "layers": layers, "mlp_ratio": float(ratio)}
        last = transformer_of(self.image_tower).blocks[-1]
        assert isinstance(last, Block)
        grown |= widen(self.shared, shape.image_mlp * transformer_of(self.image_tower).width, inherit)
        deepen(self.shared, shape.shared_layers, inherit, like=last)
        self._check_widths()
        return grown

    def _check_widths(self) -> None:
        if len(self.shared) and self.image_tower.width != self.text_tower.width:
            raise ConfigError(
                f"blocks cannot be shared by towers of width {self.image_tower.width} and {self.text_tower.width} (expected equal widths)"
            )


def transformer_of(tower: Tower) -> Transformer:
    """Return the blocks of a tower that can grow; other towers are refused."""
    transformer = getattr(tower, "transformer", None)
    if not isinstance(transformer, Transformer):
        raise ConfigError(f"{type(tower).__name__} cannot grow (expected a vit_... and a text_... tower)")
    return transformer


def _ratio(transformer: Transformer) -> int:
    block = transformer.blocks[0]
    assert isinstance(block, Block)
    ratio, rest = divmod(block.mlp_in.out_features, transformer.width)
    if rest:
        raise ConfigError(f"an MLP of {block.mlp_in.out_features} units is not a multiple of the width {transformer.width}")
    return ratio
