"""Persons as classes of a recipe's training rows."""

from __future__ import annotations

from collections.abc import Sequence

from diptych.core.errors import DataError
from diptych.core.sample import Sample


def person_number(sample: Sample, persons: Sequence[str]) -> int:
    """The place of a sample's group, or of the sample itself where it has none, among the persons."""
    group = sample.group or sample.uid
    if group not in persons:
        raise DataError(
            f"'{group}' of sample '{sample.uid}' is not a person of the training rows", field="group", expected="one of them"
        )
    return persons.index(group)
