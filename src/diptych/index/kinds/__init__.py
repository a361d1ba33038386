"""The kinds of index by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.registry import INDEXES
from diptych.index.facts import read_facts

if TYPE_CHECKING:
    from diptych.index.base import Index


def kind(name: str) -> type[Index]:
    """The class of a kind of index."""
    found: type[Index] = INDEXES.load(name)
    return found


def open_index(folder: Path | str, model: Any = None) -> Index:
    """An index of whatever kind; see `Index.open`."""
    return kind(read_facts(Path(folder)).kind).open(folder, model)
