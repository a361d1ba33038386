"""Shared by DenseCLIP's recipes, for pixels and for boxes: the parts around the adapted model, and which weights are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from diptych.core.contracts import Rule
from diptych.core.errors import ConfigError
from diptych.models.denseclip.built import DenseClipSettings
from diptych.models.denseclip.dense_detector import DenseClipDetector
from diptych.models.denseclip.dense_mask_detector import DenseClipMaskDetector
from diptych.models.denseclip.dense_segmenter import DenseClipSegmenter, Language
from diptych.models.denseclip.initialisation import Start, init_as_released_
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.recipes._shared.frozen.adapted_encoder import AdaptedEncoderRecipe
from diptych.recipes._shared.pairs import B, F, M

SMALL_GUIDED: Mapping[str, Any] = {
    "image_tower": "vit_micro",
    "patch": 8,
    "text_tower": "text_micro",
    "width": 64,
    "image_size": 64,
    "text_length": 24,
    "tokenizer": "data",
    "pieces": 400,
    "inner": 64,
    "neck": 64,
    "batch_size": 16,
    "lr": 1e-3,
    "warmup_from": None,
    "decay": "matrices",
    "text_side": "frozen",
    "backbone_rate": 1.0,
    "smooth": True,
    "heads_start": "usual",
}
"""A small vision transformer with patches of 8 pixels on pictures of 64, all of which is tuned alike: what the small presets share."""


@dataclass(frozen=True, kw_only=True)
class DenseGuidanceRecipe(AdaptedEncoderRecipe[M, B, F]):
    """Class names guide the image side of a trained dual encoder, place by place (DenseCLIP, 2112.01518).

    classes      names in the order of their numbers; empty takes the labels of the regions, sorted
    backbone     "" trains the image side; timm:NAME any backbone in its place, beside the frozen text side
    language     "full"; "score" has no decoder; "none" is the same network without texts
    context      learned vectors before each name
    refiner, inner, heads, dropout  layers, width, heads and dropout of the decoder
    neck         width of the pyramid
    tau          temperature of the scores of places
    drop_path    stochastic depth in a vision transformer
    class_twice  a vision transformer's class token is added twice, as released
    backbone_rate  the image side's learning rate as a share of `lr`
    text_side    "frozen": out of the optimiser, without gradient; "released": with a rate of 0, and gradients that count in the norm that
                 is clipped; a floor of the schedule that is one rate for all moves it
    heads_start  pyramid and heads start as "released", where the initialisation of OpenMMLab for them is never called
                 (`init_as_released_`), or as is "usual"
    smooth       pictures that are shrunk are smoothed, by PIL; False reads them as OpenCV does, as released
    decay        weight decay is on all but what is called a norm outside of the image side, as "released", or on "matrices" alone
    """

    classes: tuple[str, ...] = ()
    backbone: str = ""
    language: Language = "full"
    context: int = 8
    refiner: int = 3
    inner: int = 256
    heads: int = 4
    dropout: float = 0.1
    neck: int = 256
    tau: float = 0.07
    drop_path: float = 0.0
    class_twice: bool = False
    backbone_rate: float = 0.1
    decay: Literal["released", "matrices"] = "released"
    text_side: Literal["frozen", "released"] = "released"
    heads_start: Start = "released"
    smooth: bool = False
    warmup_from: float | None = None
    named: tuple[str, ...] = field(default=(), metadata={"prepared": True})

    def settings(self, encoder: DualEncoder) -> DenseClipSettings:
        """Configuration of the dense module around an encoder."""
        return DenseClipSettings(
            classes=self.named,
            image=encoder.image_tower.spec,
            text=encoder.text_tower.spec,
            width=encoder.width,
            project_image=encoder.project_image,
            projection_bias=encoder.projection_bias,
            backbone=self.backbone,
            language=self.language,
            context=self.context,
            refiner=self.refiner,
            inner=self.inner,
            heads=self.heads,
            neck=self.neck,
            dropout=self.dropout,
            drop_path=self.drop_path,
            class_twice=self.class_twice,
            text_length=self.read_length,
        )

    def started_(self, module: DenseClipSegmenter | DenseClipDetector | DenseClipMaskDetector) -> None:
        """Pyramid and heads as they start, and gradients for the text side, too, where it has some."""
        if self.heads_start not in ("released", "usual"):
            raise ConfigError(f"heads_start is {self.heads_start!r} (expected released | usual)")
        if self.heads_start == "released":
            init_as_released_(module)
        guide = module.guide
        if self.text_side not in ("frozen", "released"):
            raise ConfigError(f"text_side is {self.text_side!r} (expected frozen | released)")
        if self.text_side == "released" and guide is not None:
            guide.text_tower.requires_grad_(True)
            guide.projection.requires_grad_(True)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The text side has no rate; the image side has one of its own."""
        rest, counted = True if self.decay == "released" else None, self.text_side == "released"
        text = Rule(r"^guide\.(text_tower|projection)\.", lr_scale=0.0, decay=rest, counted=counted)
        rules = text, Rule(r"^tap\.", lr_scale=self.backbone_rate, decay=rest)
        return (*rules, Rule("norm", decay=False), Rule("", decay=True)) if rest else rules
