"""Phrase grounding queries and results: phrases of a text, and boxes for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DataError, ShapeError
from diptych.core.scene_graph import Region, SceneGraph

Span = tuple[int, int]
"""First character and the one after the last."""


@dataclass(frozen=True, slots=True)
class PhraseQuery:
    """A text and the phrases of it that are looked for, each by the characters that name it. The rest of the text is read, too.

    Raises DataError for a query without a phrase, a phrase without characters, and one outside the text.

    >>> query = PhraseQuery.of(["the red cup", "a plate"])
    >>> query.text, query.phrases
    ('the red cup. a plate.', (((0, 11),), ((13, 20),)))
    """

    text: str
    phrases: tuple[tuple[Span, ...], ...]

    def __post_init__(self) -> None:
        if not self.phrases:
            raise DataError(f"no phrase to locate in {self.text[:60]!r}", field="phrases", expected="one or more")
        for number, spans in enumerate(self.phrases):
            if not spans:
                raise DataError(
                    f"phrase {number} of {self.text[:60]!r} has no characters", field="phrases", expected="spans of the text"
                )
            for start, stop in spans:
                if not 0 <= start < stop <= len(self.text):
                    raise DataError(
                        f"phrase {number} has the span ({start}, {stop}) in a text of {len(self.text)} characters: {self.text[:60]!r}",
                        field="phrases",
                        expected=f"0 <= start < stop <= {len(self.text)}",
                    )

    @classmethod
    def of(cls, phrases: Sequence[str], *, separator: str = ". ", before: str = "", behind: str = ".") -> PhraseQuery:
        """A query of phrases joined into one text, each to be located as a whole."""
        text, spans = before, []
        for number, phrase in enumerate(phrases):
            if not phrase.strip():
                raise DataError(f"phrase {number} is empty", field="phrases", expected="words")
            text += separator if number else ""
            spans.append(((len(text), len(text) + len(phrase)),))
            text += phrase
        return cls(text + behind, tuple(spans))

    def words(self) -> list[str]:
        """Text of each phrase; several spans are joined by a blank."""
        return [" ".join(self.text[start:stop] for start, stop in spans) for spans in self.phrases]


@dataclass(frozen=True, slots=True)
class PhraseBoxes:
    """Boxes for one phrase, the best first: box_N4 float32, xyxy pixels of the image, and score_N float32."""

    box_N4: npt.NDArray[np.float32]
    score_N: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.box_N4.ndim != 2 or self.box_N4.shape[1] != 4 or self.score_N.shape != self.box_N4.shape[:1]:
            raise ShapeError(f"boxes must be [N, 4] with N scores, got {list(self.box_N4.shape)} and {list(self.score_N.shape)}")


def regions_of(names: Sequence[str], answers: Sequence[PhraseBoxes], *, top: int, threshold: float = 0.0) -> SceneGraph:
    """The `top` best boxes over all names with a score above `threshold`, labelled by them. A box without area is left out."""
    regions = [
        Region((x0, y0, x1, y1), name, score=score)
        for name, answer in zip(names, answers, strict=True)
        for (x0, y0, x1, y1), score in zip(answer.box_N4.tolist(), answer.score_N.tolist(), strict=True)
        if score > threshold and x1 > x0 and y1 > y0
    ]
    return SceneGraph(tuple(sorted(regions, key=lambda region: -region.score)[:top]))
