"""Lifecycle of an index: build, open, add, search, remove, compact, export. Each kind defines in its own file how samples are encoded as
vectors and how a search (`plan`) becomes engine queries (`ranking`).

    FOLDER/index.json   metadata (`facts`): kind, model and data by fingerprint, columns
    FOLDER/shard/       the engine's files (`edge`), unless they are on a server (`server`)
    FOLDER/words.txt    vocabulary of lexical kinds

`building` has the build itself. Completed calls of `add` and `remove`, and every block that a build or an `add` has stored, survive a
kill. A text can only be compared with vectors of the model that embeds it, so opening an index with another model is refused.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Unpack, get_args, overload

import numpy as np

from diptych.core.contracts import Dataset, Unit
from diptych.core.disk.lock import exclusive
from diptych.core.disk.paths import folder_identity
from diptych.core.errors import ConfigError, DataError, RunError
from diptych.core.image import ImageSource
from diptych.core.sample import Sample, Text
from diptych.core.terminal import notebook
from diptych.index.building import build_in_place, fill
from diptych.index.collection import Collection
from diptych.index.engine.disk import DiskFull, full_disk
from diptych.index.engine.index_server import IndexServer, Inside
from diptych.index.engine.store import DenseSpace, Space, Vectors
from diptych.index.facts import Facts, IndexInfo, read_facts
from diptych.index.gone import read_gone, record_back, record_removed, record_taken_down, rows_to_refuse
from diptych.index.hits import Hits, Pictures
from diptych.index.items import ItemBatch, What, sample_items, text_items
from diptych.index.places import new_collection, refuse_target, remove_stale_shards
from diptych.index.plan import ByExamples, ByImage, ByText, ByVector, Mode, Options, Part, SearchPlan, picture, query_part
from diptych.index.ranking import RankingPlan, hits_of

Existing = Literal["replace", "skip"]


class Index(ABC):
    """Base class of all indexes. Open it with `build` or `open`; close it, or use it in a `with` block, to release it to others."""

    kind: ClassVar[str] = ""
    holds: ClassVar[tuple[What, ...]] = ("images", "texts")
    compare: ClassVar[str] = ""
    """The space in which two items are compared with each other (duplicates)."""
    modes: ClassVar[tuple[Mode, ...]] = ()
    """What it offers beside its usual search."""
    combines: ClassVar[bool] = False
    """Whether it adds and subtracts the parts of a plan."""
    read_once: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold what was read of files that grow."""
    opened_as: tuple[int, int] | None = None
    """Identity of its folder when it was opened: another index that takes its place has another one."""
    pictures: Pictures | None = None
    """The image of a uid, where the data are at hand: hits then show thumbnails in a notebook."""
    refused: tuple[str, ...] = ()
    """Uids that the last `add` left out, since they or their pictures were taken down."""
    deepest: int = 0
    """How far down a ranking a search with `distinct` looks; 0 to its end. A service sets a limit, so that nobody can keep it busy."""

    def __init__(self, folder: Path, facts: Facts, model: Any) -> None:
        self.folder, self._model = folder, model
        self.opened_as = folder_identity(folder)
        self.collection = Collection(folder, facts, self.spaces)
        self.batch_size = 64

    # ------------------------------------------------------------ what a kind says

    @classmethod
    @abstractmethod
    def check_model(cls, model: Any, what: What) -> None:
        """Raise ConfigError unless the model has the capabilities that this kind needs."""

    @classmethod
    def settings(cls, model: Any, pool: Dataset, what: What, **options: Any) -> dict[str, Any]:
        """Options of an index of this kind, validated and completed with defaults; stored with the index."""
        if options:
            raise ConfigError(f"an index of kind '{cls.kind}' has no option {', '.join(options)}")
        return {}

    @abstractmethod
    def spaces(self) -> list[Space]:
        """Vector spaces of the engine, from what is known about the vectors."""

    def takes(self, sample: Sample) -> bool:
        """True for a sample that becomes an item of an index of images or clouds."""
        return sample.image is not None

    @abstractmethod
    def encode_samples(self, samples: Sequence[Sample]) -> Sequence[Vectors]:
        """One set of vectors per sample; an empty one leaves it out."""

    @abstractmethod
    def encode_texts(self, strings: Sequence[str], uids: Sequence[str]) -> Sequence[Vectors]:
        """One set of vectors per text. `uids` is for messages."""

    @abstractmethod
    def ranking(self, plan: SearchPlan) -> RankingPlan:
        """Engine queries for a search plan. Indexes that do not combine get plans of one part."""

    def takes_vectors(self, plan: SearchPlan) -> bool:
        """True if texts and pictures of a plan may be given as the model's embeddings (`SearchPlan.embedded`), so that a service can
        embed those of several requests together.
        """
        return False

    def checked_vectors(self, query_QD: Unit) -> Unit:
        """Unit vectors to search by."""
        raise ConfigError(f"an index of kind '{self.kind}' does not search by vectors: search with a text, an image or a uid")

    def blocks(self, pool: Dataset) -> Iterator[ItemBatch]:
        """Embedded items of a pool, one block at a time."""
        if self._facts.what == "texts":
            return text_items(self.encode_texts, pool)
        return sample_items(self.encode_samples, pool, takes=self.takes)

    # ------------------------------------------------------------ searching

    def answer(self, plan: SearchPlan) -> Hits:
        """Hits of a plan, best first; examples themselves are not among them.

        Raises ConfigError for a plan that this kind of index cannot answer, DataError for an unknown uid.
        """
        self.check_mode(plan)
        if plan.only is None and not self.combines:
            raise ConfigError(
                f"an index of kind '{self.kind}' cannot add and subtract: search with one text, one image or one uid"
            )
        engine, columns = self.collection.engine, self._facts.columns
        hits = hits_of(self.ranking(plan), plan, engine, columns, compare=self.compare, deepest=self.deepest)
        return Hits(hits, pictures=self.pictures)

    def check_mode(self, plan: SearchPlan) -> None:
        """Raise ConfigError unless the index has the search mode of the plan."""
        mode = plan.mode
        if mode is None or isinstance(plan.only, ByVector):
            return
        if mode not in self.modes:
            raise ConfigError(f"mode is {mode} (an index of kind '{self.kind}' has {' or '.join(self.modes) or 'no mode'})")
        if mode == "lexical" and not isinstance(plan.only, ByText):
            raise ConfigError("mode lexical needs only a text")
        if not isinstance(plan.only, ByText | ByImage):
            raise ConfigError(f"mode {mode} needs either a text or an image")

    @overload
    def search(
        self, query: str | Path | bytes | ImageSource | Sample | Text, k: int = 10, **options: Unpack[Options]
    ) -> Hits: ...

    @overload
    def search(self, query: Any, k: int = 10, **options: Unpack[Options]) -> Any: ...

    def search(self, query: Any, k: int = 10, **options: Unpack[Options]) -> Any:
        """By a text, an image or a point cloud: a list of hits. By several of them: a list of such lists.

        query  a string is a text, unless it names an image or cloud file that exists; an image is a `Path`, encoded bytes, an image of
               PIL, uint8 [H, W, 3] pixels, a `Sample` or an `ImageSource`; a cloud is a `Path`, an array [P, 3 + F] or a `MediaItem`.
               Several are a list of these, or an array [N, H, W, 3]
        """
        if isinstance(query, list | tuple) or (isinstance(query, np.ndarray) and query.ndim == 4):
            return [self.search(one, k, **options) for one in query]
        return self.answer(SearchPlan((query_part(query),), k, **options))

    def search_text(self, text: str, k: int = 10, **options: Unpack[Options]) -> Hits:
        """The k items nearest to a text, best first. Options are those of `SearchPlan`."""
        return self.answer(SearchPlan((ByText(text),), k, **options))

    def search_image(self, image: Any, k: int = 10, **options: Unpack[Options]) -> Hits:
        """The k items nearest to an image, best first; the image itself, when it is in the index, is among them."""
        return self.answer(SearchPlan((ByImage(picture(image)),), k, **options))

    def search_like(self, uid: str, k: int = 10, **options: Unpack[Options]) -> Hits:
        """The k items most similar to a stored one, without it."""
        return self.answer(SearchPlan((ByExamples((uid,)),), k, **options))

    def search_vectors(self, query_QD: Unit, k: int = 10, **options: Unpack[Options]) -> list[Hits]:
        """The k items nearest to each unit vector, fewer when fewer satisfy `where`."""
        rows_QD = self.checked_vectors(np.asarray(query_QD, np.float32))
        return [self.answer(SearchPlan((ByVector(row_D),), k, **options)) for row_D in rows_QD]

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
        """Embed a pool and store it. The folder appears only when complete; a killed build resumes.

        what     "images" or "clouds": one item per sample; "texts": one item per text (its string is in the column `text`)
        url      of a Qdrant server that is to hold the vectors (extra `[server]`); the folder then keeps the metadata only
        source   addresses of model and data, stored with the index
        options  of the kind
        Raises RunError when the folder exists and `overwrite` is not set, DataError when nothing can be embedded.
        """
        folder = Path(folder)
        if what not in get_args(What):
            raise ConfigError(f"what is {what!r} (expected images | texts | clouds)")
        refuse_target(folder, overwrite)
        if not len(pool):
            raise DataError(f"'{pool.name}' is empty: there is nothing to index", expected="one sample or more")
        cls._check(model, what)
        target = folder.absolute()
        with exclusive(target.parent, f".{target.name}.lock", f"{folder} is being built"):
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
            build_in_place(cls, facts, model, pool, folder, batch_size=batch_size, progress=progress)
            return cls.open(folder, model, url=url)

    @classmethod
    def open(cls, folder: Path | str, model: Any = None, *, url: str = "") -> Self:
        """Open a stored index. Without a model only vectors and uids can be searched.

        url  of the server that holds its vectors; a server that only the folder names is not contacted (see `facts.SERVER`)
        Raises RunError: no index there, another kind or a newer format, another model's vectors, open elsewhere.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        if facts.kind != cls.kind:
            raise RunError(f"{folder} is an index of kind '{facts.kind}' (expected '{cls.kind}')")
        if model is not None:
            facts.refuse_other_model(folder, model)
            try:
                cls._check(model, facts.what)
            except ConfigError as error:
                raise RunError(f"{folder}: {error}") from error
        facts.refuse_unconfirmed_server(folder, url)
        index = cls(folder, facts, model)
        index.collection.load()
        if not index.collection.is_remote:
            remove_stale_shards(folder, facts)
        return index

    @contextmanager
    def open_to_others(self, inside: Inside, changed: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Context manager: other processes of the same user may search and change the index while this one has it open.

        inside   runs a function while nothing else touches the index, and returns its result
        changed  is called there after a client has changed something
        """

        def refresh() -> None:
            self._reread()
            changed()

        if self._facts.url or self.collection.is_remote:
            yield  # others can ask the server, or the process that has it open
            return
        door = None
        with suppress(OSError, AttributeError):  # a folder, or a system, without such sockets: then nobody comes in
            door = IndexServer(self.folder, lambda: self.collection.engine, inside, refresh, self.compact)
        try:
            yield
        finally:
            if door is not None:
                door.close()

    def close(self) -> None:
        self.collection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.collection.engine.count()

    @property
    def embedder(self) -> Any:
        """The model, or None."""
        return self._model

    @property
    def info(self) -> IndexInfo:
        dim = next((space.dim for space in self.spaces() if isinstance(space, DenseSpace)), 0)
        return self._facts.info(count=len(self), dim=dim, size=self.collection.engine.bytes())

    def _repr_html_(self) -> str:
        return notebook.facts(self.info.described(), caption=f"Index {self.folder}")

    # ------------------------------------------------------------ changing

    def add(
        self,
        pool: Dataset,
        *,
        batch_size: int = 64,
        progress: bool = True,
        existing: Existing = "replace",
        source: str = "",
        settle: bool = True,
    ) -> int:
        """Embed and store more samples. Returns the number of items stored. Samples whose uid or picture was taken down are left out;
        `refused` has their uids then.

        existing  a uid that is stored already: "replace" embeds it again; "skip" skips it, which also resumes an `add` that was killed
        source    address of the samples, by which their pictures are found later
        settle    let the engine put new items in order at once; they are searched either way
        """
        if existing not in get_args(Existing):
            raise ConfigError(f"existing is {existing!r} (expected replace | skip)")
        self._ready()
        with self._alone():
            refused = set(rows_to_refuse(pool, read_gone(self.folder)))
            self.refused = tuple(pool.uids[row] for row in sorted(refused))
            part = pool.select([row for row in range(len(pool)) if row not in refused]) if refused else pool
            self.collection.note_source(source)
            record_back(self.folder, part.uids)
            return self._add_rows(part, batch_size, progress, existing, settle)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Only one visitor of an index changes it at a time: facts and vocabulary are files that it writes."""
        if not self.collection.is_remote:
            yield
            return
        with exclusive(self.folder, ".changing", f"{self.folder} is being changed"):
            self._reread()
            yield

    def _reread(self) -> None:
        """Reload facts and vocabulary after a change by another process."""
        self.collection.reread()
        for name in self.read_once:
            self.__dict__.pop(name, None)

    def _add_rows(self, pool: Dataset, batch_size: int, progress: bool, existing: Existing, settle: bool) -> int:
        skip = set(self.uids()) if existing == "skip" else set()
        with full_disk(self.folder):
            stored = fill(self, pool, batch_size=batch_size, progress=progress, skip=skip)
            if not settle:
                return stored
            try:
                self.collection.settle()
            except DiskFull as error:
                raise DiskFull(
                    f"all {stored:,} items went in and are searched, but could not be put in order: {error}"
                ) from error
        return stored

    def remove(self, uids: Iterable[str]) -> int:
        """Delete samples permanently and at once. Returns the number of items deleted; uids that are not stored are skipped.

        No search returns them from this moment. Their bytes leave the disk with `compact`.
        """
        names = list(dict.fromkeys(uids))
        with full_disk(self.folder), self._alone():
            record_removed(self.folder, names)
            return self.collection.remove(names) if names else 0

    def take_down(self, uids: Iterable[str], hashes: Iterable[str] = ()) -> int:
        """Delete samples for good: from searches, from the disk, and from what `add` takes in later, by uid and by sha256 of the picture.
        Returns the number of items deleted. A call that was killed goes on when it is called again.
        """
        names = list(dict.fromkeys(uids))
        with full_disk(self.folder):
            record_taken_down(self.folder, names, hashes)
            removed = self.remove(names)
            self.compact()
        return removed

    def uids(self) -> list[str]:
        """Sorted uids of all items; a sample with several texts in an index of texts is listed once."""
        return self.collection.uids()

    def compact(self) -> int:
        """Rewrite all items, so that nothing of deleted ones stays on disk. Returns the number of bytes saved. A server does this by
        itself; a service that has the index open does it between two requests.
        """
        with full_disk(self.folder):
            return 0 if self._facts.url else self.collection.compact()

    def move(self, url: str) -> None:
        """Move all items to a Qdrant server, or with "" from there into the folder; they are deleted at the old place. A failure on
        the way leaves the index unchanged.
        """
        with full_disk(self.folder):
            self.collection.move(url)

    def export(self, out: Path | str, *, vectors: bool = True) -> int:
        """Write all items to a Parquet file (uid, columns, vectors by space), or their uids to a text file, one per line. Returns the
        number of rows. The ending of `out` decides: .parquet or .txt.
        """
        from diptych.index.export import export_parquet, export_uids

        out = Path(out)
        if out.suffix == ".txt":
            return export_uids(self.uids(), out)
        if out.suffix != ".parquet":
            raise ConfigError(f"{out} ends in '{out.suffix}' (expected .parquet, or .txt for the uids alone)")
        spaces = self.spaces() if vectors else []
        items = self.collection.scroll(spaces)
        return export_parquet(items, self._facts.columns, spaces, self.vocabulary_terms(), out)

    def vocabulary_terms(self) -> list[str]:
        """Terms of the sparse dimensions, by position; empty if there are none."""
        return []

    def suggestion(self, text: str) -> str:
        """A text with known words in the place of unknown ones that are spelled alike; "" if there are none."""
        return ""

    # ------------------------------------------------------------ inside: what kinds use

    @classmethod
    def _check(cls, model: Any, what: Any) -> None:
        if what not in cls.holds:
            raise ConfigError(f"an index of kind '{cls.kind}' holds {' or '.join(cls.holds)} (what is '{what}')")
        cls.check_model(model, what)

    @property
    def _facts(self) -> Facts:
        return self.collection.facts

    def _cannot_take(self, part: Part) -> ConfigError:
        """Error for a part of a plan that this kind of index does not support."""
        return ConfigError(f"an index of kind '{self.kind}' does not search by {part.noun}: ask with a text, an image or a uid")

    def _ready(self) -> Any:
        """The model. Raises an error that names a missing one."""
        if self._model is None:
            name = self._facts.model["name"]
            raise RunError(f"{self.folder} was opened without a model: texts and images need '{name}' (open(folder, model))")
        return self._model
