"""`Pool`: samples by row over flat columns. Choosing, splitting and joining cost almost nothing; a `Sample` is made on demand.

A million rows take a few hundred bytes each. A pool can be pickled and shared with loader workers: it holds no open file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem, first_picture
from diptych.core.sample import Sample
from diptych.data.columns import column_of, refuse_duplicates
from diptych.data.media.images import Images, Objects
from diptych.data.media.table import Media, MediaObjects, MediaRows
from diptych.data.quarantine import Bad
from diptych.data.ragged import (
    REGION_SCHEMA,
    RELATION_SCHEMA,
    Ragged,
    Texts,
    region_of,
    region_records,
    relation_of,
    relation_records,
    with_records,
)

Ints = npt.NDArray[np.int64]
IDENTITY = ("uid", "group", "licence", "source")
STORED = ("shard", "image_offset", "image_size", "image_format", "width", "height", "sha256", "status")
"""Columns that `build` fills in. They are read with `column`, and are not among the extras of a sample."""
JSON = {b"diptych": b"json"}
"""Metadata of a column whose strings are JSON."""


class Pool:
    """Image-text samples by row. Satisfies `core.contracts.Dataset`.

    name        for reports
    quarantine  what was left out while reading, and why
    notes       what the reader decided (which columns it took, what it joined), one line each

    >>> from diptych.core.sample import Text
    >>> pool = Pool.from_samples([Sample("a", texts=(Text("a cat"),)), Sample("b", texts=(Text("a dog"),))], name="pets")
    >>> pool.select([1])[0].texts[0].string
    'a dog'
    """

    def __init__(
        self,
        name: str,
        columns: Mapping[str, pa.Array],
        texts: Texts,
        images: Images,
        *,
        media: Media | None = None,
        regions: Ragged | None = None,
        relations: Ragged | None = None,
        objects: Mapping[str, Sequence[Any]] | None = None,
        json_columns: Collection[str] = (),
        quarantine: Sequence[Bad] = (),
        notes: Sequence[str] = (),
        rows: Ints | None = None,
        fingerprint: str = "",
        relabelled: bool = False,
    ) -> None:
        """`columns` has at least "uid"; all have one value a row, as has `objects` (values that Arrow cannot hold).
        `rows` chooses from them; None takes all. `fingerprint` is taken as given where it is known. `relabelled`: the relations are not
        those that came with the data, so they are part of the fingerprint."""
        self.name = name
        self.quarantine, self.notes = list(quarantine), list(notes)
        self._columns, self._texts, self._images, self._media = dict(columns), texts, images, media
        self._regions, self._relations = regions, relations
        self._objects, self._json = dict(objects or {}), frozenset(json_columns)
        self._rows: Ints = np.arange(len(self._columns["uid"])) if rows is None else rows
        self._fingerprint, self._relabelled = fingerprint, relabelled
        self._uids: tuple[str, ...] | None = None
        self._groups: tuple[str, ...] | None = None
        hidden = {*IDENTITY, *STORED}
        self._extras = [n for n in self._columns if n not in hidden]
        if rows is None:
            refuse_duplicates(self._columns["uid"])

    # ------------------------------------------------------------ made from

    @classmethod
    def from_samples(cls, samples: Iterable[Sample], *, name: str = "samples") -> Pool:
        """A pool over samples that are already made. An extra called "split" becomes the split column."""
        items = list(samples)
        uids = pa.array([s.uid for s in items], pa.string())
        columns = {"uid": uids}
        for field in ("group", "licence", "source"):
            columns[field] = pa.array([getattr(s, field) for s in items], pa.string())
        objects: dict[str, list[Any]] = {}
        for key in dict.fromkeys(key for s in items for key in s.extras):
            if key in IDENTITY or key in STORED:
                taken = ", ".join(IDENTITY + STORED)
                raise DataError(f"{key!r} cannot be an extra", field=key, expected=f"a name other than {taken}")
            values = [s.extras.get(key) for s in items]
            column = column_of(values)
            if column is None:
                objects[key] = values
            else:
                columns[key] = column
        regions = [record for s in items for record in region_records(s.uid, s.regions)]
        relations = [record for s in items for record in relation_records(s.uid, s.relations)]
        return cls(
            name,
            columns,
            Texts.from_lists(s.texts for s in items),
            Objects(tuple(s.own_image for s in items)),
            media=MediaObjects(tuple(s.media for s in items)) if any(s.media for s in items) else None,
            regions=Ragged.by_uid(pa.Table.from_pylist(regions, REGION_SCHEMA), uids) if regions else None,
            relations=Ragged.by_uid(pa.Table.from_pylist(relations, RELATION_SCHEMA), uids) if relations else None,
            objects=objects,
        )

    # ------------------------------------------------------------ rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Sample:
        base = int(self._rows[row])  # IndexError past the end, as a sequence should
        extras = {}
        for key in self._extras:
            value = self._columns[key][base].as_py()
            if value is not None and not (key == "split" and value == ""):
                extras[key] = json.loads(value) if key in self._json else value
        for key, values in self._objects.items():
            if values[base] is not None:
                extras[key] = values[base]
        return Sample(
            self._columns["uid"][base].as_py(),
            self._images.source(base),
            self._texts.of(base),
            tuple(map(region_of, self._regions.row(base))) if self._regions else (),
            tuple(map(relation_of, self._relations.row(base))) if self._relations else (),
            self._string("group", base),
            self._string("licence", base),
            self._string("source", base),
            extras,
            self._media.of(base) if self._media else {},
        )

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    def _string(self, name: str, base: int) -> str:
        column = self._columns.get(name)
        return "" if column is None else column[base].as_py() or ""

    def image(self, row: int) -> ImageSource | None:
        """Where the image of a row lies, without making the whole sample: its own, or the first of its pictures."""
        return self.own_image(row) or first_picture(self.media(row))

    def own_image(self, row: int) -> ImageSource | None:
        """The image of a row, unless it is one of its media."""
        return self._images.source(int(self._rows[row]))

    def media(self, row: int) -> dict[str, MediaItem]:
        """What a row has beside its image, by name."""
        return self._media.of(int(self._rows[row])) if self._media else {}

    def media_identity(self, row: int) -> list[Any]:
        """What tells the media of two rows apart without decoding, see `data.media.table.Media`."""
        return self._media.identity(int(self._rows[row])) if self._media else []

    @property
    def has_media(self) -> bool:
        """Whether anything but images was given."""
        return self._media is not None

    # ------------------------------------------------------------ columns

    @property
    def uids(self) -> tuple[str, ...]:
        if self._uids is None:
            self._uids = tuple(self.arrow("uid").to_pylist())
        return self._uids

    @property
    def groups(self) -> tuple[str, ...]:
        """One a row; a row without a group is its own (its uid)."""
        if self._groups is None:
            self._groups = tuple(group or uid for group, uid in zip(self.column("group"), self.uids, strict=True))
        return self._groups

    @property
    def column_names(self) -> list[str]:
        """Everything that `column` answers to, extras included."""
        return [*self._columns, *self._objects]

    def column(self, name: str) -> list[Any]:
        """Values of one column in the order of rows; None where there is a gap.

        "uid", "group", "licence", "source" and "split" are always there, with "" for a gap."""
        if name in self._objects:
            return [self._objects[name][base] for base in self._rows]
        values: list[Any] = self.arrow(name).to_pylist()
        if name in self._json:
            return [None if value is None else json.loads(value) for value in values]
        return ["" if value is None else value for value in values] if name in (*IDENTITY, "split") else values

    def arrow(self, name: str) -> pa.Array:
        """The same as an Arrow array (JSON columns as their strings)."""
        if name not in self._columns:
            if name in (*IDENTITY, "split"):
                return pa.array([""] * len(self), pa.string())
            raise UnknownName("column", name, self.column_names, hint="known: " + ", ".join(self.column_names))
        column = self._columns[name]
        return column if self._is_whole() else column.take(pa.array(self._rows))

    def is_flat(self, name: str) -> bool:
        """Whether `arrow` gives the values themselves: not JSON, not Python objects."""
        return name in self._columns and name not in self._json

    @property
    def extra_names(self) -> list[str]:
        return [*self._extras, *self._objects]

    @property
    def has_regions(self) -> bool:
        return self._regions is not None

    @property
    def has_relations(self) -> bool:
        return self._relations is not None

    @property
    def texts(self) -> Ragged:
        """The texts of every row, by column: string, language, origin."""
        return self._texts.ragged.take(self._rows)

    @property
    def regions(self) -> Ragged | None:
        """The regions of every row, by column; None for a pool without."""
        return None if self._regions is None else self._regions.take(self._rows)

    @property
    def relations(self) -> Ragged | None:
        """The relations of every row, by column; None for a pool without."""
        return None if self._relations is None else self._relations.take(self._rows)

    def texts_table(self) -> pa.Table:
        """All texts: uid, string, language, origin; several rows a uid, in order."""
        return self._texts.ragged.to_table(self.arrow("uid"), self._rows)

    def regions_table(self) -> pa.Table | None:
        return self._regions.to_table(self.arrow("uid"), self._rows) if self._regions else None

    def relations_table(self) -> pa.Table | None:
        return self._relations.to_table(self.arrow("uid"), self._rows) if self._relations else None

    # ------------------------------------------------------------ subsets

    def select(self, rows: Sequence[int] | npt.NDArray[Any]) -> Pool:
        """The pool of these rows, in this order. Nothing is copied but row numbers."""
        chosen = np.asarray(rows)
        chosen = chosen.astype(np.int64) if chosen.size == 0 else chosen
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise DataError(f"rows are {chosen.dtype} of shape {list(chosen.shape)}", expected="a flat list of whole numbers")
        if chosen.size and (chosen.min() < 0 or chosen.max() >= len(self)):
            wrong = chosen.min() if chosen.min() < 0 else chosen.max()
            raise DataError(f"row {wrong} is not in '{self.name}'", expected=f"0..{len(self) - 1}")
        return self._but(rows=self._rows[chosen])

    @property
    def split_names(self) -> list[str]:
        """The splits that have rows, in order of first appearance."""
        return [name for name in dict.fromkeys(self.column("split")) if name]

    def split(self, name: str) -> Pool:
        """The rows whose column "split" has this value."""
        if not self.split_names:
            raise DataError(f"'{self.name}' has no splits", expected="a column 'split', or splits made by `diptych data split`")
        if name not in self.split_names:
            raise UnknownName("split", name, self.split_names)
        return self.where("split", name)

    def where(self, name: str, value: Any | Callable[[Any], bool]) -> Pool:
        """Rows whose column has this value, one of these values (list, set, tuple), or a value that a function says yes to."""
        values = self.column(name)
        if callable(value):
            keep = [bool(value(v)) for v in values]
        elif isinstance(value, list | set | frozenset | tuple):
            keep = [v in value for v in values]
        else:
            keep = [v == value for v in values]
        return self.select(np.flatnonzero(np.array(keep, bool)))

    def exclude(self, uids: Iterable[str]) -> Pool:
        """All rows but these: a takedown, a quarantine. Unknown uids are ignored."""
        there = pc.is_in(self.arrow("uid"), value_set=pa.array(list(uids), pa.string()))
        return self.select(np.flatnonzero(~there.to_numpy(zero_copy_only=False)))

    # ------------------------------------------------------------ additions

    def with_columns(self, columns: Mapping[str, Sequence[Any]]) -> Pool:
        """Columns with one value a row of this pool, added or replaced (also "group", "split", "licence", "source")."""
        arrays, objects = {}, {}
        for name, values in columns.items():
            if len(values) != len(self):
                raise DataError(f"{len(values)} values for {len(self)} rows", field=name, expected="one value a row")
            array = column_of(list(values))
            if array is None:
                objects[name] = list(values)
            else:
                arrays[name] = array
        place = np.full(len(self._columns["uid"]), -1, np.int64)
        place[self._rows] = np.arange(len(self))
        return self._joined(arrays, objects, place)

    def with_table(self, table: pa.Table, *, replace: bool = False) -> Pool:
        """Join a uid-keyed table.

        A table with a column "string" (and "language", "origin") holds texts: they are added after those of the sample, or with
        `replace` stand instead of them for every uid that the table names; a table with a column "predicate" (and "subject", "object",
        "confidence") holds relations, likewise. Any other table has one row a uid, and its columns
        become extras (or replace "group", "split", "licence", "source"). Unknown uids are ignored; a uid without row gets a gap.
        """
        if "uid" not in table.column_names:
            raise DataError("the table has no column 'uid'", expected=f"'uid' among {', '.join(table.column_names)}")
        uids = self._columns["uid"]
        if "string" in table.column_names:
            old, new = self._texts, Texts.by_uid(table, uids)
            if replace:
                untouched = np.flatnonzero(new.counts() == 0)
                kept = old.ragged.to_table(uids.take(pa.array(untouched)), untouched)
                old = Texts.by_uid(kept, uids)
            return self._but(texts=Texts(old.ragged.merged(new.ragged)))
        if "predicate" in table.column_names:
            records = with_records(self._relations, table.select(RELATION_SCHEMA.names), uids, replace=replace)
            return self._but(relations=records, relabelled=True)
        refuse_duplicates(table["uid"])
        place = pc.index_in(uids, value_set=table["uid"].cast(pa.string())).fill_null(-1).to_numpy(zero_copy_only=False)
        arrays, json_columns = {}, set()
        for field in table.schema:
            if field.name == "uid":
                continue
            if field.name in STORED:
                raise DataError(f"a table cannot replace '{field.name}'", field=field.name, expected="another name")
            arrays[field.name] = table[field.name].combine_chunks()
            if (field.metadata or {}).get(b"diptych") == b"json":
                json_columns.add(field.name)
        return self._joined(arrays, {}, place.astype(np.int64), json_columns)

    def _joined(
        self, arrays: dict[str, pa.Array], objects: dict[str, list[Any]], place: Ints, json_columns: Collection[str] = ()
    ) -> Pool:
        """`place[base row]` is the position in the new columns, or -1."""
        take = pa.array(place, mask=place < 0)
        new = {name: array.take(take) for name, array in arrays.items()}
        spread = {name: [values[p] if p >= 0 else None for p in place.tolist()] for name, values in objects.items()}
        names = {*new, *spread}
        return self._but(
            columns={**{k: v for k, v in self._columns.items() if k not in names}, **new},
            objects={**{k: v for k, v in self._objects.items() if k not in names}, **spread},
            json_columns=(self._json - names) | set(json_columns),
            fingerprint="" if names & {"group", "sha256"} else self._fingerprint,
        )

    def named(self, name: str, *, fingerprint: str = "") -> Pool:
        """The same rows under another name; `fingerprint` where it is known to be that of another form of the same data."""
        return self._but(name=name, fingerprint=fingerprint or self._fingerprint)

    def in_language(self, language: str) -> Pool:
        """The same rows with only the texts of this language or of an unknown one; "" keeps all. Many languages cost time."""
        if not language:
            return self
        table = self.texts_table()
        mine = pc.is_in(table["language"], value_set=pa.array([language, ""], pa.string()))
        return self._but(texts=Texts.by_uid(table.filter(mine), self._columns["uid"]))

    def with_images(self, images: Images) -> Pool:
        """The same rows with images from elsewhere (a decoded cache); `images` counts the rows of this pool."""
        return self._but(
            columns={name: self.arrow(name) for name in self._columns},
            texts=Texts(self.texts),
            images=images,
            media=MediaRows(self._media, self._rows) if self._media else None,
            regions=self.regions,
            relations=self.relations,
            objects={name: self.column(name) for name in self._objects},
            rows=np.arange(len(self)),
        )

    def with_media(self, media: Media) -> Pool:
        """The same rows with media from elsewhere; `media` counts the rows of this pool."""
        place = np.full(len(self._columns["uid"]), -1, np.int64)
        place[self._rows] = np.arange(len(self))
        return self._but(media=MediaRows(media, place))

    def _but(self, **changes: Any) -> Pool:
        same = {
            "name": self.name,
            "columns": self._columns,
            "texts": self._texts,
            "images": self._images,
            "media": self._media,
            "regions": self._regions,
            "relations": self._relations,
            "objects": self._objects,
            "json_columns": self._json,
            "quarantine": self.quarantine,
            "notes": self.notes,
            "rows": self._rows,
            "relabelled": self._relabelled,
        }
        return Pool(**{**same, **changes})

    def _is_whole(self) -> bool:
        return len(self._rows) == len(self._columns["uid"]) and bool(np.all(self._rows == np.arange(len(self._rows))))

    # ------------------------------------------------------------ identity

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over every uid, its texts, group, image and media (sha256 where known, else size), in whatever order; and
        over the relations where a table gave them."""
        if not self._fingerprint:
            self._fingerprint = self.content_fingerprint(relations=self._relabelled)
        return self._fingerprint

    def content_fingerprint(self, *, relations: bool = False) -> str:
        """The fingerprint worked out from the content, whatever was written down; over the relations too where asked."""
        uids, groups = self.uids, self.column("group")
        hashes = self.column("sha256") if "sha256" in self._columns else [None] * len(self)
        digest = hashlib.sha256()
        for row in sorted(range(len(self)), key=uids.__getitem__):
            base = int(self._rows[row])
            texts = [(t.string, t.language, t.origin) for t in self._texts.of(base)]
            image = hashes[row] or self._images.identity(base)
            given: list[Any] = [{"media": parts}] if self._media and (parts := self._media.identity(base)) else []
            given += [self._relations.row(base)] if relations and self._relations else []
            digest.update(json.dumps([uids[row], groups[row], image, texts, *given]).encode())
        return digest.hexdigest()[:16]

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {len(self):,} samples)"
