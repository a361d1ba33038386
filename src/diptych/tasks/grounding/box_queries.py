"""Calls of grounding tasks: boxes for phrases within their text, by a model that grounds or, a phrase alone, by a detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.core.contracts import Detector, Grounder
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ImageSource


def boxes_of(
    model: Grounder | Detector, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int
) -> list[list[PhraseBoxes]]:
    """Boxes for the phrases of each query. A detector that does not ground gets the words of each phrase."""
    if isinstance(model, Grounder):
        return model.ground(images, queries, top=top)
    answers = []
    for image, query in zip(images, queries, strict=True):
        row = []
        for words in query.words():
            regions = sorted(model.detect([image], objects=[words])[0].regions, key=lambda region: -region.score)[:top]
            boxes: Any = [region.box for region in regions]
            row.append(PhraseBoxes(np.array(boxes, np.float32).reshape(-1, 4), np.array([r.score for r in regions], np.float32)))
        answers.append(row)
    return answers
