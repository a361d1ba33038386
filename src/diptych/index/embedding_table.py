"""Image embeddings on disk, computed once for each model and read by every step that wants them.

    FOLDER/FINGERPRINT-image/embeddings.json      format, model (name and fingerprint), view, width
    FOLDER/FINGERPRINT-image/part-00000.parquet   uid, content (sha256 of the picture), reason: a row for each embedded picture
    FOLDER/FINGERPRINT-image/part-00000.npy       its vectors, float32 [n, D], rows in the same order; read through a memory map

A picture is found by its content, so that a subset, another curation or a copy of the data reads the same rows, and a picture that has
changed is embedded again. Built data know the hash; other pictures are read for it, and not decoded. A part is there whole or not at
all: the Parquet file is written last. A killed call loses at most one part of each process. Pictures that cannot be decoded are no rows,
and are tried again by each call.

The cut into parts is fixed when a call begins, in `filling.json`, which lies in the folder until the call has ended: whoever writes a part,
and in whatever order, before a kill or after it, embeds the same batches into the same files.

Letters: N rows, D width.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder, Unit
from diptych.core.disk.files import write_atomic, write_json
from diptych.core.disk.json_text import read_object
from diptych.core.disk.lock import exclusive
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.data.columns import read_parquet, write_parquet
from diptych.data.dataset import Pool
from diptych.data.ragged import one_chunk
from diptych.data.subset import sorted_rows, uid_column
from diptych.index.embed import image_blocks

MARK, FORMAT, PART_ROWS = "embeddings.json", 1, 2_048
BEGUN = "filling.json"
PART = re.compile(r"part-(\d{5,})\.parquet")
ROWS = pa.schema([("uid", pa.string()), ("content", pa.string())])
BLOCK = 16_384
"""Rows of which there are Python objects at a time."""
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class EmbeddedPool:
    """Embeddings of a pool, in order of uid.

    uids        rows with an image that could be read, strings
    vector_ND   their embeddings, unit-norm
    unreadable  reason by uid
    computed    pictures that the model was asked for; the others were in the table
    """

    uids: pa.Array
    vector_ND: Unit
    unreadable: dict[str, str]
    computed: int


@dataclass(frozen=True, slots=True)
class FillPlan:
    """Pictures that a table lacks, cut into parts of PART_ROWS.

    first     number of the first part
    rows      rows of the data, in order of uid, int64 [N]
    contents  hash of each row's picture, strings [N]; "" where it cannot be read
    left      numbers of the parts that are not there yet
    """

    first: int
    rows: Ints
    contents: pa.Array
    left: tuple[int, ...]

    def part(self, number: int) -> tuple[list[int], list[str]]:
        """Rows and contents of a part."""
        start = (number - self.first) * PART_ROWS
        return self.rows[start : start + PART_ROWS].tolist(), self.contents.slice(start, PART_ROWS).to_pylist()


def image_digest(image: ImageSource) -> str:
    """Hex sha256 of a picture's encoded bytes, or of shape and pixels if it has none; "" for one that cannot be read."""
    if isinstance(image, ArrayImage):
        pixels = np.ascontiguousarray(image.pixels_HWC)
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    try:
        return hashlib.sha256(image.read()).hexdigest()
    except OSError:
        return ""


def content_hashes(data: Dataset) -> pa.Array:
    """Hash of each row's picture, strings [N]: the column `sha256` of built data, else of the bytes; "" without a picture."""
    stored = pa.nulls(len(data), pa.string())
    if isinstance(data, Pool) and data.is_flat("sha256"):
        stored = one_chunk(data.arrow("sha256")).cast(pa.string())
    lacking = np.flatnonzero(pc.equal(pc.coalesce(stored, ""), "").to_numpy(zero_copy_only=False))
    blocks, block = list[pa.Array](), list[str]()
    for row in with_bar(lacking, len(lacking), "reading pictures", least=10_000):
        image = data[int(row)].image
        block.append(image_digest(image) if image is not None else "")
        if len(block) == BLOCK:
            blocks, block = [*blocks, pa.array(block, pa.string())], []
    read = pa.chunked_array([*blocks, pa.array(block, pa.string())]).combine_chunks()
    if len(read) == len(data):
        return read
    mask = np.zeros(len(data), bool)
    mask[lacking] = True
    return pc.replace_with_mask(stored, pa.array(mask), read)


