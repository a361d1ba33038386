"""Index kinds by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import RunError
from diptych.core.registry import INDEXES
from diptych.index.facts import read_facts

if TYPE_CHECKING:
    from diptych.index.base import Index


def kind(name: str) -> type[Index]:
    """Class of an index kind."""
    index_class: type[Index] = INDEXES.load(name)
    return index_class


def open_index(folder: Path | str, model: Any = None, *, url: str = "") -> Index:
    """Open an index of any kind; see `Index.open`."""
    kind_name = read_facts(Path(folder)).kind
    if kind_name not in INDEXES:
        raise RunError(
            f"{folder} is an index of kind {kind_name!r:.40}, which this version does not know (it has {', '.join(INDEXES)})"
        )
    return kind(kind_name).open(folder, model, url=url)
