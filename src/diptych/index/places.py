"""Storage of an index: its folder replacing an older one, its engine opened, and both removed."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from diptych.core.errors import RunError
from diptych.index.engine.edge import EdgeStore, IndexBusy
from diptych.index.engine.index_server import connect_remote
from diptych.index.engine.store import Space, Store
from diptych.index.facts import FILE, Facts

PATIENCE = 1.0
"""Seconds for which an index that another process has open is waited for: a search, or a small `add`, is over by then."""


def refuse_target(folder: Path, overwrite: bool) -> None:
    """Raise RunError unless an index may be built there."""
    if folder.exists() and not overwrite:
        raise RunError(f"{folder} exists: overwrite it (overwrite=True), or add to it (`diptych index add`)")
    if folder.exists() and any(folder.iterdir()) and not (folder / FILE).is_file():
        raise RunError(f"{folder} is not an index (it has no {FILE}) and will not be replaced")


def next_shard(facts: Facts) -> str:
    """Unused folder for the engine."""
    return f"shard-{int(facts.shard.partition('-')[2] or 1) + 1}"


def new_collection(folder: Path) -> str:
    """Unused collection name for a server."""
    return f"{folder.name}-{uuid.uuid4().hex[:8]}"


def create_store(folder: Path, facts: Facts, spaces: Sequence[Space]) -> Store:
    """Empty engine for an index with these spaces."""
    if facts.url:
        from diptych.index.engine.server import ServerStore

        return ServerStore.create(facts.url, facts.collection, spaces)
    return EdgeStore.create(folder / facts.shard, spaces)


def load_store(folder: Path, facts: Facts) -> Store:
    """Engine of a stored index."""
    if facts.url:
        from diptych.index.engine.server import ServerStore

        return ServerStore.load(facts.url, facts.collection)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return EdgeStore.load(folder / facts.shard)
        except IndexBusy:
            visitor = connect_remote(folder)  # the process that has it open may let others in
            if visitor is not None:
                return visitor
            if time.monotonic() >= end:
                raise
        time.sleep(0.05)


def drop_collection(facts: Facts) -> None:
    """Delete an index's vectors from its server; no effect where they are in its folder."""
    if facts.url:
        from diptych.index.engine.server import ServerStore

        ServerStore.load(facts.url, facts.collection).drop()


def remove_stale_shards(folder: Path, facts: Facts) -> None:
    """Remove shards that a killed `compact` or `move` left over."""
    for stale in folder.glob("shard*"):
        if facts.url or stale.name != facts.shard:
            shutil.rmtree(stale)
