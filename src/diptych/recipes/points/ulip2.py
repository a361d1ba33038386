"""ULIP-2: an encoder of coloured point clouds aligned with a frozen image-text model, by views and captions of these views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from diptych.core.contracts import Draw
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.labels import label_of
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.data.text.captions.view_captions import VIEW_CAPTIONS, view_captions
from diptych.models.points.point_bert import PointBERTSettings
from diptych.models.points.released import SKIP
from diptych.recipes._shared.frozen.anchored_clouds import TINY, AnchoredCloudRecipe

COLOURED = CloudPreprocess(points=10_000, channels=6)
TOWER = PointBERTSettings(in_channels=6, layers=18)
"""As the released model has them."""


@dataclass(frozen=True, kw_only=True)
class ULIP2(AnchoredCloudRecipe):
    """ULIP-2: Towards Scalable Multimodal Pre-training for 3D Understanding (Xue et al., 2024, arXiv 2305.08275).

    As ULIP, but no object needs a name: the text of a step is that of the view which the step shows, the normalised mean of the vectors of
    its best captions. A captioner writes captions of every view, a frozen image-text model ranks them, and `diptych curate view_captions`
    does both. Points have colours; a cloud without any gets the constant `clouds.missing` in training and at inference.

    The training code was not released. Verified by the released model: its towers (open_clip's ViT-bigG/14), 10,000 points, sizes and
    the constant 0.4. Not verified: that five captions stay (`top`), that their vectors are averaged (`captions`), that pictures are of
    colour alone, and that optimiser, schedule and augmentations are ULIP's, which are the defaults here.

    names     texts of a cloud: "views", the captions of the view of the step; "texts", all its texts; "label", one of the comma-separated
              names of its column `label`
    column    with the captions of views
    top       captions of a view that are used, the most similar first
    captions  "mean": the normalised mean of the vectors of these; "drawn": one of them a step
    """

    slug = "ulip2"

    names: Literal["views", "texts", "label"] = "views"
    column: str = VIEW_CAPTIONS
    top: int = 5
    captions: Literal["mean", "drawn"] = "mean"
    depth_share: float = 0.0
    pixels: Literal["imagenet", "own"] = "own"
    clouds: CloudPreprocess = COLOURED
    tower: PointBERTSettings = TOWER

    image_tower: str = "vit_bigg14"
    text_tower: str = "text_clip_bigg"
    width: int = 1280

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.names not in ("views", "texts", "label") or self.captions not in ("mean", "drawn") or self.top < 1:
            raise ConfigError(
                f"names {self.names!r}, captions {self.captions!r}, top {self.top} "
                "(expected views | texts | label, mean | drawn, and 1 or more)"
            )

    def names_of(self, sample: Sample) -> list[str]:
        if self.names == "views":
            return [text for texts in self.captions_of(sample).values() for text in texts]
        if self.names == "texts":
            return [text.string for text in sample.positives(self.language)]
        return [name.strip() for name in label_of(sample, self.label, self.language).split(",") if name.strip()]

    def captions_of(self, sample: Sample) -> dict[int, list[str]]:
        """The best captions of each view that has some."""
        captions = {view: texts[: self.top] for view, texts in view_captions(sample, self.column).items()}
        if not captions:
            raise DataError(
                f"sample '{sample.uid}' has no captions of its views",
                field=self.column,
                expected="those of `diptych curate view_captions DATA OUT`, or names 'texts'",
            )
        return captions

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        loaded = dict(super().load(sample, rng))
        if "view" not in loaded and self.names == "views":
            views = sorted(self.captions_of(sample))
            loaded["view"] = views[int(rng.integers(len(views)))]
        return loaded

    def texts(self, draw: Draw) -> tuple[str, ...]:
        """Captions of the view that the step shows, or the texts of the object."""
        if self.names == "views":
            texts = self.captions_of(draw.sample).get(draw.media["view"], [])
            where = f"view {draw.media['view']} of sample '{draw.sample.uid}'"
        else:
            texts, where = self.names_of(draw.sample), f"sample '{draw.sample.uid}'"
        if not texts:
            raise DataError(f"{where} has no text", field=self.names, expected="one or more")
        if self.names == "label" or self.captions == "drawn":
            return (texts[int(draw.rng.integers(len(texts)))],)
        return tuple(texts[: self.top])

    @classmethod
    def tiny(cls) -> Self:
        """A small tower on 256 points with colours that reads the texts of the data: minutes on two cores."""
        coloured = {"clouds": replace(TINY["clouds"], channels=6), "tower": replace(TINY["tower"], in_channels=6)}
        return cls(**{**TINY, **coloured, "names": "texts"})

    @classmethod
    def paper(cls) -> Self:
        """ViT-bigG/14 and an 18-layer Point-BERT on 10,000 coloured points, whose groups are sampled as the released kernel samples them
        (`skip`); epochs and rates are ULIP's."""
        return cls(tower=replace(TOWER, skip=SKIP))
