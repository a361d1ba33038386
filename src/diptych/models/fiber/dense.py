"""FIBER's second stage as released: the fused towers under a pyramid, a dynamic head and one anchor per place.

Letters: B batch, C channel, H W pixels, L tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from diptych.core.config import from_plain
from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.grounded import DenseRegions
from diptych.models.detection.dense.dense_detector import DensePhraseDetector
from diptych.models.detection.dense.dense_grounding import DenseHead, DenseHeadConfig, sizes_of
from diptych.models.fiber.grounding import FiberBackbone
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.text_encoder import FiberTextEncoder


class DenseFiberDetector(nn.Module):
    """Pictures of any size and one text each to `DenseRegions`. Picture and text meet in their towers alone."""

    def __init__(
        self, image: FiberImageEncoder, text: FiberTextEncoder, shape: DenseHeadConfig, strides: tuple[int, ...] = (8, 16, 32)
    ) -> None:
        if shape.meeting_width:
            raise ConfigError(
                f"meeting_width is {shape.meeting_width} over FIBER's towers (expected 0, they have met in the backbone)"
            )
        super().__init__()
        self.backbone, self.text, self.shape = FiberBackbone(image, strides), text, shape
        self.head = DenseHead(self.backbone.channels, strides, text.width, shape)

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor, *, pixel_BHW: Tensor | None = None) -> DenseRegions:
        """text_BL    token ids of one text per image; mask_BL is True at real tokens
        pixel_BHW  True at real pixels; None when no image is padded. Padding is read like a picture, as published
        """
        if len(image_BCHW) != len(text_BL):
            raise ShapeError(f"{len(image_BCHW)} images but {len(text_BL)} texts (expected a text an image)")
        text: Any = self.text
        maps, token_BLD = self.backbone.met(image_BCHW, text, text_BL, mask_BL)
        regions: DenseRegions = self.head(maps, token_BLD, mask_BL, sizes_of(image_BCHW, pixel_BHW))
        return regions


class DenseFiberPhraseDetector(DensePhraseDetector):
    """`DensePhraseDetector` on FIBER's towers."""

    kind: ClassVar[str] = "dense_fiber_detector"

    @staticmethod
    def _built(config: Mapping[str, Any]) -> DenseFiberDetector:
        backbone, shape = config["backbone"], from_plain(DenseHeadConfig, config["shape"])
        return DenseFiberDetector(
            FiberImageEncoder(**backbone["image"]), FiberTextEncoder(**config["text"]), shape, tuple(backbone["strides"])
        )
