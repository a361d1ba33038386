"""Rules of relation benchmarks for turning raw detections into triplets, and the resulting triplets.

A detector's own `detect` is made for use: it multiplies every score, merges boxes and leaves out what cannot be drawn. Published
metrics are computed otherwise, by a rule of each benchmark. `TripletRule` states one; `RuledDetector` follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from diptych.core.contracts import Detector
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Box, Relation

Subjects = Literal["scored", "given", "cut"]


@dataclass(frozen=True, slots=True)
class RawRegion:
    """A detected box before clipping, in pixels, xyxy: it may reach beyond the image and may have no area."""

    box: Box
    label: str
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class RawDetections:
    """Raw detections of one image, before any suppression. A relation from a region to itself: its object is not in the image."""

    regions: tuple[RawRegion, ...] = ()
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, slots=True)
class TripletRule:
    """Rule from the raw detections of an image to its triplets. Boxes are not merged, clipped or left out for their size.

    subjects  scored: each subject has its most likely name, whose probability is in the score (scene graphs);
              given: each subject is labelled `subject`, whatever was detected, and its score is not used (HICO-DET, V-COCO);
              cut: the same, after every pair is dropped whose most likely subject is something else (zero-shot evaluation)
    subject   that name
    possible  the (relation, object) that can be; all others are removed before the cut. None: all requested pairs are possible
    missing   the object name that stands for "it is not in the picture": such a relation points at its own subject
    top       this many triplets of an image are kept, the best-scored; 0 keeps all
    """

    subjects: Subjects = "scored"
    subject: str = "person"
    possible: AbstractSet[tuple[str, str]] | None = None
    missing: str = ""
    top: int = 100

    def __post_init__(self) -> None:
        if self.subjects not in ("scored", "given", "cut"):
            raise ConfigError(f"subjects is {self.subjects!r} (expected scored | given | cut)")
        if self.top < 0:
            raise ConfigError(f"top is {self.top} (expected 0 or above)")

    def declared(self) -> dict[str, str]:
        """Settings of the rule in words, to be reported beside a metric."""
        subjects = {
            "scored": "their likeliest name",
            "given": f"all called {self.subject}",
            "cut": f"pairs whose likeliest subject is no {self.subject} are dropped",
        }
        return {
            "triplet_score": "relation x subject x object" if self.subjects == "scored" else "relation x object",
            "subjects": subjects[self.subjects],
            "impossible_pairs": "none known" if self.possible is None else "masked before the cut",
            "cut": f"{self.top} best triplets an image" if self.top else "none",
            "detector_nms": "none",
        }


@runtime_checkable
class RuledDetector(Detector, Protocol):
    """A detector that also answers by the rule of a protocol. `detect_rule` declares what its plain `detect` does, under the same keys
    as `TripletRule.declared`."""

    @property
    def detect_rule(self) -> dict[str, str]: ...

    def detect_by(
        self, images: Sequence[ImageSource], *, objects: Sequence[str], relations: Sequence[str], rule: TripletRule
    ) -> list[RawDetections]: ...
