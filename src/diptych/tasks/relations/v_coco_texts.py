"""V-COCO: which combinations of role and object a detector may answer with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from diptych.core.errors import DataError
from diptych.data.vocabularies import MISSING, vocabulary

Texts = Literal["published", "roles"]


def possible_pairs(file: Path, texts: Texts) -> frozenset[tuple[str, str]]:
    """The (relation, object) of a table [29, 80], as they are asked for: where it is above 0. What is missing goes with every role."""
    known = vocabulary("v-coco")
    try:
        table_PO = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read as an array of numpy: {error}", file=file) from error
    if table_PO.shape != (shape := (len(known.predicates), len(known.objects))):
        raise DataError(f"has shape {table_PO.shape}", file=file, expected=f"{shape}: action-roles, objects of COCO")
    words = known.predicates if texts == "roles" else known.predicate_texts
    pairs = {(words[p], known.objects[o]) for p, o in np.argwhere(table_PO > 0)}
    return frozenset(pairs | {(word, MISSING) for word in words})
