"""Checksums of stored items, `checksums.bin` in the folder of an index, by which `verify` finds what changed on disk since.

    header     8 bytes: magic and version
    record     32 bytes: kind (1), padding (7), item (8: hash of the engine's id), sample (8: hash of the uid), sum (8)

A change is written down before the engine makes it, and once more when the engine has it. So after a kill between both, what was being
changed may be in its old or in its new state, and everything else has one. The file is only ever appended to; `rewrite` drops what no
longer counts. The vocabulary of lexical kinds only grows, too: its sum is of its first bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.core.disk.files import write_atomic
from diptych.core.disk.paths import read_file
from diptych.core.errors import RunError
from diptych.index.engine.store import IndexItem, SparseVector

FILE = "checksums.bin"
MAGIC = b"DPTSUM\x00\x01"
RECORD = np.dtype([("kind", "u1"), ("pad", "V7"), ("item", "<u8"), ("sample", "<u8"), ("sum", "<u8")])
UNREAD = -2
"""Size of a vocabulary that was not looked up yet."""
PUT, REMOVED, DONE, WORDS, WHOLE = 1, 2, 3, 4, 5
"""Kinds of records: an item, a sample whose other items go, the end of a change, the vocabulary (item: its bytes), and the start of an
index of which every item has a record."""


def item_sum(item: IndexItem) -> int:
    """Checksum of the vectors and columns of an item as the engine stores them."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(item.vectors):
        vector = item.vectors[name]
        digest.update(f"{name}\x1f".encode("utf-8", "surrogatepass"))
        if isinstance(vector, SparseVector):
            order = np.argsort(vector.indices, kind="stable")
            digest.update(np.ascontiguousarray(vector.indices[order], "<i8").tobytes())
            vector = vector.values[order]
        digest.update(repr(vector.shape).encode())
        digest.update(np.ascontiguousarray(vector, "<f4").tobytes())
    digest.update(json.dumps(_plain(item.payload), sort_keys=True, default=str).encode())
    return int.from_bytes(digest.digest(), "little")


def _plain(value: Any) -> Any:
    """Value with whole floats as integers: engines do not tell both apart."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def item_key(item: IndexItem) -> tuple[int, int]:
    """Hashes of the engine's id of an item and of its sample."""
    return _hash(str(item.id)), _hash(str(item.payload.get("uid")))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


@dataclass(slots=True)
class RecordedSums:
    """Content of the file.

    item_sums   sums that an item may have, by the hash of its id; more than one while a change was not finished
    sample_of   the sample of each item
    unsettled   samples that were being changed when the process was killed: their items may be there or not
    words       (bytes, sum) of the vocabulary when terms were added
    is_whole    True if every item of the index has a record: it was built or compacted with them
    """

    item_sums: dict[int, set[int]] = field(default_factory=dict)
    sample_of: dict[int, int] = field(default_factory=dict)
    unsettled: set[int] = field(default_factory=set)
    words: list[tuple[int, int]] = field(default_factory=list)
    is_whole: bool = False


