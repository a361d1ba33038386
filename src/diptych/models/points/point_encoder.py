"""Point tower trained to align with the embedding space of a frozen dual encoder.

Letters: B clouds, P points, F values per point, T texts, L tokens, D width of the space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError
from diptych.core.rows import Embeddings
from diptych.models.layers.frozen_modules import FrozenModules
from diptych.models.layers.transformer import l2_normalise
from diptych.models.pairs.dual_encoder import DualEncoder, PairModule
from diptych.models.points.towers import TowerSettings, point_tower

Scale = Literal["learned", "anchor"]


@dataclass(frozen=True, slots=True)
class AnchoredFeatures:
    """Unit vectors [B, D] of clouds, of their texts and of their images; an anchor that is not used is None. scale: [1]."""

    point_ND: Embeddings[Tensor]
    text_ND: Embeddings[Tensor] | None
    image_ND: Embeddings[Tensor] | None
    scale: Tensor


class PointEncoder(PairModule):
    """Trained point tower and projection with frozen image and text towers (ULIP, 2212.05171).

    scale  "learned", starting at 1/0.07, or "anchor": that of the dual encoder, frozen
    """

    def __init__(self, anchor: DualEncoder, settings: TowerSettings, *, scale: Scale = "learned") -> None:
        if scale not in ("learned", "anchor"):
            raise ConfigError(f"scale is {scale!r} (expected learned | anchor)")
        super().__init__(max_scale=100.0)
        self.settings, self.width, self.scale_of = settings, anchor.width, scale
        self.tower = point_tower(settings)
        self.projection = nn.Linear(self.tower.out_width, anchor.width, bias=settings.projection_bias)
        nn.init.normal_(self.projection.weight, std=anchor.width**-0.5)
        self.anchors = FrozenModules(encoder=anchor)
        if scale == "anchor":
            with torch.no_grad():
                self.log_scale.copy_(anchor.log_scale.clamp(0.0, math.log(self.max_scale)))
            self.log_scale.requires_grad_(False)

    def forward(
        self,
        point_BPF: Tensor,
        text_BTL: Tensor | None,
        text_mask_BTL: Tensor | None,
        image_BCHW: Tensor | None,
        text_weight_BT: Tensor | None = None,
    ) -> AnchoredFeatures:
        text_ND = None if text_BTL is None else self.encode_texts(text_BTL, text_mask_BTL, text_weight_BT)
        image_ND = None if image_BCHW is None else self.encode_image(image_BCHW)
        return AnchoredFeatures(self.encode_points(point_BPF), text_ND, image_ND, self.log_scale.exp())

    def encode_points(self, point_BPF: Tensor, start_B: Tensor | None = None) -> Tensor:
        """Unit-norm [B, D]."""
        return l2_normalise(self.projection(self.tower(point_BPF, start_B)))

    @torch.no_grad()
    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Unit-norm [B, D] of the frozen image tower."""
        return self._anchor.encode_image(image_BCHW)

    @torch.no_grad()
    def encode_text(self, text_BL: Tensor, mask_BL: Tensor | None = None) -> Tensor:
        """Unit-norm [B, D] of the frozen text tower."""
        return self._anchor.encode_text(text_BL, mask_BL)

    @torch.no_grad()
    def encode_texts(self, text_BTL: Tensor, mask_BTL: Tensor | None = None, weight_BT: Tensor | None = None) -> Tensor:
        """Unit-norm [B, D]: the normalised mean of the unit vectors of a cloud's T texts, weighted by `weight_BT` where that is given."""
        mask_NL = None if mask_BTL is None else mask_BTL.flatten(0, 1)
        text_ND = self.encode_text(text_BTL.flatten(0, 1), mask_NL)
        text_BTD = text_ND.unflatten(0, text_BTL.shape[:2])
        if weight_BT is None:
            return l2_normalise(text_BTD.mean(1))
        return l2_normalise((text_BTD * weight_BT[..., None]).sum(1) / weight_BT.sum(1, keepdim=True))

    @property
    def _anchor(self) -> DualEncoder:
        encoder = self.anchors["encoder"]
        assert isinstance(encoder, DualEncoder)
        return encoder
