"""Symbolic goals: a predicate with a subject and an object, such as (cook egg microwave).

A sample has one in `extras["goal"]`:

{"predicate": "cook", "subject": "egg", "object": "unknown"}

"unknown" stands for something that the picture does not show. A fourth entry, "named", is the same triple as the sentence alone says it,
with "" for what it leaves unsaid; `extras["labels"]` lists what is seen, where the sample has no regions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diptych.core.errors import DataError
from diptych.core.sample import Sample

FIELD, LABELS = "goal", "labels"
UNKNOWN = "unknown"
SAME, PARTLY, SAME_TASK, HIGHEST = 5.0, 3.3, 1.7, 5.0
"""Graded similarity of two sentences: same subject and object, one of them, or the same predicate alone; and the highest grade."""


@dataclass(frozen=True, slots=True)
class Goal:
    """predicate, subject, object  names in lower case; a subject or object that is not to be seen is "unknown" """

    predicate: str
    subject: str
    object: str

    @property
    def complete(self) -> bool:
        """True if nothing in it is unknown."""
        return UNKNOWN not in (self.predicate, self.subject, self.object)

    def __str__(self) -> str:
        return f"({self.predicate} {self.subject} {self.object})"


def goal_of(sample: Sample) -> Goal:
    """The goal of a sample. Raises DataError that names it."""
    return _goal(sample, sample.extras.get(FIELD), FIELD)


def named_goal_of(sample: Sample) -> Goal:
    """Goal as the sentence itself names it, "" for what it leaves open; the goal where the sample does not say."""
    given = sample.extras.get(FIELD)
    named = given.get("named") if isinstance(given, Mapping) else None
    return goal_of(sample) if named is None else _goal(sample, named, "named", blank=True)


def labels_of(sample: Sample) -> tuple[str, ...]:
    """Names of things to be seen: labels of the regions, else `extras["labels"]`, each once."""
    listed = sample.extras.get(LABELS, ())
    if isinstance(listed, str) or not all(isinstance(label, str) for label in listed):
        raise DataError(f"sample '{sample.uid}': labels are {str(listed)[:60]}", field=LABELS, expected="a list of names")
    return tuple(dict.fromkeys([region.label for region in sample.regions] or listed))


def similarity_grade(one: Goal, other: Goal) -> float:
    """Graded similarity of two sentences by what they name: 5.0, 3.3 or 1.7; 0 where they have nothing in common."""
    subject = one.subject == other.subject != ""
    object = one.object == other.object != ""
    if subject and object:
        return SAME
    if subject or object:
        return PARTLY
    return SAME_TASK if one.predicate == other.predicate else 0.0


def _goal(sample: Sample, given: Any, field: str, *, blank: bool = False) -> Goal:
    names: list[Any] = [given.get(part) for part in ("predicate", "subject", "object")] if isinstance(given, Mapping) else []
    if len(names) < 3 or not all(isinstance(name, str) and (name or blank) for name in names):
        raise DataError(
            f"sample '{sample.uid}': {str(given)[:60]}",
            field=field,
            expected='{"predicate": "cook", "subject": "egg", "object": "pan"}',
        )
    return Goal(*names)
