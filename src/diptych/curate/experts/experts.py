"""Vision experts: the data's own regions, a detector, attributes by an embedder, and optical character recognition.

Each is frozen and processes one image at a time. Nothing is downloaded: models are given by address, OCR ships its weights in its
package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Detector, Embedder
from diptych.core.errors import ConfigError, MissingExtra
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample
from diptych.curate.experts.findings import Box, Finding, RecognizedText
from diptych.data.media.cropped import crop_of
from diptych.data.media.decode import decode
from diptych.models.io.open_address import open_address, require

CROP_MARGIN = 0.1
"""Margin of an attribute crop around the box, as a fraction of its sides."""


def from_regions(sample: Sample) -> list[Finding]:
    """Findings of the data's own regions: labels, attributes and boxes."""
    return [Finding(r.label, r.attributes, score=r.score, box=tuple(map(float, r.box)), by="regions") for r in sample.regions]  # type: ignore[arg-type]  # four


@dataclass(frozen=True)
class ObjectExpert:
    """A detector, queried with a list of names.

    address  address of a detector
    names    names of the objects to detect
    """

    address: str
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise ConfigError(f"detector {self.address} has no names to look for (expected --objects NAME ...)")

    @cached_property
    def model(self) -> Any:
        model = open_address(self.address)
        require(model, Detector, who=f"the expert {self.address}")
        return model

    def __call__(self, image: ImageSource) -> list[Finding]:
        graph = self.model.detect([image], objects=self.names)[0]
        return [Finding(r.label, r.attributes, score=r.score, box=r.box, by=self.address) for r in graph.regions]


@dataclass(frozen=True)
class AttributeExpert:
    """Attributes of a box by the similarity of its crop with "a ATTRIBUTE LABEL", as probabilities over all names.

    address   address of a model that embeds images and texts
    names     names of the attributes
    least     minimum probability of an attribute
    most      maximum number of attributes per box
    sharpness of the softmax over cosines: CLIP's 100
    """

    address: str
    names: tuple[str, ...]
    least: float = 0.5
    most: int = 2
    sharpness: float = 100.0

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise ConfigError(f"attributes {list(self.names)} leave no choice (expected two names or more)")

    @cached_property
    def model(self) -> Any:
        model = open_address(self.address)
        require(model, Embedder, who=f"the expert {self.address}")
        return model

    def __call__(self, image: ImageSource, things: Sequence[Finding]) -> list[Finding]:
        """Adds attributes to findings that have a box but no attributes."""
        rows = [row for row, thing in enumerate(things) if thing.label and thing.box and not thing.attributes]
        if not rows:
            return list(things)
        pixels_HWC = decode(image)
        boxes = [box for row in rows if (box := things[row].box)]
        crop_ND = self.model.embed_images([ArrayImage(crop_of(pixels_HWC, box, margin=CROP_MARGIN)) for box in boxes])
        findings = list(things)
        for row, crop_D in zip(rows, crop_ND, strict=True):
            text_KD = self.model.embed_texts([f"a {name} {things[row].label}" for name in self.names])
            chance_K = name_probabilities(text_KD @ crop_D, self.sharpness)
            best = [k for k in np.argsort(-chance_K, kind="stable")[: self.most].tolist() if chance_K[k] >= self.least]
            findings[row] = replace(things[row], attributes=tuple(self.names[k] for k in best))
        return findings


@dataclass(frozen=True)
class OCR:
    """PP-OCR by rapidocr, whose package brings its weights.

    least  minimum score of a line of text
    """

    least: float = 0.5

    name = "rapidocr"

    @cached_property
    def engine(self) -> Any:
        try:
            from rapidocr import RapidOCR
        except ImportError:
            raise MissingExtra("rapidocr", "ocr", needed_for="reading text in images") from None
        return RapidOCR(params={"Global.log_level": "critical"})

    def __call__(self, image: ImageSource) -> list[RecognizedText]:
        answer = self.engine(np.ascontiguousarray(decode(image)[:, :, ::-1]))  # it reads BGR, as OpenCV does
        if answer.txts is None:
            return []
        lines = zip(answer.txts, answer.scores, answer.boxes, strict=True)
        return [
            RecognizedText(" ".join(str(string).split()), float(score), _around(corner_42))
            for string, score, corner_42 in lines
            if float(score) >= self.least and str(string).strip()
        ]


def name_probabilities(cosine_K: npt.NDArray[Any], sharpness: float) -> npt.NDArray[np.float64]:
    """Probability of each name: the softmax of its cosine times `sharpness`."""
    logit_K = sharpness * cosine_K.astype(np.float64)
    raw_K = np.exp(logit_K - logit_K.max())
    chance_K: npt.NDArray[np.float64] = raw_K / raw_K.sum()
    return chance_K


def _around(corner_42: Any) -> Box:
    points = np.asarray(corner_42, np.float64)
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return x0, y0, x1, y1
