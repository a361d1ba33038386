"""Where an index lies: its folder taking the place of an older one, its engine opened, and both put away."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from diptych.core.errors import RunError
from diptych.index.engine.door import visit
from diptych.index.engine.edge import Busy, EdgeStore
from diptych.index.engine.store import Space, Store
from diptych.index.facts import FILE, Facts


def refuse_target(folder: Path, overwrite: bool) -> None:
    """Raise RunError unless an index may be built there."""
    if folder.exists() and not overwrite:
        raise RunError(f"{folder} exists: overwrite it (overwrite=True), or add to it (`diptych index add`)")
    if folder.exists() and any(folder.iterdir()) and not (folder / FILE).is_file():
        raise RunError(f"{folder} is not an index (it has no {FILE}) and will not be replaced")


def next_shard(facts: Facts) -> str:
    """A folder for the engine that is not the one in use."""
    return f"shard-{int(facts.shard.partition('-')[2] or 1) + 1}"


def new_collection(folder: Path) -> str:
    """A name on a server that no other index has."""
    return f"{folder.name}-{uuid.uuid4().hex[:8]}"


def create_store(folder: Path, facts: Facts, spaces: Sequence[Space]) -> Store:
    """An empty engine for an index with these spaces."""
    if facts.url:
        from diptych.index.engine.server import ServerStore

        return ServerStore.create(facts.url, facts.collection, spaces)
    return EdgeStore.create(folder / facts.shard, spaces)


def load_store(folder: Path, facts: Facts) -> Store:
    """The engine of an index that is there."""
    if facts.url:
        from diptych.index.engine.server import ServerStore

        return ServerStore.load(facts.url, facts.collection)
    try:
        return EdgeStore.load(folder / facts.shard)
    except Busy:
        visitor = visit(folder)  # the process that has it open may let others in
        if visitor is None:
            raise
        return visitor


def drop_collection(facts: Facts) -> None:
    """Take an index's vectors off its server; nothing to do where they lie in its folder."""
    if facts.url:
        from diptych.index.engine.server import ServerStore

        ServerStore.load(facts.url, facts.collection).drop()


def sweep(folder: Path, facts: Facts) -> None:
    """Remove shards that a killed `compact` or `move` left beside what is in use."""
    for stale in folder.glob("shard*"):
        if facts.url or stale.name != facts.shard:
            shutil.rmtree(stale)
