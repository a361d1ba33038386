"""Dense search in a folder: vectors and columns in an embedded Qdrant Edge shard, approximate (HNSW) where the pool is large.

    FOLDER/index.json   format, kind, what was embedded, model and data by name and fingerprint, width, columns
    FOLDER/shard/       the engine's files; its write-ahead log stays on: what `add` or `remove` has returned from survives a kill

One process at a time may have an index open. A text can only be compared with vectors of the model that reads it, so opening
an index with another model is refused. Cosine is the only measure: all rows are unit-norm.

Letters: N items, Q queries, D width.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diptych.core.contracts import Dataset, Embedder, Unit
from diptych.core.errors import ConfigError, DataError, RunError, ShapeError
from diptych.core.files import atomic_folder, write_json
from diptych.core.image import FileImage, ImageSource
from diptych.core.sample import Sample
from diptych.index.embed import Block, Unreadable, checked, embed_texts, image_blocks
from diptych.index.exact import Hit
from diptych.index.filters import Kind, Where, check_where, engine_filter, json_path, kind_of, merge_kinds

FORMAT = 1
BLOCK = 512  # samples embedded and stored at a time
NAMESPACE = uuid.UUID("6f1cf3a8-0c5b-5d0e-9a55-4b1d0a4f6c11")
PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

What = Literal["images", "texts"]


@dataclass(frozen=True, slots=True)
class Info:
    """What an index holds now."""

    count: int
    dim: int
    what: str
    model: dict[str, str]
    data: dict[str, Any]
    columns: dict[str, Kind]
    unreadable: tuple[Unreadable, ...] = ()


class DenseIndex:
    """Open it with `build` or `open`; close it, or use it in a `with` block, to let another process in."""

    def __init__(self, folder: Path, shard: Any, facts: dict[str, Any], embedder: Embedder | None) -> None:
        self.folder, self._shard, self._facts, self.embedder = folder, shard, facts, embedder

    # ------------------------------------------------------------ opening

    @classmethod
    def build(
        cls,
        embedder: Embedder,
        pool: Dataset,
        folder: Path | str,
        *,
        what: What = "images",
        batch_size: int = 64,
        overwrite: bool = False,
        progress: bool = True,
    ) -> DenseIndex:
        """Embed a pool and store it. The folder appears only when everything is in it.

        what  "images": one item a sample; "texts": one item a text (its string is in the column `text`)
        Raises RunError when the folder exists and `overwrite` is not set, DataError when nothing can be embedded.
        """
        folder = Path(folder)
        if what not in ("images", "texts"):
            raise ConfigError(f"what is {what!r} (expected images | texts)")
        if folder.exists() and not overwrite:
            raise RunError(f"{folder} exists: overwrite it (--overwrite, or overwrite=True), or add to it")
        if folder.exists() and any(folder.iterdir()) and not (folder / "index.json").is_file():
            raise RunError(f"{folder} is not an index (it has no index.json) and will not be replaced")
        if not len(pool):
            raise DataError(f"'{pool.name}' is empty: there is nothing to index", expected="one sample or more")
        with atomic_folder(folder) as work:
            index = _filled(work, embedder, pool, what=what, batch_size=batch_size, progress=progress)
            index.close()
        return cls.open(folder, embedder)

    @classmethod
    def open(cls, folder: Path | str, embedder: Embedder | None = None) -> DenseIndex:
        """An index that is there. Without an embedder only vectors can be searched.

        Raises RunError: no index there, another format, another model's vectors, open elsewhere.
        """
        folder = Path(folder)
        file = folder / "index.json"
        if not file.is_file():
            state = "has no index.json" if folder.is_dir() else "does not exist"
            raise RunError(f"{folder} is not an index: it {state}")
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts.get("format") != FORMAT or facts.get("kind") != "dense":
            raise RunError(
                f"{folder} is an index of kind {facts.get('kind')!r}, format {facts.get('format')}; "
                f"this version reads kind 'dense', format {FORMAT}"
            )
        if embedder is not None:
            _same_model(folder, facts, embedder)
        return cls(folder, _load_shard(folder), facts, embedder)

    def close(self) -> None:
        if self._shard is not None:
            self._shard.flush()
            self._shard.close()
            self._shard = None

    def __enter__(self) -> DenseIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._open_shard().info().points_count)

    @property
    def info(self) -> Info:
        facts = self._facts
        unreadable = tuple(Unreadable(**u) for u in facts["unreadable"])
        return Info(len(self), facts["dim"], facts["what"], facts["model"], facts["data"], facts["columns"], unreadable)

    # ------------------------------------------------------------ searching

    def search(self, query: str | Path | ImageSource, k: int = 10, *, where: Where | None = None) -> list[Hit]:
        """By a text, or by an image: an `ImageSource`, a `Path`, or a string that names an image file that exists."""
        if isinstance(query, str) and not (Path(query).suffix.lower() in PICTURES and Path(query).is_file()):
            return self.search_text(query, k, where=where)
        return self.search_image(Path(query) if isinstance(query, str) else query, k, where=where)

    def search_text(self, text: str, k: int = 10, *, where: Where | None = None) -> list[Hit]:
        """The k items nearest to a text, best first."""
        return self.search_vectors(self._model().embed_texts([text]), k, where=where)[0]

    def search_image(self, image: ImageSource | Path | str, k: int = 10, *, where: Where | None = None) -> list[Hit]:
        """The k items nearest to an image, best first; the image itself, when it is in the index, is among them."""
        source = FileImage(Path(image)) if isinstance(image, str | Path) else image
        if isinstance(source, FileImage) and not source.path.is_file():
            raise DataError("there is no such file", file=source.path, expected="an image")
        return self.search_vectors(self._model().embed_images([source]), k, where=where)[0]

    def search_vectors(
        self, query_QD: Unit, k: int = 10, *, where: Where | None = None, exact: bool = False, effort: int = 128
    ) -> list[list[Hit]]:
        """The k items nearest to each unit vector, fewer when fewer satisfy `where`.

        exact   compare with everything instead of walking the graph
        effort  candidates the walk keeps: more is slower and closer to exact
        """
        import qdrant_edge as engine

        if k < 1:
            raise ConfigError(f"k is {k} (expected 1 or more)")
        query_QD = np.asarray(query_QD, np.float32)
        if query_QD.ndim != 2 or query_QD.shape[1] != self._facts["dim"]:
            raise ShapeError(f"queries are {list(query_QD.shape)} (expected [Q, {self._facts['dim']}])")
        checked(query_QD, [f"number {row}" for row in range(len(query_QD))], "query")
        columns = self._facts["columns"]
        check_where(where or {}, columns)
        condition = engine_filter(where or {}, columns)
        parameters = engine.SearchParams(hnsw_ef=max(effort, k), exact=exact)
        shard = self._open_shard()
        answers = []
        for row in query_QD:
            request = engine.QueryRequest(
                limit=k,
                query=engine.Query.Nearest(row.tolist()),
                with_payload=True,
                filter=condition,
                params=parameters,
            )
            answers.append([self._hit(point) for point in shard.query(request)])
        return answers

    # ------------------------------------------------------------ changing

    def add(self, pool: Dataset, *, batch_size: int = 64, progress: bool = True) -> int:
        """Embed and store more samples; a uid that is there already is replaced. Returns how many were stored."""
        model = self._model()
        stored = 0
        for block in _progress(_blocks(model, pool, self._facts["what"], batch_size), len(pool), progress):
            self._store(block)
            stored += len(block.uids)
        self._shard.optimize()
        self._shard.flush()
        return stored

    def remove(self, uids: Iterable[str]) -> int:
        """Take samples out, for good and at once. Returns how many items went; uids that are not there are passed over.

        No search finds them again from this moment. Their bytes leave the disk when the engine rewrites the segment.
        """
        import qdrant_edge as engine

        names = list(dict.fromkeys(uids))
        if not names:
            return 0
        shard, before = self._open_shard(), len(self)
        match = engine.FieldCondition("uid", match=engine.MatchAny(names))
        shard.update(engine.UpdateOperation.delete_points_by_filter(engine.Filter(must=[match])))
        shard.flush()
        return before - len(self)

    def uids(self) -> list[str]:
        """The uids of all items, sorted; a sample with several texts in an index of texts is there once."""
        import qdrant_edge as engine

        shard, offset = self._open_shard(), None
        names: set[str] = set()
        while True:
            request = engine.ScrollRequest(offset=offset, limit=4096, with_payload=["uid"])
            records, offset = shard.scroll(request)
            names.update(record.payload["uid"] for record in records)
            if offset is None:
                return sorted(names)

    # ------------------------------------------------------------ inside

    def _store(self, block: _Items) -> None:
        import qdrant_edge as engine

        columns = merge_kinds(self._facts["columns"], block.payloads)
        if columns != self._facts["columns"]:
            self._declare(columns)
        points = [
            engine.Point(name, vector.tolist(), {key: int(v) if isinstance(v, bool) else v for key, v in payload.items()})
            for name, vector, payload in zip(block.point_ids, block.vectors_ND, block.payloads, strict=True)
        ]
        if points:
            self._open_shard().update(engine.UpdateOperation.upsert_points(points))
        if block.unreadable:
            known = {u["uid"]: u for u in self._facts["unreadable"]} | {u.uid: asdict(u) for u in block.unreadable}
            self._facts["unreadable"] = list(known.values())
            write_json(self.folder / "index.json", self._facts)

    def _declare(self, columns: dict[str, Kind]) -> None:
        """Index new columns in the engine, so that filters stay fast, and write them down."""
        import qdrant_edge as engine

        schema = engine.PayloadSchemaType
        types = {"text": schema.Keyword, "integer": schema.Integer, "boolean": schema.Integer, "number": schema.Float}
        for name, kind in columns.items():
            if self._facts["columns"].get(name) != kind and name not in ("caption", "text"):
                self._open_shard().update(engine.UpdateOperation.create_field_index(json_path(name), types[kind]))
        self._facts["columns"] = columns
        write_json(self.folder / "index.json", self._facts)

    def _hit(self, point: Any) -> Hit:
        columns = self._facts["columns"]
        payload = {key: bool(v) if columns.get(key) == "boolean" else v for key, v in point.payload.items()}
        return Hit(str(payload.pop("uid")), float(point.score), payload)

    def _model(self) -> Embedder:
        if self.embedder is None:
            name = self._facts["model"]["name"]
            raise RunError(
                f"{self.folder} was opened without a model: texts and images need '{name}' (DenseIndex.open(folder, model))"
            )
        return self.embedder

    def _open_shard(self) -> Any:
        if self._shard is None:
            raise RunError(f"{self.folder} is closed")
        return self._shard


@dataclass(frozen=True, slots=True)
class _Items:
    """What goes into the shard at once."""

    uids: list[str]
    point_ids: list[uuid.UUID]
    vectors_ND: Unit
    payloads: list[dict[str, Any]]
    unreadable: tuple[Unreadable, ...]
    samples: int


def _filled(folder: Path, embedder: Embedder, pool: Dataset, *, what: What, batch_size: int, progress: bool) -> DenseIndex:
    """A new index in an empty folder."""
    import qdrant_edge as engine

    index: DenseIndex | None = None
    seen: set[uuid.UUID] = set()
    unreadable: list[dict[str, str]] = []  # before the first readable one
    for block in _progress(_blocks(embedder, pool, what, batch_size), len(pool), progress):
        if index is None and block.uids:
            dim = int(block.vectors_ND.shape[1])
            facts = {
                "format": FORMAT,
                "kind": "dense",
                "what": what,
                "model": {"name": embedder.name, "fingerprint": embedder.fingerprint},
                "data": {"name": pool.name, "fingerprint": pool.fingerprint, "samples": len(pool)},
                "dim": dim,
                "columns": {},
                "unreadable": unreadable,
            }
            (folder / "shard").mkdir()
            vectors = engine.EdgeVectorParams(size=dim, distance=engine.Distance.Dot)
            shard = engine.EdgeShard.create(str(folder / "shard"), engine.EdgeConfig(vectors=vectors, wal_enabled=True))
            index = DenseIndex(folder, shard, facts, embedder)
            write_json(folder / "index.json", facts)
        for uid, point_id in zip(block.uids, block.point_ids, strict=True):
            if point_id in seen:
                raise DataError(f"uid {uid} is there twice", field="uid", expected="uids that differ")
            seen.add(point_id)
        if index is not None:
            index._store(block)
        else:
            unreadable += [asdict(u) for u in block.unreadable]
    if index is None:
        raise DataError(f"nothing in '{pool.name}' could be embedded", field=what, expected=f"samples with {what}")
    index._shard.optimize()
    return index


def _blocks(model: Embedder, pool: Dataset, what: str, batch_size: int) -> Iterator[_Items]:
    if what == "images":
        for block in image_blocks(model, pool, block=BLOCK, batch_size=batch_size):
            yield _image_items(block)
        return
    for start in range(0, len(pool), BLOCK):
        samples = [pool[row] for row in range(start, min(start + BLOCK, len(pool)))]
        pairs = [(sample, place, text) for sample in samples for place, text in enumerate(sample.positives())]
        if not pairs:
            continue
        vectors_ND = embed_texts(model, [text.string for *_, text in pairs], [sample.uid for sample, *_ in pairs])
        yield _Items(
            [sample.uid for sample, *_ in pairs],
            [point_id(sample.uid, place) for sample, place, _ in pairs],
            vectors_ND,
            [_payload(s) | {"text": t.string, "language": t.language, "origin": t.origin} for s, _, t in pairs],
            (),
            len(samples),
        )


def _image_items(block: Block) -> _Items:
    uids = [sample.uid for sample in block.samples]
    ids, payloads = [point_id(uid) for uid in uids], [_payload(sample) for sample in block.samples]
    return _Items(uids, ids, block.vectors_ND, payloads, block.unreadable, len(uids) + len(block.unreadable))


def point_id(uid: str, text: int | None = None) -> uuid.UUID:
    """The engine's name of a sample, or of one of its texts: the same in every index."""
    return uuid.uuid5(NAMESPACE, uid if text is None else f"{uid}\x1f{text}")