class Checksums:
    """The checksum file of an index in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._word_bytes = UNREAD

    def start(self) -> None:
        """An empty file of an index that has no item yet."""
        write_atomic(self.path, MAGIC + _records([(WHOLE, 0, 0, 0)]))

    @contextmanager
    def change(self, items: Sequence[IndexItem], uids: Iterable[str] = ()) -> Iterator[None]:
        """A change of the engine: `items` are put; of the samples `uids` every other item goes."""
        rows = [(REMOVED, 0, _hash(uid), 0) for uid in uids]
        rows += [(PUT, *item_key(item), item_sum(item)) for item in items]
        if not rows:
            yield
            return
        self._append(rows)
        yield
        self._append([(DONE, 0, 0, 0)])

    def words(self, vocabulary: Path) -> None:
        """Record the vocabulary, if it has grown since."""
        if not vocabulary.is_file():
            return
        if vocabulary.stat().st_size == self._recorded_words():
            return
        data = read_file(vocabulary)
        self._append([(WORDS, len(data), 0, _sum_of(data))])
        self._word_bytes = len(data)

    def _recorded_words(self) -> int:
        """Bytes of the vocabulary that was recorded last, -1 for none. Read once: a service asks with every item that comes."""
        if self._word_bytes == UNREAD:
            records = self._stored()
            sizes = records["item"][records["kind"] == WORDS]
            self._word_bytes = int(sizes[-1]) if len(sizes) else -1
        return self._word_bytes

    def read(self) -> RecordedSums:
        """Everything recorded. Raises RunError for any other file, or damaged."""
        return _replay(self._stored(), self.path)

    def _stored(self) -> npt.NDArray[Any]:
        """Records of the file in their order; none if there is no file."""
        try:
            data = read_file(self.path)
        except FileNotFoundError:
            return np.zeros(0, RECORD)
        except OSError as error:
            raise RunError(f"{self.path} cannot be read: {error.strerror or error}") from error
        if data[: len(MAGIC)] != MAGIC:
            raise RunError(f"{self.path} contains no checksums (its first bytes are others): run `diptych index compact`")
        body = data[len(MAGIC) :]
        return np.frombuffer(body[: len(body) // RECORD.itemsize * RECORD.itemsize], RECORD)  # a kill may have cut the last one

    def rewrite(self, stored: Mapping[int, tuple[int, int]]) -> None:
        """The sums of a copied index without what no longer counts. Those that were recorded stay, right or wrong, and items without any
        get the sum that they have now. stored: (hash of the sample, sum) of every item by the hash of its id."""
        try:
            sums = self.read()
        except RunError:
            sums = RecordedSums()
        rows = [(WHOLE, 0, 0, 0)]
        for item, several in sums.item_sums.items():
            if sums.sample_of[item] not in sums.unsettled:
                rows.append((PUT, item, sums.sample_of[item], min(several)))
        recorded = {row[1] for row in rows[1:]}
        rows += [(PUT, item, sample, one) for item, (sample, one) in stored.items() if item not in recorded]
        rows += [(WORDS, size, 0, one) for size, one in sums.words[-1:]]
        self._word_bytes = UNREAD
        write_atomic(self.path, MAGIC + _records([*rows, (DONE, 0, 0, 0)]))

    def _append(self, rows: Sequence[tuple[int, int, int, int]]) -> None:
        before = self.path.stat().st_size if self.path.is_file() else 0
        cut = (before - len(MAGIC)) % RECORD.itemsize if before else 0
        try:
            with self.path.open("ab") as file:
                if cut:
                    file.truncate(before - cut)
                file.write((b"" if before else MAGIC) + _records(rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.truncate(self.path, before - cut)
            raise


def _records(rows: Sequence[tuple[int, int, int, int]]) -> bytes:
    return np.array([(kind, b"", item, sample, one) for kind, item, sample, one in rows], RECORD).tobytes()


def _replay(records: npt.NDArray[Any], path: Path) -> RecordedSums:
    sums, items_of = RecordedSums(), dict[int, set[int]]()
    pending: list[tuple[int, int, int, int]] = []
    kinds, items, samples, each = (records[name].tolist() for name in ("kind", "item", "sample", "sum"))

    def settle(done: bool) -> None:
        for kind, item, sample, one in pending:
            if not done:
                sums.unsettled.add(sample)
                if kind == PUT:
                    sums.item_sums.setdefault(item, set()).add(one)
                    sums.sample_of[item] = sample
                    items_of.setdefault(sample, set()).add(item)
            elif kind == REMOVED:
                for gone in items_of.pop(sample, ()):
                    sums.item_sums.pop(gone, None)
                    sums.sample_of.pop(gone, None)
                sums.unsettled.discard(sample)
            else:
                sums.item_sums[item], sums.sample_of[item] = {one}, sample
                items_of.setdefault(sample, set()).add(item)
        pending.clear()

    for number, (kind, item, sample, one) in enumerate(zip(kinds, items, samples, each, strict=True)):
        if kind == WORDS:
            sums.words.append((item, one))
        elif kind == WHOLE:
            sums.is_whole = True
        elif kind == DONE:
            settle(True)
        elif kind in (PUT, REMOVED):
            pending.append((kind, item, sample, one))
        else:
            raise RunError(f"{path}, record {number}: is of an unknown kind ({kind}): run `diptych index compact`")
    settle(False)
    return sums


def _sum_of(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def words_problem(vocabulary: Path, sums: RecordedSums) -> str:
    """Reason why the vocabulary is not the one that was recorded, or "". Additions of a killed `add` do not count."""
    if not sums.words:
        return ""
    size, recorded = sums.words[-1]
    try:
        data = read_file(vocabulary)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    if len(data) < size:
        return f"has {len(data):,} of {size:,} bytes"
    return "" if _sum_of(data[:size]) == recorded else "is not what was written: its checksum is another"
