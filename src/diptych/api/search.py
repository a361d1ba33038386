"""Indexes by address."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diptych.core.errors import ConfigError, DiptychError, RunError
from diptych.core.image import ImageSource
from diptych.index.hits import Pictures, pictures_of

if TYPE_CHECKING:
    from diptych.index.base import Index

from diptych.api.data import read, read_recorded
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
    device: str = "auto",
    embeddings: str | Path = "",
    **options: Any,
) -> Index:
    """Embed data and make it searchable: `index(model, "pairs/", "pairs.index").search("a red bus")`.

    model    a model, anything that `load` opens, "words" (BM25 over the texts; kind "lexical") or "annotations" (the scene graphs of
             the data; kind "graphs")
    kind     "dense", "nested" (prefix, order, shortlist, funnel), "lexical" (query_terms, item_terms), "late" (shortlist),
             "hybrid" (fusion, lexical, depth, exact_first), "graphs" (objects, relations, min_confidence); in brackets what `options`
             may hold
    what     "images" or "clouds": one item a sample; "texts": one item a text
    url      of a Qdrant server that is to hold the vectors
    download  allows fetching a model that is not on this machine
    device    of a model that is given by address, as `load` takes it
    embeddings  folder of `diptych embed`: pictures that are there are not embedded again (kinds dense, nested and hybrid)
    """
    from diptych.index.kinds import kind as kind_of_index

    if embeddings and kind not in ("dense", "nested", "hybrid"):
        raise ConfigError(f"embeddings are read by an index of kind dense, nested or hybrid (kind is '{kind}')")
    if embeddings and what == "clouds":
        raise ConfigError("embeddings are those of pictures (expected what images or texts beside them, not clouds)")
    index_kind = kind_of_index(kind)
    opened = _searcher(model, download, device) if isinstance(model, str | Path) else model
    if embeddings:
        from diptych.index.embedding_table import StoredEmbedder

        opened = StoredEmbedder(opened, Path(embeddings))
    source = {
        "model": str(model) if isinstance(model, str | Path) else "",
        "data": str(data) if isinstance(data, str | Path) else "",
    }
    rows = read(data, captions=False)  # a picture is found by what it shows
    made = index_kind.build(
        opened,
        rows,
        out,
        what=what,  # type: ignore[arg-type]
        overwrite=overwrite,
        progress=progress,
        url=url,
        source=source,
        **options,
    )
    made.pictures = pictures_of(rows)
    return made


def open_index(folder: str | Path, *, model: Any = "", url: str = "", device: str = "auto") -> Index:
    """An index of any kind with its model: the one it was built with, unless another address of the same model is given.

    url  of the Qdrant server that holds its vectors; a server that only the folder names is not contacted
    device  of a model that is given by address, as `load` takes it
    """
    from diptych.index.facts import read_facts
    from diptych.index.kinds import open_index as open_any

    facts = read_facts(Path(folder))
    address = model or facts.source.get("model", "")
    if not address:
        raise RunError(f"{folder} was built from a model object: pass the model's address")
    opened = open_any(folder, _searcher(address, device=device) if isinstance(address, str | Path) else address, url=url)
    opened.pictures = _recorded_pictures([facts.source.get("data", ""), *facts.added], folder)
    return opened


def _recorded_pictures(addresses: Sequence[str], folder: str | Path) -> Pictures | None:
    """Pictures of the data that the index was built from or that were added, opened on first use; None if they have no address."""
    local = [address for address in addresses if address and "://" not in address]
    if not local:
        return None
    opened: list[Pictures] = []

    def picture(uid: str) -> ImageSource | None:
        if not opened:
            for address in local:
                with suppress(DiptychError):  # the data moved: hits are still hits
                    opened.append(pictures_of(read_recorded(address, folder, {"captions": False})))
        return next((image for pictures in opened if (image := pictures(uid)) is not None), None)

    return picture


def _searcher(address: str | Path, download: bool = False, device: str = "auto") -> Any:
    """The embedder an index is built with: a model, "words" (lexical) or "annotations" (the graphs of the data)."""
    if str(address) == "words":
        from diptych.index.lexicon import BM25Encoder

        return BM25Encoder()
    if str(address) == "annotations":
        from diptych.index.kinds.graphs import AnnotatedGraphs

        return AnnotatedGraphs()
    return load(address, download=download, device=device)
