"""Identifiers of the things of a room in texts: "<OBJ012>" (Chat-Scene, Chat-3D v2.1) or "obj12" (Chat-3D v2.0).

Texts of data name things by their ids; what a model reads and writes names them by the identifiers of one assignment, which training draws
anew for every sample, so that no identifier means a place in the room.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Self, get_args

import numpy as np

from diptych.core.errors import ConfigError, DataError

IdentifierForm = Literal["tokens", "words"]
"""tokens: "<OBJ012>", a token of its own; words: "obj12", pieces of the vocabulary."""
IdentifierOrder = Literal["plain", "shuffled", "ascending"]
"""plain     thing k has identifier k and stands at place k (Chat-3D v2.0)
shuffled  thing k has identifier assigned[k]; things stand in an order of its own (Chat-3D v2.1)
ascending identifiers stand in order, and identifier k means thing assigned[k] (Chat-Scene)"""
PATTERNS = {"tokens": re.compile(r"<OBJ(\d{3})>"), "words": re.compile(r"\bobj(\d+)\b", re.IGNORECASE)}


def identifier(number: int, form: IdentifierForm) -> str:
    """The identifier of that number.

    >>> identifier(7, "tokens"), identifier(7, "words")
    ('<OBJ007>', 'obj07')
    """
    return f"<OBJ{number:03}>" if form == "tokens" else f"obj{number:02}"


def identifier_numbers(text: str, form: IdentifierForm) -> list[int]:
    """Numbers of all identifiers of a text, in order, each once."""
    return list(dict.fromkeys(int(number) for number in PATTERNS[form].findall(text)))


@dataclass(frozen=True, slots=True)
class IdentifierAssignment:
    """Identifiers of the things of one room, for one reading.

    number_of  identifier of each thing, by its place
    sequence   places of the things in the order in which a model reads them
    """

    number_of: tuple[int, ...]
    sequence: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(set(self.number_of)) < len(self.number_of) or sorted(self.sequence) != list(range(len(self.number_of))):
            raise DataError("identifiers are not a bijection", expected="a different one for each thing, and each thing once")

    @classmethod
    def draw(cls, count: int, order: IdentifierOrder, rng: np.random.Generator | None) -> Self:
        """An assignment of one of the published orders; without `rng` the same each time: nothing is permuted."""
        if order not in get_args(IdentifierOrder):
            raise ConfigError(f"order is {order!r} (expected {' | '.join(get_args(IdentifierOrder))})")
        plain = tuple(range(count))
        if order == "plain" or rng is None:
            return cls(plain, plain)
        assigned = rng.permutation(count).tolist()
        if order == "shuffled":
            return cls(tuple(assigned), tuple(rng.permutation(count).tolist()))
        number_of = [0] * count
        for number, index in enumerate(assigned):
            number_of[index] = number
        return cls(tuple(number_of), tuple(assigned))

    def read(self, text: str, form: IdentifierForm) -> tuple[list[int], list[int]]:
        """Places of the things that a text names, in order, and numbers of identifiers that nothing in the room has: those are failures."""
        index_of = {number: index for index, number in enumerate(self.number_of)}
        numbers = identifier_numbers(text, form)
        return [index_of[n] for n in numbers if n in index_of], [n for n in numbers if n not in index_of]
