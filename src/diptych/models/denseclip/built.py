"""DenseCLIP's modules from plain settings, with fresh weights or around the towers of a dual encoder that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from torch import nn

from diptych.core.errors import ConfigError
from diptych.data.text.prompts.class_prompts import class_prompts
from diptych.data.text.tokenize import Tokenizer
from diptych.models.denseclip.dense_detector import FIRST, DenseClipDetector
from diptych.models.denseclip.dense_mask_detector import DenseClipMaskDetector
from diptych.models.denseclip.dense_segmenter import DenseClipSegmenter, Language, LanguageGuide
from diptych.models.detection.anchor_boxes import AnchorConfig
from diptych.models.detection.backbone import detection_backbone
from diptych.models.detection.mask_rcnn import MaskRCNNConfig
from diptych.models.layers.learned_context import LearnedContext
from diptych.models.layers.text_refiner import TextRefiner
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.towers.dense_tap import Positions, PyramidTap, ViTTap, dense_tap
from diptych.models.towers.outputs import Tower
from diptych.models.towers.text_embeddings import token_table
from diptych.models.towers.towers import image_tower, text_tower


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseClipSettings:
    """image, text  arguments of `image_tower` and `text_tower`; width of the joint space; image_form, text_form, bias of their projections
    backbone   "" reads the image tower; else any backbone of detectors (timm:NAME) in its place
    context    learned vectors before the names
    refiner    layers of the refiner, inner and heads its sizes
    positions  of a residual network, see `ResNetTap`
    """

    classes: tuple[str, ...]
    image: Mapping[str, Any]
    text: Mapping[str, Any]
    width: int
    project_image: bool = True
    projection_bias: str = "none"
    backbone: str = ""
    language: Language = "full"
    context: int = 8
    refiner: int = 3
    inner: int = 256
    heads: int = 4
    neck: int = 256
    dropout: float = 0.1
    drop_path: float = 0.0
    class_twice: bool = False
    positions: Positions = "resized"
    text_length: int = 77

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        return cls(**{**plain, "classes": tuple(plain["classes"])})


def dense_segmenter(settings: DenseClipSettings, words: Tokenizer, encoder: DualEncoder | None = None) -> DenseClipSegmenter:
    """The module; its image side is that of `encoder` and is trained, its text side is that of `encoder` and is frozen."""
    tap, guide = _sides(settings, words, encoder)
    return DenseClipSegmenter(tap, guide, len(settings.classes), width=settings.neck, dropout=settings.dropout)


def dense_detector(
    settings: DenseClipSettings, anchors: AnchorConfig, tau: float, words: Tokenizer, encoder: DualEncoder | None = None
) -> DenseClipDetector:
    """The detector around the same sides."""
    tap, guide = _sides(settings, words, encoder)
    if isinstance(tap, ViTTap):
        for step in tap.steps[:FIRST]:  # the finest map, which nothing reads
            step.requires_grad_(False)
    return DenseClipDetector(tap, guide, len(settings.classes), anchors, width=settings.neck, tau=tau)


def dense_mask_detector(
    settings: DenseClipSettings, shape: MaskRCNNConfig, tau: float, words: Tokenizer, encoder: DualEncoder | None = None
) -> DenseClipMaskDetector:
    """The detector with masks around the same sides."""
    tap, guide = _sides(settings, words, encoder)
    return DenseClipMaskDetector(tap, guide, len(settings.classes), shape, width=settings.neck, tau=tau)


def _sides(settings: DenseClipSettings, words: Tokenizer, encoder: DualEncoder | None) -> tuple[Any, LanguageGuide | None]:
    encoder = encoder or _fresh(settings)
    if settings.language not in ("full", "score", "none"):
        raise ConfigError(f"language is {settings.language!r} (expected full | score | none)")
    if settings.backbone:
        body = detection_backbone(settings.backbone, strides=(4, 8, 16, 32))
        tap: Any = PyramidTap(body, body.channels, settings.width)
        if settings.language == "none":
            tap.projection.requires_grad_(False)
    else:
        vit = not encoder.image_tower.projects
        options: dict[str, Any] = (
            {"class_twice": settings.class_twice, "drop_path": settings.drop_path} if vit else {"positions": settings.positions}
        )
        tap = dense_tap(encoder.image_tower, encoder.image_projection, settings.width, **options)
        if settings.language == "none":
            _freeze_head(tap)
    if settings.language == "none":
        return tap, None
    bank = LearnedContext(token_table(encoder.text_tower).embedding_dim, settings.context, start="truncated", std=1.0)
    guide = LanguageGuide(encoder.text_tower, encoder.text_projection, bank, _refiner(settings))
    guide.set_classes(
        class_prompts(settings.classes, words, settings.text_length, context=settings.context, tail="", fitted=True)
    )
    return tap, guide


def _refiner(settings: DenseClipSettings) -> TextRefiner | None:
    if settings.language != "full":
        return None
    return TextRefiner(
        settings.width,
        layers=settings.refiner,
        heads=settings.heads,
        inside=settings.inner,
        among=True,
        dropout=settings.dropout,
        drop_thoughts=True,
        gate=1e-4,
        std=0.02,
    )


def _freeze_head(tap: Any) -> None:
    """Freezes the modules that only the score map uses: without language no loss reaches them."""
    for part in (getattr(tap, "projection", None), getattr(tap.tower, "pool", None), getattr(tap.tower, "norm_after", None)):
        if isinstance(part, nn.Module):
            part.requires_grad_(False)


def _fresh(settings: DenseClipSettings) -> DualEncoder:
    image: Tower = image_tower(**settings.image)
    text: Tower = text_tower(**settings.text)
    bias: Any = settings.projection_bias
    return DualEncoder(
        image, text, width=settings.width, project_image=settings.project_image, projection_bias=bias, max_scale=100.0
    )
