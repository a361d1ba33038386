"""The items of one index: their engine, and the facts about them, which are always written first. Whatever `put` and `remove` have
returned from survives a kill."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

from diptych.core.errors import DataError, RunError
from diptych.index.engine.door import DoorStore
from diptych.index.engine.store import PAGE, Choice, Item, Space, Store, Terms, Vectors
from diptych.index.facts import Facts, read_facts
from diptych.index.filters import merge_kinds
from diptych.index.items import Block, point_id, storable
from diptych.index.places import create_store, drop_collection, load_store, new_collection, next_shard, sweep

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

    def load(self) -> None:
        """Open the engine that is there. Raises RunError when another process has it open."""
        self._store = load_store(self.folder, self.facts)

    @property
    def is_visit(self) -> bool:
        """Whether another process has the engine open and does what is asked."""
        return isinstance(self._store, DoorStore)

    def reread(self) -> None:
        """The facts as a visitor has left them."""
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
        """An unfinished build that can never be finished."""
        if self._store is not None:
            self.close()
            drop_collection(self.facts)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ reading

    def uids(self) -> list[str]:
        """The uids of all items, sorted, each once."""
        return sorted({str(item.payload["uid"]) for item in self.engine.scroll(uid_only=True)})

    def items_of(self, uid: str, spaces: Sequence[str]) -> list[Item]:
        """The items of a sample: one, or one a text."""
        items = list(self.engine.scroll(Choice(uids=[uid]), vectors=spaces))
        if not items:
            raise DataError(f"no item of {self.folder} has the uid '{uid}'", field="uid", expected="a uid that is there")
        first = (point_id(uid), point_id(uid, 0))
        return sorted(items, key=lambda item: item.id not in first)

    def scroll(self, spaces: Sequence[Space]) -> Iterator[Item]:
        """Every item, with its vectors of these spaces."""
        return self.engine.scroll(vectors=[space.name for space in spaces])

    # ------------------------------------------------------------ changing

    def put(self, block: Block, *, over: bool) -> None:
        """Store a block. over: there may be items of the same samples already."""
        if block.items:
            if self._store is None:
                self._create(block.items[0].vectors)
            columns = merge_kinds(self.facts.columns, (item.payload for item in block.items))
            if columns != self.facts.columns:  # written down before any item that has them
                self.facts.columns = columns
                self.facts.write(self.folder)
            self.engine.upsert([replace(item, payload=storable(item.payload)) for item in block.items])
        if over and self.facts.what == "texts":  # samples that had more texts before
            self.engine.delete(Choice(uids=block.uids, without=[item.id for item in block.items]))
        known = {u["uid"]: u for u in self.facts.unreadable if u["uid"] not in block.uids}
        self._note_unreadable([*(known | {u.uid: asdict(u) for u in block.unreadable}).values()])

    def remove(self, uids: Sequence[str]) -> int:
        """Take samples out, at once. Returns how many items went."""
        before = self.engine.count()
        self.engine.delete(Choice(uids=uids))
        gone = set(uids)
        self._note_unreadable([u for u in self.facts.unreadable if u["uid"] not in gone])
        return before - self.engine.count()

    def settle(self) -> None:
        """After a change: indexes of columns where the items are many (or a server may insist), graphs, everything on disk."""
        new = {name: kind for name, kind in self.facts.columns.items() if self.facts.indexed.get(name) != kind}
        if self.facts.url or self.engine.count() >= INDEXED_FROM:
            for name in new.keys() - SHOWN_ONLY:
                self.engine.declare(name, new[name])
            if new:
                self.facts.indexed = dict(self.facts.columns)
                self.facts.write(self.folder)
        self.engine.settle()

    def compact(self) -> int:
        """Write all items anew, so that nothing of removed ones stays on disk. Returns how many bytes that saved."""
        before = self.engine.bytes()
        self._copy_to(replace(self.facts, indexed={}, shard=next_shard(self.facts)))
        return before - self.engine.bytes()

    def move(self, url: str) -> None:
        """Bring all items to a server, or with "" from there into the folder."""
        collection = new_collection(self.folder) if url else ""
        self._copy_to(replace(self.facts, indexed={}, url=url, collection=collection, shard=next_shard(self.facts)))

    # ------------------------------------------------------------ inside

    def _create(self, first: Vectors) -> None:
        """The engine, once the widths are known. The facts come last: a folder without them is started anew."""
        self.facts.dims = {name: int(v.shape[-1]) for name, v in first.items() if not isinstance(v, Terms)}
        self._store = create_store(self.folder, self.facts, self._spaces())
        self.facts.write(self.folder)

    def _note_unreadable(self, unreadable: Iterable[dict[str, str]]) -> None:
        found = list(unreadable)
        if found != self.facts.unreadable:
            self.facts.unreadable = found
            if self._store is not None:
                self.facts.write(self.folder)

    def _copy_to(self, facts: Facts) -> None:
        if self.is_visit:
            raise RunError(f"{self.folder} is open in a service, which cannot be moved under it: stop the service first")
        old, before, spaces = self.engine, self.facts, self._spaces()
        sweep(self.folder, before)  # what an earlier attempt left
        new = create_store(self.folder, facts, spaces)
        items = self.scroll(spaces)
        while page := list(islice(items, PAGE)):
            new.upsert(page)
        new.settle()
        facts.write(self.folder)  # from here on the new place is the index
        self.facts, self._store = facts, new
        self.settle()
        old.close()
        drop_collection(before)
        sweep(self.folder, facts)