class EmbeddingTable:
    """Embeddings of pictures by one model, in a folder that may hold those of several models."""

    def __init__(self, folder: Path, model: Embedder) -> None:
        name = model.fingerprint if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", model.fingerprint) else _short(model.fingerprint)
        self.root, self.model = folder, model
        self.folder = folder / f"{name}-image"
        mark = self.folder / MARK
        if mark.is_file():
            _refuse_other(mark, model)
        self._content = pa.array([], pa.string())
        self._starts: list[tuple[int, int]] = []  # first row and number of each part
        self.reload()

    def reload(self) -> None:
        """Read the contents of all parts, not their vectors."""
        numbers = part_numbers(self.folder)
        parts = [read_parquet(self._path(number, "parquet"), ["content"])["content"] for number in numbers]
        lengths = [len(part) for part in parts]
        self._starts = list(zip((np.cumsum(lengths) - lengths).tolist(), numbers, strict=True)) if parts else []
        self._content = pa.chunked_array(parts, pa.string()).combine_chunks() if parts else pa.array([], pa.string())

    def __len__(self) -> int:
        return len(self._content)

    def positions(self, contents: Sequence[str] | pa.Array) -> Ints:
        """Row of each content hash in the table, int64 [N]; -1 where it is not there."""
        index = pc.index_in(pa.array(contents, pa.string()), value_set=self._content).fill_null(-1)
        position_N: Ints = index.to_numpy(zero_copy_only=False).astype(np.int64)
        return position_N

    def vectors(self, position_N: Ints) -> Unit:
        """Embeddings of rows of the table, float32 [N, D], read part by part through memory maps."""
        out: Unit | None = None
        ends = [start for start, _ in self._starts[1:]] + [len(self)]
        for (start, number), end in zip(self._starts, ends, strict=True):
            hit = np.flatnonzero((position_N >= start) & (position_N < end))
            if not len(hit):
                continue
            part_ND = self._mapped(number, end - start)
            if out is None:
                out = np.zeros((len(position_N), part_ND.shape[1]), np.float32)
            if part_ND.shape[1] != out.shape[1]:
                raise DataError(f"has vectors of {part_ND.shape[1]}", file=self._path(number, "npy"), expected=f"{out.shape[1]}")
            out[hit] = part_ND[position_N[hit] - start]
        return out if out is not None else np.zeros((len(position_N), 1), np.float32)

    def fill(self, data: Dataset, contents: pa.Array | None = None) -> tuple[int, dict[str, str]]:
        """Embed the pictures of a pool that are not in the table; returns their number, and reasons of the unreadable ones by uid.

        Raises RunError while another process fills it.
        """
        computed, unreadable = 0, dict[str, str]()
        with self.filling():
            plan = self.plan(data, contents)
            for number in with_bar(plan.left, len(plan.left), "embedding", least=2):
                count, wrong = self.write(data, number, *plan.part(number))
                computed, unreadable = computed + count, unreadable | wrong
            self.end()
        return computed, unreadable

    def filling(self) -> AbstractContextManager[None]:
        """Context in which no other process fills the table. Raises RunError while one does."""
        return exclusive(self.folder, ".filling", f"{self.folder} is being filled")

    def plan(self, data: Dataset, contents: pa.Array | None = None, *, begin: bool = True) -> FillPlan:
        """The parts that are to be written for a pool: those of a call that was cut short, else new ones.

        begin  False for a process that helps another, which has begun. Raises DataError where that one has other data
        """
        contents = content_hashes(data) if contents is None else contents
        self.reload()
        path = self.folder / BEGUN
        if begun := _read_begun(path):
            plan = self._plan(data, contents, begun["first"])
            if begun["digest"] == _plan_digest(data, plan):
                return plan
        plan = self._plan(data, contents, max(part_numbers(self.folder), default=-1) + 1)
        if plan.left and not begin:
            raise DataError(
                "is missing or of other data", file=path, expected=f"the same '{data.name}' and folder in every process"
            )
        if plan.left:
            write_json(path, {"first": plan.first, "digest": _plan_digest(data, plan)})
        return plan

    def _plan(self, data: Dataset, contents: pa.Array, number: int) -> FillPlan:
        before = sum(stored < number for _, stored in self._starts)
        end = self._starts[before][0] if before < len(self._starts) else len(self)
        order_N = sorted_rows(data)
        contents = contents.take(pa.array(order_N))
        missing_N = ~pc.is_in(contents, value_set=self._content.slice(0, end)).to_numpy(zero_copy_only=False)
        code_N = contents.dictionary_encode().indices.to_numpy()
        first_N = np.zeros(len(code_N), bool)
        first_N[np.unique(code_N, return_index=True)[1]] = True  # the first row of each picture
        for at in np.flatnonzero(missing_N & pc.equal(contents, "").to_numpy(zero_copy_only=False)).tolist():
            first_N[at] = data[int(order_N[at])].image is not None  # a picture that cannot be read, of its own
        at_M = np.flatnonzero(missing_N & first_N)
        there = {stored for _, stored in self._starts}
        left = tuple(n for n in range(number, number + -(-len(at_M) // PART_ROWS)) if n not in there)
        return FillPlan(number, order_N[at_M], contents.take(pa.array(at_M)), left)

    def end(self) -> None:
        """After the last part of a plan: its file goes, and the table has its rows."""
        if (self.folder / BEGUN).exists():
            (self.folder / BEGUN).unlink()
        self.reload()

    def read(self, data: Dataset) -> EmbeddedPool:
        """Embeddings of a pool, computed where the table lacks them."""
        contents = content_hashes(data)
        computed, unreadable = self.fill(data, contents) if (self.positions(contents) < 0).any() else (0, {})
        order = pa.array(sorted_rows(data))
        uids, contents = uid_column(data).take(order), contents.take(order)
        position_N = self.positions(contents)
        named = pa.array(list(unreadable), pa.string())
        bad = contents.take(pc.index_in(named, value_set=uids)).to_pylist()
        reason_of = {content: reason for content, reason in zip(bad, unreadable.values(), strict=True) if content}
        copies = pc.is_in(contents, value_set=pa.array(list(reason_of), pa.string()))
        wrong_N = (position_N < 0) & pc.or_(copies, pc.is_in(uids, value_set=named)).to_numpy(zero_copy_only=False)
        pairs = (column.filter(pa.array(wrong_N)).to_pylist() for column in (uids, contents))
        wrong = {uid: unreadable.get(uid) or reason_of[content] for uid, content in zip(*pairs, strict=True)}
        good = position_N >= 0
        return EmbeddedPool(uids.filter(pa.array(good)), self.vectors(position_N[good]), wrong, computed)

    def write(self, data: Dataset, number: int, rows: Sequence[int], contents: Sequence[str]) -> tuple[int, dict[str, str]]:
        """Embed the pictures of some rows into the part of that number; returns how many there are, and reasons of the unreadable ones
        by uid. A part without any has no file."""
        content_of = {data.uids[row]: content for row, content in zip(rows, contents, strict=True)}
        uids: list[str] = []
        vectors: list[Unit] = []
        unreadable: dict[str, str] = {}
        for block in image_blocks(self.model, data.select(rows)):
            uids += [sample.uid for sample in block.samples]
            vectors += [block.vectors_ND] if block.samples else []
            unreadable |= {one.uid: one.reason for one in block.unreadable}
        if not uids:
            return 0, unreadable
        vector_ND = np.ascontiguousarray(np.concatenate(vectors), np.float32)
        if not (self.folder / MARK).is_file():
            facts = {"name": self.model.name, "fingerprint": self.model.fingerprint}
            write_json(self.folder / MARK, {"format": FORMAT, "model": facts, "view": "image", "width": vector_ND.shape[1]})
        write_part(self.folder, number, pa.table([uids, [content_of[uid] for uid in uids]], schema=ROWS), vector_ND)
        return len(uids), unreadable

    def _mapped(self, number: int, rows: int) -> Unit:
        return mapped_vectors(self._path(number, "npy"), rows)

    def _path(self, number: int, ending: str) -> Path:
        return self.folder / f"part-{number:05d}.{ending}"


class StoredEmbedder:
    """Embedder that takes image embeddings from a table where it has the picture, and asks the model for the others.

    Everything else is the model's own. Nothing is written: `EmbeddingTable.fill` does that.
    """

    def __init__(self, model: Any, folder: Path) -> None:
        self._model, self._table = model, EmbeddingTable(folder, model)
        self.name, self.fingerprint = model.name, model.fingerprint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        """Image embeddings, float32 [N, D]."""
        position_N = self._table.positions([image_digest(image) for image in images])
        there = position_N >= 0
        if not there.any():
            asked: Unit = self._model.embed_images(images, batch_size=batch_size)
            return asked
        vector_ND = self._table.vectors(np.where(there, position_N, position_N.max()))
        if not there.all():
            others = [image for image, stored in zip(images, there.tolist(), strict=True) if not stored]
            vector_ND[~there] = self._model.embed_images(others, batch_size=batch_size)
        return vector_ND

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        """Text embeddings of the model, float32 [N, D]."""
        vector_ND: Unit = self._model.embed_texts(texts, batch_size=batch_size)
        return vector_ND


def part_numbers(folder: Path) -> list[int]:
    """Numbers of the parts of a table, in order."""
    return sorted(int(match[1]) for path in folder.glob("part-*.parquet") if (match := PART.fullmatch(path.name)))


def mapped_vectors(path: Path, rows: int) -> Unit:
    """Vectors of a part, float32 [rows, D], memory-mapped."""
    try:
        vector_ND = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {error}", file=path, expected="the part beside its Parquet file") from error
    if vector_ND.ndim != 2 or len(vector_ND) != rows or vector_ND.dtype != np.float32:
        raise DataError(f"is {vector_ND.dtype} {list(vector_ND.shape)}", file=path, expected=f"float32 [{rows}, D]")
    mapped: Unit = vector_ND
    return mapped


def write_part(folder: Path, number: int, rows: pa.Table, vector_ND: Unit) -> None:
    """Write a part: vectors first, then the rows that make it count."""
    buffer = io.BytesIO()
    np.save(buffer, vector_ND, allow_pickle=False)
    write_atomic(folder / f"part-{number:05d}.npy", buffer.getvalue())
    write_parquet(folder / f"part-{number:05d}.parquet", rows)


def check_has_embeddings(folder: Path) -> None:
    """Raises DataError for a folder without a table of embeddings."""
    if not any(folder.glob(f"*/{MARK}")):
        raise DataError("has no table of embeddings", file=folder, expected="the output of `diptych embed`")


def take_down_embeddings(folder: Path, uids: Iterable[str], hashes: Iterable[str] = ()) -> int:
    """Remove the embeddings of samples and of pictures with these hashes from all tables of a folder; returns their number.

    Vectors that a killed call left without their rows go too. Raises DataError for a folder without a table.
    """
    check_has_embeddings(folder)
    removed = 0
    for mark in sorted(folder.glob(f"*/{MARK}")):
        with exclusive(mark.parent, ".filling", f"{mark.parent} is being filled"):
            (mark.parent / BEGUN).unlink(missing_ok=True)  # parts get new numbers
            removed += sum(_rewritten_parts(mark.parent, set(uids), set(hashes)))
            for vectors in mark.parent.glob("part-*.npy"):
                if not vectors.with_suffix(".parquet").exists():
                    vectors.unlink()
    return removed


def _rewritten_parts(folder: Path, uids: set[str], hashes: set[str]) -> Iterator[int]:
    """Number of rows that left each part; the others stand in a new part before the old one goes."""
    for number in part_numbers(folder):
        path = folder / f"part-{number:05d}.parquet"
        rows = read_parquet(path).select(ROWS.names)
        gone = pc.or_(
            pc.is_in(rows["uid"], value_set=pa.array(sorted(uids), pa.string())),
            pc.is_in(rows["content"], value_set=pa.array(sorted(hashes), pa.string())),
        ).to_numpy()
        if not gone.any():
            continue
        if not gone.all():
            fresh = max(part_numbers(folder)) + 1
            write_part(folder, fresh, rows.filter(pa.array(~gone)), mapped_vectors(path.with_suffix(".npy"), len(rows))[~gone])
        path.unlink()
        path.with_suffix(".npy").unlink(missing_ok=True)
        yield int(gone.sum())


def _plan_digest(data: Dataset, plan: FillPlan) -> str:
    digest = hashlib.sha256(f"{PART_ROWS}\n".encode())
    uids = uid_column(data).take(pa.array(plan.rows))
    for start in range(0, len(uids), BLOCK):
        for uid, content in zip(uids.slice(start, BLOCK).to_pylist(), plan.contents.slice(start, BLOCK).to_pylist(), strict=True):
            digest.update(f"{uid} {content}\n".encode())
    return digest.hexdigest()


def _read_begun(path: Path) -> dict[str, Any] | None:
    """Contents of the file that `plan` writes when a call begins; None if it is missing or unreadable."""
    try:
        begun = read_object(path)
    except ValueError:
        return None
    return begun if isinstance(begun.get("first"), int) and isinstance(begun.get("digest"), str) else None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _refuse_other(mark: Path, model: Embedder) -> None:
    try:
        facts = read_object(mark)
    except ValueError as error:
        raise DataError(str(error), file=mark, expected="what `diptych embed` wrote") from error
    stored = facts.get("model")
    if facts.get("format") != FORMAT or not isinstance(stored, dict) or stored.get("fingerprint") != model.fingerprint:
        raise DataError(
            f"has format {facts.get('format')!r:.20} and the model {stored!r:.80}",
            file=mark,
            expected=f"format {FORMAT}, {model.name}",
        )
