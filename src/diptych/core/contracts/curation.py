"""Curation operators: a pool in, the kept rows out, with the reason for every dropped row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from diptych.core.contracts.data import Dataset


@dataclass(frozen=True, slots=True)
class Drop:
    """A row removed by a curation step, with the reason."""

    uid: str
    step: str
    reason: str


@dataclass(frozen=True, slots=True)
class CurationStepResult:
    """Result of a curation step: rows kept, rows dropped with reasons, new columns keyed by uid, run time.

    columns  by name: a mapping uid -> value, or an Arrow table of "uid" and the column where rows are many
    files    what else it found out, to lie beside the tables: file name -> content, or the path of a temporary file that is moved there
             (new samples, such as dialogues over several images, are a file that `read` opens)
    notes    lines about this run, to be printed and not kept
    """

    kept: Sequence[str]
    dropped: Sequence[Drop] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    files: Mapping[str, bytes | Path] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Operator(Protocol):
    """A curation step: a frozen dataclass (its configuration), pool in, `CurationStepResult` out. Independent of the order of rows."""

    slug: ClassVar[str]

    def plan(self, data: Dataset) -> dict[str, Any]:
        """Items, unit cost, expected seconds, without doing it."""

    def __call__(self, data: Dataset) -> CurationStepResult: ...
