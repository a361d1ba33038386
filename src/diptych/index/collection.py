"""Items of one index: its engine and its metadata, which is always written first. Completed calls of `put` and `remove` survive a
kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from diptych.core.errors import DataError, RunError
from diptych.index.checksums import Checksums, item_key, item_sum
from diptych.index.engine.index_server import RemoteStore
from diptych.index.engine.store import PAGE, IndexItem, ItemFilter, Space, SparseVector, Store, Vectors
from diptych.index.facts import Facts, read_facts
from diptych.index.filters import merge_kinds
from diptych.index.items import ItemBatch, point_id, storable
from diptych.index.lexicon import FILE as WORDS_FILE
from diptych.index.places import create_store, drop_collection, load_store, new_collection, next_shard, remove_stale_shards

SHOWN_ONLY = frozenset({"caption", "text"})  # columns that no one filters by: not indexed in the engine
INDEXED_FROM = (
    10_000  # items; among fewer a condition is checked about as fast without an index of its column, which takes time to make
)


class Collection:
    """Facts and engine in step. Before the first block is put there is no engine: its spaces need the widths of the vectors.

    spaces  the engine's spaces, from the facts
    """

    def __init__(self, folder: Path, facts: Facts, spaces: Callable[[], Sequence[Space]], store: Store | None = None) -> None:
        self.folder, self.facts, self._spaces, self._store = folder, facts, spaces, store
        self._checksums = Checksums(folder)

    def load(self) -> None:
        """Open the engine that is there. Raises RunError when another process has it open."""
        self._store = load_store(self.folder, self.facts)

    @property
    def is_remote(self) -> bool:
        """True if another process has the engine open and this one is its client."""
        return isinstance(self._store, RemoteStore)

    def reread(self) -> None:
        """Reload the metadata after a change by a client."""
        self.facts = read_facts(self.folder)

    @property
    def engine(self) -> Store:
        if self._store is None:
            raise RunError(f"{self.folder} is closed")
        return self._store

    @property
    def is_open(self) -> bool:
        return self._store is not None

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def destroy(self) -> None:
        """Delete an unfinished build that can never be finished."""
        if self._store is not None:
            self.close()
            drop_collection(self.facts)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ reading

    def uids(self) -> list[str]:
        """The uids of all items, sorted, each once."""
        return sorted({str(item.payload["uid"]) for item in self.engine.scroll(uid_only=True)})

    def items_of(self, uid: str, spaces: Sequence[str]) -> list[IndexItem]:
        """The items of a sample: one, or one per text."""
        items = list(self.engine.scroll(ItemFilter(uids=[uid]), vectors=spaces))
        if not items:
            raise DataError(f"no item of {self.folder} has the uid '{uid}'", field="uid", expected="a uid that is there")
        first = (point_id(uid), point_id(uid, 0))
        return sorted(items, key=lambda item: item.id not in first)

    def scroll(self, spaces: Sequence[Space]) -> Iterator[IndexItem]:
        """Every item, with its vectors of these spaces."""
        return self.engine.scroll(vectors=[space.name for space in spaces])

    # ------------------------------------------------------------ changing

    def put(self, block: ItemBatch, *, over: bool) -> None:
        """Store a block. over: there may be items of the same samples already."""
        if block.items:
            if self._store is None:
                self._create(block.items[0].vectors)
            columns = merge_kinds(self.facts.columns, (item.payload for item in block.items))
            if columns != self.facts.columns:  # written down before any item that has them
                self.facts.columns = columns
                self.facts.write(self.folder)
        items = [replace(item, payload=storable(item.payload)) for item in block.items]
        shrinks = over and self.facts.what == "texts"  # samples that had more texts before
        with self._checksums.change(items, block.uids if shrinks else ()):
            if items:
                self.engine.upsert(items)
            if shrinks:
                self.engine.delete(ItemFilter(uids=block.uids, without=[item.id for item in items]))
        unreadable_by_uid = {u["uid"]: u for u in self.facts.unreadable if u["uid"] not in block.uids}
        self._note_unreadable([*(unreadable_by_uid | {u.uid: asdict(u) for u in block.unreadable}).values()])

    def remove(self, uids: Sequence[str]) -> int:
        """Delete samples at once. Returns the number of items deleted."""
        before = self.engine.count()
        with self._checksums.change((), uids):
            self.engine.delete(ItemFilter(uids=uids))
        gone = set(uids)
        self._note_unreadable([u for u in self.facts.unreadable if u["uid"] not in gone])
        return before - self.engine.count()

    def settle(self) -> None:
        """Finish changes: column indexes where items are many (or a server may insist), graphs, everything on disk."""
        self._checksums.words(self.folder / WORDS_FILE)
        new = {name: kind for name, kind in self.facts.columns.items() if self.facts.indexed.get(name) != kind}
        if self.facts.url or self.engine.count() >= INDEXED_FROM:
            for name in new.keys() - SHOWN_ONLY:
                self.engine.declare(name, new[name])
            if new:
                self.facts.indexed = dict(self.facts.columns)
                self.facts.write(self.folder)
        self.engine.settle()

    def note_source(self, address: str) -> None:
        """Record where added samples come from, so that their pictures can be shown."""
        if address and address != self.facts.source.get("data") and address not in self.facts.added:
            self.facts.added = [*self.facts.added, address]
            self.facts.write(self.folder)

    def compact(self) -> int:
        """Rewrite all items, so that nothing of deleted ones stays on disk. Returns the number of bytes saved."""
        if isinstance(self._store, RemoteStore):
            saved = self._store.compact()
            self.reread()
            return saved
        before = self.engine.bytes()
        self._copy_to(replace(self.facts, indexed={}, shard=next_shard(self.facts)))
        return before - self.engine.bytes()

    def move(self, url: str) -> None:
        """Move all items to a server, or with "" from there into the folder."""
        collection = new_collection(self.folder) if url else ""
        self._copy_to(replace(self.facts, indexed={}, url=url, collection=collection, shard=next_shard(self.facts)))

    # ------------------------------------------------------------ inside

    def _create(self, first: Vectors) -> None:
        """Create the engine, once the dimensions are known. The metadata comes last: a folder without it is restarted."""
        self._checksums.start()
        self.facts.dims = {name: int(v.shape[-1]) for name, v in first.items() if not isinstance(v, SparseVector)}
        self._store = create_store(self.folder, self.facts, self._spaces())
        self.facts.write(self.folder)

    def _note_unreadable(self, unreadable: Iterable[dict[str, str]]) -> None:
        rows = list(unreadable)
        if rows != self.facts.unreadable:
            self.facts.unreadable = rows
            if self._store is not None:
                self.facts.write(self.folder)

    def _copy_to(self, facts: Facts) -> None:
        if self.is_remote:
            raise RunError(f"{self.folder} is open in a service, which cannot be moved under it: stop the service first")
        old, before, spaces = self.engine, self.facts, self._spaces()
        remove_stale_shards(self.folder, before)  # what an earlier attempt left
        new = create_store(self.folder, facts, spaces)
        items, sums = self.scroll(spaces), dict[int, tuple[int, int]]()
        while page := list(islice(items, PAGE)):
            new.upsert(page)
            for item in page:
                key, sample = item_key(item)
                sums[key] = (sample, item_sum(item))
        new.settle()
        facts.write(self.folder)  # from here on the new place is the index
        self.facts, self._store = facts, new
        self._checksums.rewrite(sums)
        self.settle()
        old.close()
        drop_collection(before)
        remove_stale_shards(self.folder, facts)
