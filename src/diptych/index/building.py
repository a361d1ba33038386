"""Build and fill an index block by block, in a temporary folder until it is complete.

A build happens in `.NAME.building` beside the target and takes its place when everything is in it; a build that was killed goes on from
there when it is started again.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diptych.core.contracts import Dataset
from diptych.core.disk.files import publish
from diptych.core.errors import DataError, DiptychError
from diptych.index.engine.disk import DiskFull, full_disk
from diptych.index.facts import FILE, Facts, read_facts
from diptych.index.places import drop_collection
from diptych.index.progress import with_bar

if TYPE_CHECKING:
    from diptych.index.base import Index

K = TypeVar("K", bound="Index")


def build_in_place(
    kind: type[Index], facts: Facts, model: Any, pool: Dataset, folder: Path, *, batch_size: int, progress: bool
) -> None:
    """Embed a pool into the working folder, going on where a killed build was, then put it in the place of `folder`.

    Raises DataError when nothing can be embedded, and DiskFull, after which the same build goes on.
    """
    work = folder.parent / f".{folder.name}.building"
    index = start_or_go_on(kind, work, facts, model)
    collection = index.collection
    try:
        done = set(index.uids()) if collection.is_open else set()
        with full_disk(work):
            fill(index, pool, batch_size=batch_size, progress=progress, skip=done, once=True)
        if not collection.is_open or not len(index):
            unreadable = collection.facts.unreadable
            reason = f": {unreadable[0]['reason']}" if unreadable else ""
            raise DataError(
                f"nothing in '{pool.name}' could be embedded{reason}", field=facts.what, expected=f"samples with {facts.what}"
            )
        collection.settle()
    except DiskFull:  # started again with more room, it goes on
        raise
    except DiptychError:  # started again, it would fail again
        collection.destroy()
        raise
    finally:
        index.close()
    before = read_facts(folder) if folder.exists() and (folder / FILE).is_file() else None
    publish(work, folder)
    if before is not None and before.names_server(facts.url):
        drop_collection(before)


def start_or_go_on(kind: type[K], work: Path, facts: Facts, model: Any) -> K:
    """Index in the working folder: resumed from an interrupted build of the same thing, or new."""
    if (work / FILE).is_file():
        before = read_facts(work)
        before.refuse_unconfirmed_server(work, facts.url)
        index = kind(work, before, model)
        index.collection.load()  # raises when another process is building there
        if before.same_build(facts):
            return index
        index.collection.destroy()
    shutil.rmtree(work, ignore_errors=True)  # killed before its first block
    work.mkdir(parents=True)
    return kind(work, facts, model)


def fill(index: Index, pool: Dataset, *, batch_size: int, progress: bool, skip: Container[str], once: bool = False) -> int:
    """Embed and store block by block; returns the number of items stored. skip: uids to skip; once: refuse duplicate uids."""
    index.batch_size = batch_size
    rows = [row for row, uid in enumerate(pool.uids) if uid not in skip]
    part = pool if len(rows) == len(pool) else pool.select(rows)
    stored, seen = 0, set[str]()
    for block in with_bar(index.blocks(part), len(part), progress):
        for uid in block.uids if once else ():
            if uid in seen:
                raise DataError(f"uid {uid} is given twice", field="uid", expected="uids that differ")
            seen.add(uid)
        index.collection.put(block, over=not once)
        stored += len(block.items)
    return stored
