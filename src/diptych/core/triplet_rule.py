"""How a relation protocol wants a detector's raw answers made into triplets, and the triplets as they come back.

A detector's own `detect` is made for use: it multiplies every score, merges boxes and leaves out what cannot be drawn. A published
number was made otherwise, and each benchmark has its own rule. `TripletRule` states one; `RuledDetector` follows it.
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
class FoundRegion:
    """A box as a detector says it, in pixels, xyxy: it may stick out of the image and may have no area."""

    box: Box
    label: str
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class FoundGraph:
    """What a detector says of one image before anything is tidied up. A relation to itself says that its object is not there."""

    regions: tuple[FoundRegion, ...] = ()
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, slots=True)
class TripletRule:
    """From the raw answers of an image to its triplets. Boxes stay as they are: nothing is merged, clipped or left out for its size.

    subjects  scored: each subject has its likeliest name, whose probability is in the score (scene graphs);
              given: each subject is called `subject`, whatever it looks like, and the score leaves it out (HICO-DET, V-COCO);
              cut: the same, after every pair is dropped whose likeliest subject is something else (zero-shot evaluation)
    subject   that name
    possible  the (relation, object) that can be; all others are left out before the cut. None: whatever is asked for can be
    missing   the object name that stands for "it is not in the picture": such a relation points at its own subject
    top       so many triplets of an image are kept, the best-scored; 0 keeps all
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
        """What a reader of a number made by this rule has to know."""
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
    ) -> list[FoundGraph]: ...
