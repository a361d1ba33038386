"""Changes that a service makes to items: the requested change, and its effect on the current item."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diptych.core.errors import DiptychError
from diptych.core.image import SliceImage
from diptych.core.sample import Sample, Text
from diptych.data.metadata import HIDDEN
from diptych.data.shards.changes import NewPicture, PutItem, RemoveItem, with_rows
from diptych.data.shards.mark import SHARDS
from diptych.index.filters import merge_kinds
from diptych.index.items import payload
from diptych.serve.collection.served_data import DataPart
from diptych.serve.refusals import RequestError

UID = re.compile(r"[A-Za-z0-9_-]{1,200}")
FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_ -]{0,63}")
TAKEN = frozenset(("caption", "text", "score", "origin", "language"))
"""Names of search results, which a field can have only where the data have a column of that name."""
OWN = ("group", "licence", "source")


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to add.

    columns  group, licence, source, and fields of the user
    """

    uid: str
    picture: NewPicture | None
    texts: tuple[Text, ...]
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ItemCorrection:
    """Other texts (None: as they are), and columns to set (a value of None removes one)."""

    uid: str
    texts: tuple[Text, ...] | None
    columns: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ItemRemoval:
    """An item to remove."""

    uid: str
    reason: str = "removed"


ItemChange = NewItem | ItemCorrection | ItemRemoval


@dataclass(frozen=True, slots=True)
class Decision:
    """Effect of a change on an item: the entry of the log (None: nothing changes), and the answer to the client."""

    entry: PutItem | RemoveItem | None
    answer: dict[str, Any]


def decide(change: ItemChange, part: DataPart, rows: Mapping[str, dict[str, Any]]) -> Decision:
    """Decide on a change to an item of a part of the data.

    rows  columns of items that the service has put since it read the part, by uid
    Raises RequestError: 404 and 410 for an item that is not there or was taken down, 409 for a uid that is there with another content.
    """
    uid = change.uid
    old = part.sample(uid)
    if isinstance(change, ItemRemoval):
        entry = None if old is None else RemoveItem(uid, change.reason)
        if old is None and uid not in part.gone:
            raise RequestError(404, "no item has that uid")
        return Decision(entry, {"uid": uid, "removed": old is not None})
    if isinstance(change, ItemCorrection):
        if old is None:
            raise RequestError(
                410 if uid in part.gone else 404, "that item was removed" if uid in part.gone else "no item has that uid"
            )
        before = stored_row(part, rows, uid)
        row = {**before, **change.columns}
        texts = old.texts if change.texts is None else change.texts
        same = texts == old.texts and all(before.get(name) == value for name, value in change.columns.items())
        return Decision(None if same else PutItem(row, texts), {"uid": uid, "changed": not same})
    sha256 = "" if change.picture is None else change.picture.sha256
    answer = {"uid": uid, "created": old is None, "sha256": sha256 or None}
    if old is None:
        return Decision(PutItem({**change.columns, "uid": uid}, change.texts, change.picture), answer)
    before = stored_row(part, rows, uid)
    own = {name: value for name, value in before.items() if name not in HIDDEN or name in OWN}
    columns = {name: value for name, value in own.items() if value not in (None, "")}
    if (before.get("sha256") or "") != sha256 or old.texts != change.texts or columns != dict(change.columns):
        raise RequestError(
            409, "an item of that uid is there with another content (expected PATCH for texts and fields, or DELETE before it)"
        )
    return Decision(None, answer)


def stored_row(part: DataPart, rows: Mapping[str, dict[str, Any]], uid: str) -> dict[str, Any]:
    """Columns of the manifest of an item as they are now."""
    if uid in rows and uid in part.own:
        return dict(rows[uid])
    stored = part.data.stored(part.row_of[uid])  # type: ignore[attr-defined]  # a part that changes is a pool
    return {name: value for name, value in stored.items() if value is not None}


def sample_of(part: DataPart, row: Mapping[str, Any], texts: tuple[Text, ...]) -> Sample:
    """The item as it is after a change; regions, relations and media stay."""
    assert part.folder is not None
    data: Any = part.data
    extras = {
        name: json.loads(value) if data.is_json(name) else value
        for name, value in row.items()
        if name not in HIDDEN and value not in (None, "")
    }
    named: dict[str, Any] = {name: row.get(name) or "" for name in OWN}
    old = part.sample(row["uid"])
    image = None
    if row.get("image_offset", -1) >= 0:
        image = SliceImage(Path(part.folder, SHARDS, row["shard"]), row["image_offset"], row["image_size"], row["uid"])
    if old is not None and old.media:
        return replace(old, texts=texts, extras={**old.extras, **extras}, **named)
    if old is not None:
        return replace(old, image=image, texts=texts, extras=extras, **named)
    return Sample(row["uid"], image, texts, extras=extras, **named)


def check_columns(columns: Mapping[str, Any], part: DataPart, index_columns: list[Mapping[str, str]]) -> None:
    """Raise RequestError (422) for a field that cannot be stored: its name is taken, its value is missing or of another type than
    in other items."""
    for name, value in columns.items():
        if name in OWN and (value is None or isinstance(value, str)):
            continue
        taken = name in HIDDEN or (name in TAKEN and name not in part.data.column_names)  # type: ignore[attr-defined]  # a pool
        if taken or not FIELD.fullmatch(name):
            raise RequestError(
                422, f"fields: '{name[:80]}' cannot be a field (expected letters, digits, _; a name that nothing has)"
            )
        if not _is_plain(value):
            raise RequestError(422, f"fields.{name}: expected a string, a number, true or false, or a list of strings")
    given = {name: value for name, value in columns.items() if value is not None}
    try:
        with_rows(empty_manifest(part), [given])
        for kinds in index_columns:
            merge_kinds(kinds, [payload(Sample("u", extras={n: v for n, v in given.items() if n not in OWN}))])
    except DiptychError as error:
        raise RequestError(422, f"fields: {error}") from None


def empty_manifest(part: DataPart) -> Any:
    """A table without rows in the columns of a part."""
    import pyarrow as pa

    data: Any = part.data
    names = [name for name in data.column_names if data.is_flat(name) or data.is_json(name)]
    return pa.table({name: data.arrow(name).slice(0, 0) for name in names})


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, int):
        return abs(value) < 2**53
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list):
        return bool(value) and len(value) <= 1000 and all(isinstance(part, str) for part in value)
    return isinstance(value, str)
