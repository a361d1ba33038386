"""Findings of vision experts: an object with attributes and the text on it.

Letters: none. Boxes are xyxy in pixels of the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

Box = tuple[float, float, float, float]

FINDING = pa.struct(
    [
        ("label", pa.string()),
        ("attributes", pa.list_(pa.string())),
        ("text", pa.string()),
        ("score", pa.float64()),
        ("box", pa.list_(pa.float64())),
        ("by", pa.string()),
        ("start", pa.int64()),
        ("stop", pa.int64()),
    ]
)
"""Arrow type of the column: start and stop are character offsets of the finding in the fused text; -1 if it is not in it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """label       class name; "" for text outside all detected objects
    attributes  attributes, sorted by score
    text        recognised text
    score       score of the label
    by          name of the expert
    """

    label: str
    attributes: tuple[str, ...] = ()
    text: str = ""
    score: float = 1.0
    box: Box | None = None
    by: str = ""

    @property
    def phrase(self) -> str:
        """Phrase of a finding: attributes, label and text, without an article.

        >>> Finding("sign", ("red",), "STOP").phrase, Finding("", text="SALE").phrase
        ('red sign with the text “STOP”', 'text “SALE”')
        """
        thing = " ".join((*self.attributes, self.label)) if self.label else ""
        written = f"text “{self.text}”" if self.text else ""
        return f"{thing} with the {written}" if thing and written else thing or written

    def to_row(self, start: int = -1, stop: int = -1) -> dict[str, Any]:
        return {
            "label": self.label,
            "attributes": list(self.attributes),
            "text": self.text,
            "score": self.score,
            "box": None if self.box is None else list(self.box),
            "by": self.by,
            "start": start,
            "stop": stop,
        }


@dataclass(frozen=True, slots=True)
class RecognizedText:
    """Text recognised in an image."""

    string: str
    score: float
    box: Box


def with_texts(things: Sequence[Finding], texts: Iterable[RecognizedText], *, by: str) -> list[Finding]:
    """Assigns each text to the smallest box that contains its centre, in reading order; a text outside all boxes becomes its own
    finding."""
    owned: dict[int, list[RecognizedText]] = {}
    alone: list[Finding] = []
    for text in sorted(texts, key=lambda t: (t.box[1], t.box[0])):
        x, y = (text.box[0] + text.box[2]) / 2, (text.box[1] + text.box[3]) / 2
        around = [index for index, thing in enumerate(things) if thing.box is not None and _inside(x, y, thing.box)]
        if around:
            owned.setdefault(min(around, key=lambda index: (_area(things[index].box), index)), []).append(text)
        else:
            alone.append(Finding("", text=text.string, score=text.score, box=text.box, by=by))
    findings = [replace(t, text=" ".join(o.string for o in owned[n])) if n in owned else t for n, t in enumerate(things)]
    return [*findings, *alone]


def top_findings(findings: Iterable[Finding], *, least: float, most: int) -> list[Finding]:
    """Findings with a score of at least `least`, best first, at most `most`; duplicate phrases keep the best one."""
    ranked = sorted(findings, key=lambda f: (-f.score, f.label, f.phrase, f.box or ()))
    different = {finding.phrase: finding for finding in reversed(ranked) if finding.score >= least and finding.phrase}
    return sorted(different.values(), key=ranked.index)[:most]


def _inside(x: float, y: float, box: Box) -> bool:
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _area(box: Box | None) -> float:
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])
