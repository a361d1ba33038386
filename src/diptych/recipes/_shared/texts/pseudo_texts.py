"""Pseudo texts of a person from the curation step `pseudo_texts`, and whether a step reads them (UniPT, 2309.01420)."""

from __future__ import annotations

from typing import Literal

from diptych.core.errors import DataError
from diptych.core.sample import Sample

PSEUDO = "pseudo_attributes"
"""The column of the curation step `pseudo_texts`."""
Texts = Literal["auto", "pseudo", "captions"]


def pseudo_attributes(sample: Sample, texts: Texts) -> dict[str, str] | None:
    """Attribute to phrase; None where captions are read: where they are asked for, or, with "auto", where a row has nothing else."""
    column = sample.extras.get(PSEUDO)
    if texts == "captions" or (texts == "auto" and not column):
        return None
    if not column:
        raise DataError(
            f"sample '{sample.uid}' has no pseudo attributes",
            field=PSEUDO,
            expected="what `diptych curate pseudo_texts` wrote",
        )
    return dict(entry.split(": ", 1) for entry in column)
