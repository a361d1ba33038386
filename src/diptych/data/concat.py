"""Concatenation of data sets, such as annotated scenes followed by tagged ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from diptych.core.config import config_hash
from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.core.sample import Sample


@dataclass(frozen=True)
class ConcatDataset:
    """Rows of the parts in their order. Raises DataError when two parts hold the same uid.

    rows  (part, row) pairs, where not all rows are wanted
    """

    name: str
    parts: tuple[Dataset, ...]
    rows: tuple[tuple[int, int], ...] | None = None

    def __post_init__(self) -> None:
        if len(set(self.uids)) < len(self.uids):
            seen: set[str] = set()
            twice = next(uid for uid in self.uids if uid in seen or seen.add(uid))  # type: ignore[func-returns-value]
            names = ", ".join(f"'{part.name}'" for part in self.parts)
            raise DataError(f"uid '{twice}' is in two of {names}", field="uid", expected="data sets without a sample in common")

    @cached_property
    def _places(self) -> tuple[tuple[int, int], ...]:
        return self.rows or tuple((part, row) for part, data in enumerate(self.parts) for row in range(len(data)))

    @cached_property
    def uids(self) -> Sequence[str]:
        return tuple(self.parts[part].uids[row] for part, row in self._places)

    @cached_property
    def groups(self) -> Sequence[str]:
        return tuple(self.parts[part].groups[row] for part, row in self._places)

    @property
    def fingerprint(self) -> str:
        return config_hash(["together", [part.fingerprint for part in self.parts], self.rows])

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, row: int) -> Sample:
        part, part_row = self._places[row]
        return self.parts[part][part_row]

    def select(self, rows: Sequence[int]) -> ConcatDataset:
        return ConcatDataset(self.name, self.parts, tuple(self._places[row] for row in rows))

    def split(self, name: str) -> ConcatDataset:
        return ConcatDataset(self.name, tuple(part.split(name) for part in self.parts))