def _payload(sample: Sample) -> dict[str, Any]:
    """Columns to filter by and to show: group, licence, source, simple extras (the split among them), first caption."""
    payload: dict[str, Any] = {key: value for key, value in sample.extras.items() if kind_of(value) is not None}
    named = {"group": sample.group, "licence": sample.licence, "source": sample.source}
    payload.update({key: value for key, value in named.items() if value})
    if texts := sample.positives():
        payload["caption"] = texts[0].string
    return payload | {"uid": sample.uid}


def _same_model(folder: Path, facts: dict[str, Any], embedder: Embedder) -> None:
    stored = facts["model"]
    if stored["fingerprint"] != embedder.fingerprint:
        raise RunError(
            f"{folder} holds vectors of model '{stored['name']}' ({stored['fingerprint'][:12]}); "
            f"'{embedder.name}' ({embedder.fingerprint[:12]}) cannot search them: open it with that model or build it again"
        )


def _load_shard(folder: Path) -> Any:
    import qdrant_edge as engine

    try:
        return engine.EdgeShard.load(str(folder / "shard"))
    except Exception as error:  # the engine raises nothing narrower
        if "WouldBlock" in str(error):
            raise RunError(f"{folder} is open in another process, or twice in this one: close it there first") from error
        raise RunError(f"{folder} cannot be opened: {str(error).splitlines()[0]}") from error


def _progress(blocks: Iterator[_Items], total: int, show: bool) -> Iterator[_Items]:
    """The same blocks, with a bar on stderr where a person is watching."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("embedding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (show and console.is_terminal), transient=True) as bar:
        task = bar.add_task("embedding", total=total)
        for block in blocks:
            yield block
            bar.advance(task, block.samples)
