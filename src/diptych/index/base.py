"""The life of any index: built, opened, added to, searched, cut down, compacted, exported. Each kind says in a file of its own how
a sample becomes vectors and how a question becomes a ranking.

    FOLDER/index.json   what it is (`facts`): kind, model and data by fingerprint, columns
    FOLDER/shard/       the engine's files (`edge`), unless they lie on a server (`server`)
    FOLDER/words.txt    vocabulary of lexical kinds

A build happens in `.NAME.building` beside the target and takes its place when everything is in it; a build that was killed goes on
from there when it is started again. What `add` and `remove` have returned from, and every block that a build or an `add` has
stored, survives a kill. A text can only be compared with vectors of the model that reads it, so opening an index with another
model is refused.
"""

from __future__ import annotations

import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

from diptych.core.contracts import Dataset, Unit
from diptych.core.errors import ConfigError, DataError, DiptychError, RunError
from diptych.core.files import publish
from diptych.core.image import ImageSource
from diptych.core.sample import Sample
from diptych.index.exact import Hit
from diptych.index.facts import FILE, Facts, Info, read_facts
from diptych.index.filters import Kind, Where, check_where, merge_kinds
from diptych.index.items import Block, What, hit_of, image_items, point_id, storable, text_items
from diptych.index.places import (
    create_store,
    drop_collection,
    load_store,
    new_collection,
    next_shard,
    refuse_target,
    sweep,
)
from diptych.index.progress import shown
from diptych.index.query import Query, first_of_its_kind
from diptych.index.store import PAGE, Choice, Dense, Item, Scored, Space, Store, Terms, Vectors

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
SHOWN_ONLY = frozenset({"caption", "text"})  # columns that no one filters by: not indexed in the engine
INDEXED_FROM = (
    10_000  # items; among fewer a condition is checked about as fast without an index of its column, which takes time to make
)

Existing = Literal["replace", "skip"]


