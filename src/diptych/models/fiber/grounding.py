"""FIBER's second stage: the fused towers under a detector that grounds words, with no further fusion in the head.

Letters: B batch, C channel, H W, L tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from diptych.core.config import from_plain
from diptych.core.errors import ConfigError, ShapeError
from diptych.data.graphs.grounded import TokenRegions
from diptych.models.detection.backbone import DetectionBackbone
from diptych.models.detection.grounding_detector import GroundingConfig, GroundingDetector
from diptych.models.detection.padded_swin import pad_to_patches
from diptych.models.detection.phrase_detector import PhraseDetector
from diptych.models.fiber.image_encoder import FiberImageEncoder
from diptych.models.fiber.released import resized_tables
from diptych.models.fiber.text_encoder import FiberTextEncoder, self_attention_mask


@dataclass(frozen=True, kw_only=True)
class FiberConfig:
    """The sizes of the two towers, named as in recipe `fiber`. Defaults: Swin-B and RoBERTa-base.

    swin_window   side of a window, in places of the map
    swin_strides  of the maps that the detector reads
    gate_norm     whether a gate of the image tower norms what it reads from, as in the first stage; the released second stage drops it
    text_places   positions that the text tower has
    """

    swin_patch: int = 4
    swin_width: int = 128
    swin_depths: tuple[int, ...] = (2, 2, 18, 2)
    swin_heads: tuple[int, ...] = (4, 8, 16, 32)
    swin_window: int = 12
    swin_strides: tuple[int, ...] = (8, 16, 32)
    fused_layers: int = 6
    gate_norm: bool = True
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_places: int = 512
    text_dropout: float = 0.1

    def sides(
        self, *, image_size: int, drop_path: float, vocab_size: int, mask_id: int | None = None
    ) -> tuple[FiberImageEncoder, FiberTextEncoder]:
        """Fresh towers for pictures of any size. `mask_id` as in `FiberTextEncoder`: as many word vectors as in the first stage."""
        image = FiberImageEncoder(
            image_size=image_size,
            patch=self.swin_patch,
            width=self.swin_width,
            depths=self.swin_depths,
            heads=self.swin_heads,
            window=self.swin_window,
            drop_path=drop_path,
            fused=self.fused_layers,
            text_width=self.text_width,
            any_size=True,
            gate_norm=self.gate_norm,
        )
        text = FiberTextEncoder(
            vocab_size=vocab_size,
            mask_id=mask_id,
            length=self.text_places,
            width=self.text_width,
            layers=self.text_layers,
            heads=self.text_heads,
            dropout=self.text_dropout,
            image_widths=image.fused_widths,
        )
        return image, text


class FiberBackbone(DetectionBackbone):
    """The image tower as a detector sees it: a normed map for each stride."""

    def __init__(self, image: FiberImageEncoder, strides: tuple[int, ...]) -> None:
        super().__init__()
        stages = [stage for stage, stride in enumerate(image.strides) if stride in strides]
        if len(stages) != len(strides):
            raise ConfigError(f"the image tower has maps of strides {image.strides} (expected {list(strides)} among them)")
        image.net.norm = nn.Identity()  # each map has a norm of its own
        self.image, self.stages, self.strides = image, stages, tuple(strides)
        self.channels = tuple(image.widths[stage] for stage in stages)
        self.norms = nn.ModuleList(nn.LayerNorm(count) for count in self.channels)
        self.spec = {"image": image.spec, "strides": list(strides)}

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        raise ConfigError("FIBER's maps need a text (expected GroundingDetector.forward with one)")

    def met(self, image_BCHW: Tensor, text: FiberTextEncoder, text_BL: Tensor, mask_BL: Tensor) -> tuple[list[Tensor], Tensor]:
        """The maps [B, C, H, W] and the tokens [B, L, D], after both sides have read each other. The last norm of the text stays,
        as in the release of this stage."""
        may, image = self_attention_mask(mask_BL), self.image
        x_BHWC, maps = image.stage_maps(pad_to_patches(image_BCHW, int(image.spec["patch"])))
        x_BLD = text.begun(text_BL, may)
        for number in range(image.fused):
            x_BHWC = image.entered(number, x_BHWC)
            next_BHWC = image.fuse(number, x_BHWC, x_BLD, mask_BL)
            x_BLD = text.fuse(number, x_BLD, may, x_BHWC.flatten(1, 2))
            x_BHWC = next_BHWC
            if number + 1 == image.fused or image.stage_of(number + 1) != image.stage_of(number):
                maps.append(x_BHWC)
        chosen = [norm(maps[stage]).permute(0, 3, 1, 2) for norm, stage in zip(self.norms, self.stages, strict=True)]
        return chosen, x_BLD


class FiberDetector(GroundingDetector):
    """A grounding detector whose picture and text have met inside their towers, so that `shape` has no fusion of its own."""

    backbone: FiberBackbone

    def __init__(
        self, image: FiberImageEncoder, text: FiberTextEncoder, shape: GroundingConfig, strides: tuple[int, ...] = (8, 16, 32)
    ) -> None:
        if shape.fusion_before:
            raise ConfigError(
                f"fusion_before is {shape.fusion_before} over FIBER's towers (expected (), they have met in the backbone)"
            )
        side: Any = text
        super().__init__(FiberBackbone(image, strides), side, shape)

    def forward(self, image_BCHW: Tensor, text_BL: Tensor, mask_BL: Tensor, *, pixel_BHW: Tensor | None = None) -> TokenRegions:
        if len(image_BCHW) != len(text_BL):
            raise ShapeError(f"{len(image_BCHW)} images but {len(text_BL)} texts (expected a text an image)")
        side: Any = self.text
        maps, token_BLD = self.backbone.met(image_BCHW, side, text_BL, mask_BL)
        return self.ground(maps, token_BLD, mask_BL, pixel_BHW=pixel_BHW)


def from_first_stage(tensors: Mapping[str, Tensor], window: int, *, gate_norm: bool = True) -> dict[str, Tensor]:
    """The towers of a `Fiber` under the names that they have in a detector on them, without the norm after the last map and, unless
    `gate_norm`, those of the gates; tables of relative positions for windows of that side, which all stages have here."""
    towers = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("fiber.")
        if plain.startswith("image_tower.") and not plain.startswith("image_tower.net.norm."):
            if gate_norm or not (".gates." in plain and ".norm." in plain):
                towers[f"backbone.image.{plain.removeprefix('image_tower.')}"] = tensor
        elif plain.startswith("text."):
            towers[plain] = tensor
    return resized_tables(towers, window, every=True)


class FiberPhraseDetector(PhraseDetector):
    """A `PhraseDetector` on FIBER's towers."""

    kind: ClassVar[str] = "fiber_detector"

    @staticmethod
    def _built(config: Mapping[str, Any]) -> FiberDetector:
        backbone, shape = config["backbone"], from_plain(GroundingConfig, config["shape"])
        return FiberDetector(
            FiberImageEncoder(**backbone["image"]), FiberTextEncoder(**config["text"]), shape, tuple(backbone["strides"])
        )
