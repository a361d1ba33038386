"""Combinations of role and object that a detector may predict on V-COCO."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from diptych.core.errors import DataError
from diptych.data.vocabularies import MISSING, vocabulary

Texts = Literal["published", "roles"]


def possible_pairs(file: Path, texts: Texts) -> frozenset[tuple[str, str]]:
    """Possible (relation, object) pairs, by name, read from a table [29, 80] of a .npy file: those above 0.

    A missing object is possible with every relation. `texts` chooses how relations are named. Raises DataError for another shape.
    """
    published = vocabulary("v-coco")
    try:
        table_PO = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as an array of numpy: {error}", file=file) from error
    if table_PO.shape != (shape := (len(published.predicates), len(published.objects))):
        raise DataError(f"has shape {table_PO.shape}", file=file, expected=f"{shape}: action-roles, objects of COCO")
    words = published.predicates if texts == "roles" else published.predicate_texts
    pairs = {(words[p], published.objects[o]) for p, o in np.argwhere(table_PO > 0)}
    return frozenset(pairs | {(word, MISSING) for word in words})
