"""The kinds of index by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import RunError
from diptych.core.registry import INDEXES
from diptych.index.facts import read_facts

if TYPE_CHECKING:
    from diptych.index.base import Index


def kind(name: str) -> type[Index]:
    """The class of a kind of index."""
    found: type[Index] = INDEXES.load(name)
    return found


def open_index(folder: Path | str, model: Any = None, *, url: str = "") -> Index:
    """An index of whatever kind; see `Index.open`."""
    found = read_facts(Path(folder)).kind
    if found not in INDEXES:
        raise RunError(
            f"{folder} is an index of kind {found!r:.40}, which this version does not know (it has {', '.join(INDEXES)})"
        )
    return kind(found).open(folder, model, url=url)
