"""Pictures and texts of persons in one granularity: a few learned prototypes ask either side for the same things (LGUR, 2207.07802; UniPT,
2309.01420, which takes this module from there).

Letters: B batch, N items, C channel, H W, L words, P tokens, Q prototypes, D width of a token, E width of a part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.models.layers.text_refiner import CrossAttention
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.max_pool_tower import MaxPoolTower
from diptych.models.towers.outputs import Tower, TowerOutput


class PartLayer(nn.Module):
    """Prototypes read the tokens, then think: x + read(norm(x), norm(tokens)), x + mlp(norm(x)). One norm serves prototypes and tokens."""

    def __init__(self, width: int, heads: int, *, inside: int, mlp_width: int) -> None:
        super().__init__()
        self.norm_read, self.read = nn.LayerNorm(width), CrossAttention(width, heads, inside=inside)
        self.norm_mlp, self.mlp_in, self.mlp_out = nn.LayerNorm(width), nn.Linear(width, mlp_width), nn.Linear(mlp_width, width)

    def forward(self, x_BQD: Tensor, token_BPD: Tensor, mask_BP: Tensor) -> Tensor:
        x_BQD = x_BQD + self.read(self.norm_read(x_BQD), self.norm_read(token_BPD), mask_BP)
        mlp_out_BQD: Tensor = self.mlp_out(self.mlp_in(self.norm_mlp(x_BQD)).relu())
        return x_BQD + mlp_out_BQD


class PartDecoder(nn.Module):
    """`prototypes` vectors read tokens of either side through the same layers; each has a matrix of its own into the parts.

    head_width  of each of the `heads`; all of them together may be wider than a token, as released
    """

    def __init__(
        self, width: int, *, prototypes: int, part_width: int, layers: int, heads: int, head_width: int, mlp_width: int
    ) -> None:
        super().__init__()
        self.prototype_QD = nn.Parameter(torch.randn(prototypes, width))
        self.layers = nn.ModuleList(
            PartLayer(width, heads, inside=heads * head_width, mlp_width=mlp_width) for _ in range(layers)
        )
        self.out = nn.ModuleList(nn.Linear(width, part_width, bias=False) for _ in range(prototypes))
        for matrix in self.out:
            assert isinstance(matrix, nn.Linear)
            nn.init.kaiming_normal_(matrix.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, token_BPD: Tensor, mask_BP: Tensor) -> Tensor:
        """Parts [B, Q, E]; tokens whose mask is False are not read."""
        x_BQD = self.prototype_QD.expand(len(token_BPD), -1, -1)
        for layer in self.layers:
            x_BQD = layer(x_BQD, token_BPD, mask_BP)
        return torch.stack([matrix(x_BQD[:, at]) for at, matrix in enumerate(self.out)], 1)


class PartEncoder(DualEncoder):
    """A `DualEncoder` over two `MaxPoolTower`s that embeds a picture or a text by its parts, one after the other, of norm 1 together.

    width    of what it embeds: prototypes times the width of a part
    parts    the arguments of `PartDecoder` beside its width
    """

    def __init__(self, image_tower: Tower, text_tower: Tower, *, width: int, parts: Mapping[str, int], **options: Any) -> None:
        if not isinstance(image_tower, MaxPoolTower) or not isinstance(text_tower, MaxPoolTower):
            raise ConfigError("prototypes read projected tokens (expected two peak towers)")
        if width != (whole := parts["prototypes"] * parts["part_width"]):
            raise ConfigError(f"width is {width} (expected {whole}: all parts together)")
        super().__init__(image_tower, text_tower, width=image_tower.width, **options)
        self.width, self.parts = width, dict(parts)
        self.reader = PartDecoder(image_tower.width, **self.parts)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        return l2_normalise(self.read(self.image_tower, self.image_tower(image_BCHW)).flatten(1))

    def encode_text(self, text: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        return l2_normalise(self.read(self.text_tower, self.text_tower(text, mask_BL)).flatten(1))

    def read(self, tower: nn.Module, output: TowerOutput) -> Tensor:
        """Parts [B, Q, E] of what one of the two towers saw."""
        assert isinstance(tower, MaxPoolTower)
        parts_BQE: Tensor = self.reader(*tower.projected(output))
        return parts_BQE

    def without_parts(self) -> DualEncoder:
        """The encoder that compares whole pictures and texts; shares towers and temperature."""
        plain = DualEncoder(self.image_tower, self.text_tower, width=self.image_tower.width)
        plain.log_scale, plain.max_scale = self.log_scale, self.max_scale
        return plain

    def variant(self) -> dict[str, Any]:
        """Settings to rebuild this variant, beside those of every `DualEncoder`."""
        return {"kind": "parts", "parts": self.parts}