class Index(ABC):
    """Open it with `build` or `open`; close it, or use it in a `with` block, to let another process in."""

    kind: ClassVar[str] = ""
    compare: ClassVar[str] = ""
    """The space in which two items are compared with each other (duplicates)."""
    deepest: int = 0
    """How far down a ranking a search with `distinct` looks; 0 to its end. A service sets a limit, so that nobody can keep it busy."""

    def __init__(self, folder: Path, facts: Facts, store: Store | None, model: Any) -> None:
        self.folder, self._facts, self._store, self._model = folder, facts, store, model
        self._batch_size = 64

    # ------------------------------------------------------------ what a kind says

    @classmethod
    @abstractmethod
    def check_model(cls, model: Any, what: What) -> None:
        """Raise ConfigError unless the model can do what this kind asks of it."""

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        """The options of an index of this kind, checked and completed; kept with the index."""
        if options:
            raise ConfigError(f"an index of kind '{cls.kind}' has no option {', '.join(options)}")
        return {}

    @abstractmethod
    def spaces(self) -> list[Space]:
        """The engine's spaces, from what is known about the vectors."""

    def needs_image(self) -> bool:
        """Whether samples without image are passed over in an index of images."""
        return True

    @abstractmethod
    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        """One set of vectors a sample; an empty one leaves it out."""

    @abstractmethod
    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        """One set of vectors a text. `uids` is for messages."""

    @abstractmethod
    def search_text(self, text: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        """The k items nearest to a text, best first. distinct: of items more alike than this cosine only the best."""

    @abstractmethod
    def search_image(
        self, image: ImageSource | Path | str, k: int = 10, *, where: Where | None = None, distinct: float | None = None
    ) -> list[Hit]:
        """The k items nearest to an image, best first; the image itself, when it is in the index, is among them."""

    @abstractmethod
    def search_like(self, uid: str, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        """The k items most like one that is there, without it."""

    def search_query(self, query: Query, k: int = 10, *, where: Where | None = None, distinct: float | None = None) -> list[Hit]:
        """A query of one part or several; examples themselves are not among the hits."""
        options: dict[str, Any] = {"where": where, "distinct": distinct}
        alone = (query.text != "") + (query.image is not None) + len(query.like) == 1 and not query.unlike
        if alone and query.image is not None:
            return self.search_image(query.image, k, **options)
        if alone and query.like:
            return self.search_like(query.like[0], k, **options)
        if alone and query.weight > 0:
            return self.search_text(query.text, k, **options)
        return self.search_combined(query, k, **options)

    def search_combined(
        self, query: Query, k: int = 10, *, where: Where | None = None, distinct: float | None = None
    ) -> list[Hit]:
        """A query of several parts. Only kinds with one vector an item can add and subtract."""
        raise ConfigError(f"an index of kind '{self.kind}' cannot add and subtract: ask with one text, one image or one uid")

    def search_vectors(self, query_QD: Unit, k: int = 10, *, where: Where | None = None) -> list[list[Hit]]:
        """The k items nearest to each unit vector."""
        raise ConfigError(f"an index of kind '{self.kind}' does not search by vectors: ask with a text, an image or a uid")

    # ------------------------------------------------------------ opening

    @classmethod
    def build(
        cls,
        model: Any,
        pool: Dataset,
        folder: Path | str,
        *,
        what: What = "images",
        batch_size: int = 64,
        overwrite: bool = False,
        progress: bool = True,
        url: str = "",
        source: dict[str, str] | None = None,
        **options: Any,
    ) -> Self:
        """Embed a pool and store it. The folder appears only when everything is in it; a killed build goes on where it was.

        what     "images": one item a sample; "texts": one item a text (its string is in the column `text`)
        url      of a Qdrant server that is to hold the vectors (extra `[server]`); the folder then keeps the facts only
        source   addresses of model and data, to be remembered
        options  of the kind
        Raises RunError when the folder exists and `overwrite` is not set, DataError when nothing can be embedded.
        """
        folder = Path(folder)
        if what not in get_args(What):
            raise ConfigError(f"what is {what!r} (expected images | texts)")
        refuse_target(folder, overwrite)
        if not len(pool):
            raise DataError(f"'{pool.name}' is empty: there is nothing to index", expected="one sample or more")
        cls.check_model(model, what)
        facts = Facts(
            kind=cls.kind,
            what=what,
            model={"name": model.name, "fingerprint": model.fingerprint},
            data={"name": pool.name, "fingerprint": pool.fingerprint, "samples": len(pool)},
            options=cls.settings(model, pool, what, **options),
            source=source or {},
            url=url,
            collection=new_collection(folder) if url else "",
        )
        work = folder.parent / f".{folder.name}.building"
        index = cls._started(work, facts, model)
        try:
            done = set(index.uids()) if index._store is not None else set()
            index._fill(pool, batch_size=batch_size, progress=progress, skip=done, once=True)
            if index._store is None or not len(index):
                raise DataError(f"nothing in '{pool.name}' could be embedded", field=what, expected=f"samples with {what}")
            index._settle()
        except DiptychError:  # started again, it would fail again
            index._destroy()
            raise
        finally:
            index.close()
        before = read_facts(folder) if folder.exists() and (folder / FILE).is_file() else None
        publish(work, folder)
        if before is not None:
            drop_collection(before)
        return cls.open(folder, model)

    @classmethod
    def open(cls, folder: Path | str, model: Any = None) -> Self:
        """An index that is there. Without a model only vectors and uids can be searched.

        Raises RunError: no index there, another kind or a newer format, another model's vectors, open elsewhere.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        if facts.kind != cls.kind:
            raise RunError(f"{folder} is an index of kind '{facts.kind}' (expected '{cls.kind}')")
        if model is not None:
            facts.refuse_other_model(folder, model)
        index = cls(folder, facts, load_store(folder, facts), model)
        sweep(folder, facts)
        return index

    @classmethod
    def _started(cls, work: Path, facts: Facts, model: Any) -> Self:
        """An index in the working folder: what an interrupted build of the same thing left there, or a new one."""
        if (work / FILE).is_file():
            before = read_facts(work)
            index = cls(work, before, load_store(work, before), model)  # raises when another process is building there
            if before.same_build(facts):
                return index
            index._destroy()
        shutil.rmtree(work, ignore_errors=True)  # killed before its first block
        work.mkdir(parents=True)
        return cls(work, facts, None, model)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._engine().count()

    @property
    def embedder(self) -> Any:
        """The model, or None."""
        return self._model

    @property
    def info(self) -> Info:
        dim = next((space.dim for space in self.spaces() if isinstance(space, Dense)), 0)
        return self._facts.info(count=len(self), dim=dim, size=self._engine().bytes())

    def search(
        self, query: str | Path | ImageSource, k: int = 10, *, where: Where | None = None, distinct: float | None = None
    ) -> list[Hit]:
        """By a text, or by an image: an `ImageSource`, a `Path`, or a string that names an image file that exists."""
        if isinstance(query, str) and not (Path(query).suffix.lower() in PICTURES and Path(query).is_file()):
            return self.search_text(query, k, where=where, distinct=distinct)
        return self.search_image(query, k, where=where, distinct=distinct)

    # ------------------------------------------------------------ changing

    def add(self, pool: Dataset, *, batch_size: int = 64, progress: bool = True, existing: Existing = "replace") -> int:
        """Embed and store more samples. Returns how many items were stored.

        existing  what happens to a uid that is there already: "replace" embeds it again; "skip" passes it over, which also makes an
                  `add` that was killed go on
        """
        if existing not in get_args(Existing):
            raise ConfigError(f"existing is {existing!r} (expected replace | skip)")
        self._ready()
        skip = set(self.uids()) if existing == "skip" else set()
        stored = self._fill(pool, batch_size=batch_size, progress=progress, skip=skip)
        self._settle()
        return stored

    def remove(self, uids: Iterable[str]) -> int:
        """Take samples out, for good and at once. Returns how many items went; uids that are not there are passed over.

        No search finds them again from this moment. Their bytes leave the disk with `compact`.
        """
        names = list(dict.fromkeys(uids))
        if not names:
            return 0
        before = len(self)
        self._engine().delete(Choice(uids=names))
        self._forget_unreadable(names)
        return before - len(self)

    def uids(self) -> list[str]:
        """The uids of all items, sorted; a sample with several texts in an index of texts is there once."""
        return sorted({str(item.payload["uid"]) for item in self._engine().scroll(uid_only=True)})

    def compact(self) -> int:
        """Write all items anew, so that nothing of removed ones stays on disk. Returns how many bytes that saved. A server does
        this by itself."""
        if self._facts.url:
            return 0
        before = self._engine().bytes()
        self._copy_to(replace(self._facts, indexed={}, shard=next_shard(self._facts)))
        return before - self._engine().bytes()

    def move(self, url: str) -> None:
        """Bring all items to a Qdrant server, or with "" from there into the folder; then let go of them where they were. What
        goes wrong on the way leaves the index as it was."""
        collection = new_collection(self.folder) if url else ""
        facts = replace(self._facts, indexed={}, url=url, collection=collection, shard=next_shard(self._facts))
        self._copy_to(facts)

    def export(self, out: Path | str, *, vectors: bool = True) -> int:
        """Write all items to a Parquet file (uid, columns, vectors by space), or their uids to a text file, one a line. Returns how
        many rows. The ending of `out` decides: .parquet or .txt."""
        from diptych.index.export import export_parquet, export_uids

        out = Path(out)
        if out.suffix == ".txt":
            return export_uids(self.uids(), out)
        if out.suffix != ".parquet":
            raise ConfigError(f"{out} ends in '{out.suffix}' (expected .parquet, or .txt for the uids alone)")
        spaces = self.spaces() if vectors else []
        items = self._engine().scroll(vectors=[space.name for space in spaces])
        return export_parquet(items, self._facts.columns, spaces, self.vocabulary_terms(), out)

    def vocabulary_terms(self) -> list[str]:
        """What the numbers of sparse vectors stand for; empty where there are none."""
        return []

    # ------------------------------------------------------------ inside: filling

    def _fill(self, pool: Dataset, *, batch_size: int, progress: bool, skip: Container[str], once: bool = False) -> int:
        """Embed and store block by block. skip: uids to pass over; once: a uid that comes twice is refused."""
        self._batch_size = batch_size
        rows = [row for row, uid in enumerate(pool.uids) if uid not in skip]
        part = pool if len(rows) == len(pool) else pool.select(rows)
        stored, seen = 0, set[str]()
        for block in shown(self._blocks(part), len(part), progress):
            for uid in block.uids if once else ():
                if uid in seen:
                    raise DataError(f"uid {uid} is there twice", field="uid", expected="uids that differ")
                seen.add(uid)
            self._put(block, over=not once)
            stored += len(block.items)
        return stored

    def _blocks(self, pool: Dataset) -> Iterator[Block]:
        if self._facts.what == "images":
            return image_items(self.encode_samples, pool, needs_image=self.needs_image())
        return text_items(self.encode_texts, pool)

    def _put(self, block: Block, *, over: bool) -> None:
        """Store a block. over: there may be items of the same samples already."""
        if block.items:
            if self._store is None:
                self._create(block.items[0].vectors)
            self._declare(merge_kinds(self._facts.columns, (item.payload for item in block.items)))
            self._engine().upsert([replace(item, payload=storable(item.payload)) for item in block.items])
        if over and self._facts.what == "texts":  # samples that had more texts before
            self._engine().delete(Choice(uids=block.uids, without=[item.id for item in block.items]))
        known = {u["uid"]: u for u in self._facts.unreadable if u["uid"] not in block.uids}
        known |= {u.uid: asdict(u) for u in block.unreadable}
        if list(known.values()) != self._facts.unreadable:
            self._facts.unreadable = list(known.values())
            if self._store is not None:
                self._facts.write(self.folder)

    def _create(self, first: Vectors) -> None:
        """The engine, once the widths are known. The facts come last: a folder without them is started anew."""
        self._facts.dims = {name: int(v.shape[-1]) for name, v in first.items() if not isinstance(v, Terms)}
        self._store = create_store(self.folder, self._facts, self.spaces())
        self._facts.write(self.folder)

    def _declare(self, columns: dict[str, Kind]) -> None:
        """Write new columns down before any item that has them."""
        if columns != self._facts.columns:
            self._facts.columns = columns
            self._facts.write(self.folder)

    def _settle(self) -> None:
        """After a change: indexes of columns where the items are many (or a server may insist), graphs, everything on disk."""
        new = {name: kind for name, kind in self._facts.columns.items() if self._facts.indexed.get(name) != kind}
        if self._facts.url or len(self) >= INDEXED_FROM:
            for name in new.keys() - SHOWN_ONLY:
                self._engine().declare(name, new[name])
            if new:
                self._facts.indexed = dict(self._facts.columns)
                self._facts.write(self.folder)
        self._engine().settle()

    def _copy_to(self, facts: Facts) -> None:
        old, before, names = self._engine(), self._facts, [space.name for space in self.spaces()]
        sweep(self.folder, before)  # what an earlier attempt left
        new = create_store(self.folder, facts, self.spaces())
        items = old.scroll(vectors=names)
        while page := list(islice(items, PAGE)):
            new.upsert(page)
        new.settle()
        facts.write(self.folder)  # from here on the new place is the index
        self._facts, self._store = facts, new
        self._settle()
        old.close()
        drop_collection(before)
        sweep(self.folder, facts)

    def _forget_unreadable(self, uids: Iterable[str]) -> None:
        gone = set(uids)
        kept = [u for u in self._facts.unreadable if u["uid"] not in gone]
        if len(kept) != len(self._facts.unreadable):
            self._facts.unreadable = kept
            self._facts.write(self.folder)

    def _destroy(self) -> None:
        """An unfinished build that can never be finished."""
        if self._store is not None:
            self.close()
            drop_collection(self._facts)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------ inside: answering

    def _answer(self, rank: Callable[[int, Sequence[str]], list[Scored]], k: int, distinct: float | None) -> list[Hit]:
        """Hits of a ranking. `rank(limit, spaces)` gives its beginning, with the vectors of those spaces."""
        if k < 1:
            raise ConfigError(f"k is {k} (expected 1 or more)")
        if distinct is None:
            found = rank(k, ())
        else:
            found = first_of_its_kind(lambda limit: rank(limit, (self.compare,)), self.compare, k, distinct, deepest=self.deepest)
        return [hit_of(item, self._facts.columns) for item in found]

    def _choice(self, where: Where | None, without: Sequence[uuid.UUID] = ()) -> Choice:
        check_where(where or {}, self._facts.columns)
        return Choice(where or {}, self._facts.columns, without=without)

    def _items_of(self, uid: str, spaces: Sequence[str]) -> list[Item]:
        """The items of a sample: one, or one a text."""
        items = list(self._engine().scroll(Choice(uids=[uid]), vectors=spaces))
        if not items:
            raise DataError(f"no item of {self.folder} has the uid '{uid}'", field="uid", expected="a uid that is there")
        first = (point_id(uid), point_id(uid, 0))
        return sorted(items, key=lambda item: item.id not in first)

    def _ready(self) -> Any:
        """The model, or an error that says which one is missing."""
        if self._model is None:
            name = self._facts.model["name"]
            raise RunError(f"{self.folder} was opened without a model: texts and images need '{name}' (open(folder, model))")
        return self._model

    def _engine(self) -> Store:
        if self._store is None:
            raise RunError(f"{self.folder} is closed")
        return self._store
