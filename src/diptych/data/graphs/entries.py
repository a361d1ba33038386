"""Raw annotations of one image of an annotation file: unchecked boxes and relations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class BoxAnnotation:
    """A box as the file has it. `key` is what relations call it; `fault` says why it cannot be used, where that is known.

    where   how messages call it, if the file has a better name for it than its place in the image
    """

    key: Any
    xyxy: tuple[float, float, float, float]
    label: str
    attributes: tuple[str, ...] = ()
    score: float = 1.0
    mask: Any = None
    fault: str = ""
    where: str = ""


@dataclass(slots=True)
class RelationAnnotation:
    """A relation by the keys of its boxes."""

    subject: Any
    predicate: str
    object: Any
    confidence: float = 1.0
    fault: str = ""


@dataclass(slots=True)
class PhraseAnnotation:
    """A phrase of a sentence: spans of characters, the keys of the boxes that it means, and a coarse category."""

    spans: list[list[int]]
    boxes: list[Any] = field(default_factory=list)
    kind: str = ""


@dataclass(slots=True)
class ImageAnnotation:
    """One image of an annotation file.

    names       what its file may be called, the most likely first
    size        (width, height); None: read from the image's header
    relative    boxes are shares of width and height, not pixels
    per_region  columns with one value a box; they follow the boxes when some are left out
    key         what tells images apart, where `image_id` does not
    sentences   texts about the image with their phrases; they become `extras["grounding"]`
    """

    row: int
    image_id: Any
    names: Sequence[str]
    size: tuple[int, int] | None = None
    boxes: list[BoxAnnotation] = field(default_factory=list)
    links: list[RelationAnnotation] = field(default_factory=list)
    extras: dict[str, Any] = field(default_factory=dict)
    per_region: dict[str, list[Any]] = field(default_factory=dict)
    key: Any = None
    relative: bool = False
    sentences: list[tuple[str, list[PhraseAnnotation]]] = field(default_factory=list)
