"""Scene graphs: regions and relations. Boxes are xyxy in pixels, half-open: width = x1 - x0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diptych.core.errors import DataError
from diptych.core.terminal import notebook

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Region:
    """A labelled box in an image.

    `mask` is a COCO run-length encoding (``{"size": [h, w], "counts": str}``) or a list of polygons; None if the region has no mask.
    """

    box: Box
    label: str
    attributes: tuple[str, ...] = ()
    score: float = 1.0
    mask: Any = None

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box
        if not (x1 > x0 and y1 > y0):
            raise DataError(f"box {self.box} has no area", field="box", expected="x0 < x1 and y0 < y1, pixels")


@dataclass(frozen=True, slots=True)
class Relation:
    """A directed edge: regions[subject] --predicate--> regions[object]."""

    subject: int
    predicate: str
    object: int
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class SceneGraph:
    """Regions and the relations between them; every relation points at regions that exist.

    >>> graph = SceneGraph((Region((0, 0, 4, 4), "dog"), Region((2, 2, 9, 9), "ball")), (Relation(0, "chasing", 1),))
    >>> graph.triplets()
    [('dog', 'chasing', 'ball')]
    """

    regions: tuple[Region, ...] = ()
    relations: tuple[Relation, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row, relation in enumerate(self.relations):
            for end in (relation.subject, relation.object):
                if not 0 <= end < len(self.regions):
                    raise DataError(
                        f"relation points at region {end}",
                        row=row,
                        field="relations",
                        expected=f"0..{len(self.regions) - 1}",
                    )

    def triplets(self) -> list[tuple[str, str, str]]:
        """(subject label, predicate, object label) for each relation, in order."""
        return [(self.regions[r.subject].label, r.predicate, self.regions[r.object].label) for r in self.relations]

    def rows(self) -> list[dict[str, Any]]:
        """A row a relation: subject, predicate, object, confidence, and the boxes of both in pixels."""
        pairs = ((self.regions[r.subject], r, self.regions[r.object]) for r in self.relations)
        return [
            {
                "subject": one.label,
                "predicate": r.predicate,
                "object": other.label,
                "confidence": r.confidence,
                "subject_box": tuple(one.box),
                "object_box": tuple(other.box),
            }
            for one, r, other in pairs
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a row a relation."""
        return notebook.frame(self.rows())

    def _repr_html_(self) -> str:
        regions = ", ".join(dict.fromkeys(region.label for region in self.regions))
        caption = f"{len(self.regions)} regions ({regions}), {len(self.relations)} relations"
        return notebook.table(self.rows()[: notebook.SHOWN], caption=caption)

    def strongest(self, *, top: int, min_score: float = 0.0) -> SceneGraph:
        """At most `top` relations, the most confident first, none below `min_score`; regions of that score or with such a relation."""
        strongest = sorted((r for r in self.relations if r.confidence >= min_score), key=lambda r: -r.confidence)[:top]
        ends = {end for relation in strongest for end in (relation.subject, relation.object)}
        stay = [i for i, region in enumerate(self.regions) if i in ends or region.score >= min_score]
        number = {old: new for new, old in enumerate(stay)}
        relations = tuple(Relation(number[r.subject], r.predicate, number[r.object], r.confidence) for r in strongest)
        return SceneGraph(tuple(self.regions[i] for i in stay), relations, self.extras)
