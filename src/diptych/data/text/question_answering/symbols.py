"""A picture in symbols: its captions, its boxes with normalised coordinates, its relations. What a language model reads in its place.

Auto-Bench (Ji et al., 2023, 2311.14580) has questions written from such symbols. They say what annotators saw: a thing that is not in them
may still be in the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.core.sample import Sample


@dataclass(frozen=True, slots=True)
class SymbolicObject:
    """label, attributes, box: x0, y0, x1, y1 as shares of the picture's sides, or pixels where its size is not known"""

    label: str
    attributes: tuple[str, ...]
    box: tuple[float, float, float, float]

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True, slots=True)
class Symbols:
    """relations  (subject, predicate, object), by places in `things`"""

    captions: tuple[str, ...]
    things: tuple[SymbolicObject, ...]
    relations: tuple[tuple[int, str, int], ...]

    def named(self, label: str) -> list[SymbolicObject]:
        return [thing for thing in self.things if thing.label == label]

    @property
    def text(self) -> str:
        """As a prompt has it.

        >>> print(Symbols(("a dog",), (SymbolicObject("dog", ("brown",), (0.1, 0.2, 0.5, 0.75)),), ()).text)
        Captions:
        a dog
        Boxes:
        0 brown dog: [0.10, 0.20, 0.50, 0.75]
        """
        boxes = [
            f"{row} {' '.join((*thing.attributes, thing.label))}: [{', '.join(f'{x:.2f}' for x in thing.box)}]"
            for row, thing in enumerate(self.things)
        ]
        relations = [f"{a} {self.things[a].label} {predicate} {b} {self.things[b].label}" for a, predicate, b in self.relations]
        parts = (("Captions", self.captions), ("Boxes", boxes), ("Relations", relations))
        return "\n".join(line for title, lines in parts if lines for line in (f"{title}:", *lines))


def symbols_of(sample: Sample, size: tuple[int, int] | None = None, *, language: str = "en") -> Symbols:
    """The symbols of a sample. size: width and height of its picture in pixels, by which boxes are divided."""
    wide, high = size or (1, 1)
    things = tuple(
        SymbolicObject(
            region.label,
            region.attributes,
            (region.box[0] / wide, region.box[1] / high, region.box[2] / wide, region.box[3] / high),
        )
        for region in sample.regions
    )
    relations = tuple((relation.subject, relation.predicate, relation.object) for relation in sample.relations)
    captions: Sequence[str] = [text.string for text in sample.positives(language)]
    return Symbols(tuple(captions), things, relations)
