"""The kinds of index by name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import UnknownName
from diptych.index.facts import read_facts

if TYPE_CHECKING:
    from diptych.index.base import Index

KINDS = {
    "dense": "diptych.index.dense:DenseIndex",
    "nested": "diptych.index.nested:NestedIndex",
    "lexical": "diptych.index.lexical:LexicalIndex",
    "late": "diptych.index.late:LateIndex",
    "hybrid": "diptych.index.hybrid:HybridIndex",
    "graphs": "diptych.index.graphs:GraphIndex",
}


def kind(name: str) -> type[Index]:
    """The class of a kind of index."""
    if name not in KINDS:
        raise UnknownName("kind of index", name, KINDS)
    module, _, attribute = KINDS[name].partition(":")
    found: type[Index] = getattr(import_module(module), attribute)
    return found


def open_index(folder: Path | str, model: Any = None) -> Index:
    """An index of whatever kind; see `Index.open`."""
    return kind(read_facts(Path(folder)).kind).open(folder, model)
