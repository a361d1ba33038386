"""Indexes by address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import RunError

if TYPE_CHECKING:
    from diptych.index.base import Index

from diptych.api.data import read
from diptych.api.models import load


def index(
    model: Any,
    data: Any,
    out: str | Path,
    *,
    kind: str = "dense",
    what: str = "images",
    overwrite: bool = False,
    progress: bool = True,
    url: str = "",
    download: bool = False,
    **options: Any,
) -> Index:
    """Embed data and make it searchable: `index(model, "pairs/", "pairs.index").search("a red bus")`.

    model    a model, anything that `load` opens, "words" (BM25 over the texts; kind "lexical") or "annotations" (the scene graphs of
             the data; kind "graphs")
    kind     "dense", "nested" (prefix, order, shortlist), "lexical" (query_terms, item_terms), "late" (shortlist),
             "hybrid" (fusion, lexical, depth), "graphs" (objects, relations, min_confidence); in brackets what `options` may hold
    what     "images": one item a sample; "texts": one item a text
    url      of a Qdrant server that is to hold the vectors
    download  allows fetching a model that is not on this machine
    """
    from diptych.index.kinds import kind as kind_of_index

    wanted = kind_of_index(kind)
    opened = _searcher(model, download) if isinstance(model, str | Path) else model
    source = {
        "model": str(model) if isinstance(model, str | Path) else "",
        "data": str(data) if isinstance(data, str | Path) else "",
    }
    return wanted.build(
        opened,
        read(data),
        out,
        what=what,  # type: ignore[arg-type]
        overwrite=overwrite,
        progress=progress,
        url=url,
        source=source,
        **options,
    )


def open_index(folder: str | Path, *, model: Any = "", url: str = "") -> Index:
    """An index of any kind with its model: the one it was built with, unless another address of the same model is given.

    url  of the Qdrant server that holds its vectors; a server that only the folder names is not contacted
    """
    from diptych.index.facts import read_facts
    from diptych.index.kinds import open_index as open_any

    address = model or read_facts(Path(folder)).source.get("model", "")
    if not address:
        raise RunError(f"{folder} was built from a model object: pass the model's address")
    return open_any(folder, _searcher(address) if isinstance(address, str | Path) else address, url=url)


def _searcher(address: str | Path, download: bool = False) -> Any:
    """What an index is built with: a model, the words of the texts, or the graphs of the data."""
    if str(address) == "words":
        from diptych.index.lexicon import Words

        return Words()
    if str(address) == "annotations":
        from diptych.index.kinds.graphs import Annotations

        return Annotations()
    return load(address, download=download)
