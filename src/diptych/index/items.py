"""Items of an index from samples: one per picture or point cloud, or one per text, with columns to filter by and to show."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.index.embed import UnreadableSample, readable
from diptych.index.engine.store import IndexItem, ScoredItem, Vectors
from diptych.index.exact import Hit
from diptych.index.filters import Kind, kind_of

BLOCK = 512  # samples embedded and stored at a time
NAMESPACE = uuid.UUID("6f1cf3a8-0c5b-5d0e-9a55-4b1d0a4f6c11")
SIZES = ("width", "height")  # columns of the manifest that are no extras of a sample

What = Literal["images", "texts", "clouds"]
EncodeSamples = Callable[[Sequence[Sample]], Sequence[Vectors]]
EncodeTexts = Callable[[Sequence[str], Sequence[str]], Sequence[Vectors]]  # strings, and the samples' uids for messages


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Batch for the engine: items of some consecutive samples, and the samples that could not be read."""

    uids: tuple[str, ...]
    items: tuple[IndexItem, ...]
    unreadable: tuple[UnreadableSample, ...]
    samples: int


def sample_items(
    encode: EncodeSamples, pool: Dataset, *, takes: Callable[[Sample], bool], block: int = BLOCK
) -> Iterator[ItemBatch]:
    """One item per sample; those that `takes` is false for, as they have no picture or no cloud, are skipped."""
    sizes = _sizes(pool)
    for start in range(0, len(pool), block):
        rows = range(start, min(start + block, len(pool)))
        picked = [(row, sample) for row in rows if takes(sample := pool[row])]
        good, vectors, unreadable = readable(encode, [sample for _, sample in picked]) if picked else ([], [], ())
        row_of = {sample.uid: row for row, sample in picked}
        items = [
            IndexItem(point_id(sample.uid), vector, payload(sample) | sizes(row_of[sample.uid]))
            for sample, vector in zip(good, vectors, strict=True)
            if vector
        ]
        yield ItemBatch(tuple(sample.uid for sample in good), tuple(items), unreadable, len(rows))


def text_items(encode: EncodeTexts, pool: Dataset, *, block: int = BLOCK) -> Iterator[ItemBatch]:
    """One item per text that describes its sample; the string, its language and its origin are columns."""
    sizes = _sizes(pool)
    for start in range(0, len(pool), block):
        rows = range(start, min(start + block, len(pool)))
        entries = [
            (row, sample, position) for row in rows if (sample := pool[row]) for position in range(len(sample.positives()))
        ]
        texts = [sample.positives()[position] for _, sample, position in entries]
        uids = [sample.uid for _, sample, _ in entries]
        vectors = encode([text.string for text in texts], uids) if entries else ()
        items = []
        for (row, sample, position), text, vector in zip(entries, texts, vectors, strict=True):
            own = {"text": text.string, "origin": text.origin} | ({"language": text.language} if text.language else {})
            columns = {name: value for name, value in payload(sample).items() if name != "language"}
            if vector:
                items.append(IndexItem(point_id(sample.uid, position), vector, columns | sizes(row) | own))
        yield ItemBatch(tuple(pool.uids[row] for row in rows), tuple(items), (), len(rows))


def point_id(uid: str, text: int | None = None) -> uuid.UUID:
    """The engine's name of a sample, or of one of its texts: the same in every index."""
    return uuid.uuid5(NAMESPACE, uid if text is None else f"{uid}\x1f{text}")


def payload(sample: Sample) -> dict[str, Any]:
    """Columns: simple extras (the split among them), group, licence, source, languages of the texts, first caption."""
    columns: dict[str, Any] = {key: value for key, value in sample.extras.items() if kind_of(value) is not None}
    named = {"group": sample.group, "licence": sample.licence, "source": sample.source}
    columns.update({key: value for key, value in named.items() if value})
    texts = sample.positives()
    if texts:
        columns["caption"] = texts[0].string
    languages = list(dict.fromkeys(text.language for text in texts if text.language))
    if languages and "language" not in columns:
        columns["language"] = languages
    return columns | {"uid": sample.uid}


def storable(columns: dict[str, Any]) -> dict[str, Any]:
    """Columns as an engine stores them: it reads a Python bool as an integer, so it gets one."""
    return {name: int(value) if isinstance(value, bool) else value for name, value in columns.items()}


def hit_of(item: ScoredItem, columns: Mapping[str, Kind]) -> Hit:
    """Search hit for an item. The list of a sample's text languages is left out: it serves filters and is long to read."""
    shown = {name: bool(value) if columns.get(name) == "boolean" else value for name, value in item.payload.items()}
    if columns.get("language") == "texts":
        shown.pop("language", None)
    return Hit(str(shown.pop("uid")), item.score, shown)


def _sizes(pool: Dataset) -> Callable[[int], dict[str, Any]]:
    """Width and height of the image in a row, for pools that store them."""
    there = [name for name in SIZES if name in getattr(pool, "column_names", ())]
    columns: dict[str, Sequence[Any]] = {name: pool.column(name) for name in there}  # type: ignore[attr-defined]
    return lambda row: {name: values[row] for name, values in columns.items() if values[row] is not None}
