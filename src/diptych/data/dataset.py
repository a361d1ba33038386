"""`Pool`: samples by row over flat columns. Selecting, splitting and joining are cheap; a `Sample` is created on demand.

A million rows take a few hundred bytes each. A pool can be pickled and shared with loader workers: it holds no open file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.config import config_hash
from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem, first_picture
from diptych.core.sample import Sample
from diptych.core.terminal import notebook
from diptych.data.fingerprint import content_fingerprint
from diptych.data.media.images import ImageObjects, Images, LooseFiles, Slices
from diptych.data.media.table import Media, MediaObjects, MediaRows
from diptych.data.metadata import Metadata, RowStrings
from diptych.data.quarantine import QuarantineEntry
from diptych.data.ragged import Ragged, with_records
from diptych.data.regions import (
    REGION_SCHEMA,
    RELATION_SCHEMA,
    region_of,
    region_records,
    relation_of,
    relation_records,
)
from diptych.data.texts import Texts


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
        columns: Mapping[str, pa.Array] | Metadata,
        texts: Texts,
        images: Images,
        *,
        media: Media | None = None,
        regions: Ragged | None = None,
        relations: Ragged | None = None,
        objects: Mapping[str, Sequence[Any]] | None = None,
        json_columns: Collection[str] = (),
        quarantine: Sequence[QuarantineEntry] = (),
        notes: Sequence[str] = (),
        fingerprint: str = "",
        lazy: bool = False,
    ) -> None:
        """`columns` has at least "uid"; all have one value per row, as has `objects` (values that Arrow cannot hold). `fingerprint` is
        taken as given where it is known. `lazy`: of memory-mapped columns, of which no list is made; a selection of rows is known by the
        fingerprint of the whole and by its rows."""
        self.name = name
        self.quarantine, self.notes = list(quarantine), list(notes)
        whole = isinstance(columns, Metadata)
        self._metadata = columns if isinstance(columns, Metadata) else Metadata.whole(columns, objects or {}, json_columns)
        self._lazy, self._origin = lazy, fingerprint if lazy and whole else ""
        self._texts, self._images, self._media = texts, images, media
        self._regions, self._relations = regions, relations
        self._relabelled = False  # the relations are not those that came with the data, so they are part of the fingerprint
        self._fingerprint = fingerprint
        self._fingerprints: dict[str, str] = {}  # of rows, by their hash; shared by selections of the same columns
        self._uids: Sequence[str] | None = None
        self._groups: Sequence[str] | None = None

    # ------------------------------------------------------------ made from

    @classmethod
    def from_samples(cls, samples: Iterable[Sample], *, name: str = "samples") -> Pool:
        """Pool of samples in memory. An extra called "split" becomes the split column."""
        items = list(samples)
        metadata = Metadata.of_samples(items)
        uids = metadata.columns["uid"]
        regions = [record for s in items for record in region_records(s.uid, s.regions)]
        relations = [record for s in items for record in relation_records(s.uid, s.relations)]
        return cls(
            name,
            metadata.columns,
            Texts.from_lists(s.texts for s in items),
            ImageObjects(tuple(s.own_image for s in items)),
            media=MediaObjects(tuple(s.media for s in items)) if any(s.media for s in items) else None,
            regions=Ragged.by_uid(pa.Table.from_pylist(regions, REGION_SCHEMA), uids) if regions else None,
            relations=Ragged.by_uid(pa.Table.from_pylist(relations, RELATION_SCHEMA), uids) if relations else None,
            objects=metadata.objects,
        )

    # ------------------------------------------------------------ rows

    def __len__(self) -> int:
        return len(self._metadata)

    @overload
    def __getitem__(self, row: int) -> Sample: ...

    @overload
    def __getitem__(self, row: slice) -> Pool: ...

    def __getitem__(self, row: int | slice) -> Sample | Pool:
        """Sample of a row, or the pool of several rows: ``pool[3]``, ``pool[:100]``."""
        if isinstance(row, slice):
            return self.select(range(len(self))[row])
        base = int(self._metadata.rows[row])  # IndexError past the end, as a sequence should
        string = self._metadata.string
        return Sample(
            string("uid", base),
            self._images.source(base),
            self._texts.of(base),
            tuple(map(region_of, self._regions.row(base))) if self._regions else (),
            tuple(map(relation_of, self._relations.row(base))) if self._relations else (),
            string("group", base),
            string("licence", base),
            string("source", base),
            self._metadata.extras(base),
            self._media.of(base) if self._media else {},
        )

    def __add__(self, other: Pool) -> Pool:
        """Rows of both, this pool's first. Raises DataError for a uid that is in both."""
        if not isinstance(other, Pool):
            return NotImplemented
        from diptych.data.join import concatenate

        return concatenate([self, other])

    def __contains__(self, uid: object) -> bool:
        """True if a sample has this uid."""
        return pc.is_in(pa.scalar(str(uid)), value_set=self.arrow("uid")).as_py() is True

    def __iter__(self) -> Iterator[Sample]:
        return (self[row] for row in range(len(self)))

    def image(self, row: int) -> ImageSource | None:
        """Image source of a row, without making the whole sample: its own image, or the first of its pictures."""
        return self.own_image(row) or first_picture(self.media(row))

    def own_image(self, row: int) -> ImageSource | None:
        """Image of a row, unless it is one of its media."""
        return self._images.source(int(self._metadata.rows[row]))

    def media(self, row: int) -> dict[str, MediaItem]:
        """Media of a row other than its image, by name."""
        return self._media.of(int(self._metadata.rows[row])) if self._media else {}

    def media_identity(self, row: int) -> list[Any]:
        """Identity of a row's media, comparable without decoding; see `data.media.table.Media`."""
        return self._media.identity(int(self._metadata.rows[row])) if self._media else []

    @property
    def has_media(self) -> bool:
        """True if the pool has media other than images."""
        return self._media is not None

    # ------------------------------------------------------------ columns

    @property
    def uids(self) -> Sequence[str]:
        if self._uids is None:
            self._uids = RowStrings(self._metadata, "uid") if self._lazy else tuple(self.arrow("uid").to_pylist())
        return self._uids

    @property
    def groups(self) -> Sequence[str]:
        """Group of each row; a row without a group is its own (its uid)."""
        if self._groups is None and self._lazy:
            self._groups = RowStrings(self._metadata, "group", otherwise="uid")
        elif self._groups is None:
            self._groups = tuple(group or uid for group, uid in zip(self.column("group"), self.uids, strict=True))
        return self._groups

    @property
    def column_names(self) -> list[str]:
        """Names of all columns that `column` accepts, extras included."""
        return self._metadata.names

    def column(self, name: str) -> list[Any]:
        """Values of one column in the order of rows; None for missing values.

        "uid", "group", "licence", "source" and "split" are always there, with "" for a gap."""
        return self._metadata.column(name)

    def arrow(self, name: str) -> pa.Array:
        """Column as an Arrow array (JSON columns as their strings)."""
        return self._metadata.arrow(name)

    def is_flat(self, name: str) -> bool:
        """True if `arrow` gives a column's values themselves: not JSON, not Python objects."""
        return name in self._metadata.columns and name not in self._metadata.json

    def is_json(self, name: str) -> bool:
        """True if `arrow` gives a column's values as strings of JSON."""
        return name in self._metadata.json

    def stored(self, row: int) -> dict[str, Any]:
        """Values of one row by column, JSON columns as their strings; columns of Python objects are left out."""
        base = int(self._metadata.rows[row])
        return {name: values[base].as_py() for name, values in self._metadata.columns.items()}

    @property
    def extra_names(self) -> list[str]:
        return self._metadata.extra_names

    @property
    def has_regions(self) -> bool:
        return self._regions is not None

    @property
    def has_relations(self) -> bool:
        return self._relations is not None

    @property
    def texts(self) -> Ragged:
        """Texts of every row, by column: string, language, origin."""
        return self._texts.ragged.take(self._metadata.row_array)

    @property
    def regions(self) -> Ragged | None:
        """Regions of every row, by column; None for a pool without."""
        return None if self._regions is None else self._regions.take(self._metadata.row_array)

    @property
    def relations(self) -> Ragged | None:
        """Relations of every row, by column; None for a pool without."""
        return None if self._relations is None else self._relations.take(self._metadata.row_array)

    def texts_table(self) -> pa.Table:
        """Table of all texts: uid, string, language, origin; several rows per uid, in order."""
        return self._texts.ragged.to_table(self.arrow("uid"), self._metadata.row_array)

    def regions_table(self) -> pa.Table | None:
        return self._regions.to_table(self.arrow("uid"), self._metadata.row_array) if self._regions else None

    def relations_table(self) -> pa.Table | None:
        return self._relations.to_table(self.arrow("uid"), self._metadata.row_array) if self._relations else None

    # ------------------------------------------------------------ subsets

    def select(self, rows: Sequence[int] | npt.NDArray[Any]) -> Pool:
        """Pool of these rows, in this order. Only row numbers are copied."""
        return self._but(metadata=self._metadata.chosen(rows, self.name), origin=self._origin, fingerprints=self._fingerprints)

    @property
    def split_names(self) -> list[str]:
        """Names of the splits that have rows, in order of first appearance."""
        if self._lazy:
            return [name for name in self.arrow("split").unique().to_pylist() if name] if "split" in self.column_names else []
        return [name for name in dict.fromkeys(self.column("split")) if name]

    def split(self, name: str) -> Pool:
        """The rows whose column "split" has this value."""
        if not self.split_names:
            raise DataError(f"'{self.name}' has no splits", expected="a column 'split', or splits made by `diptych data split`")
        if name not in self.split_names:
            raise UnknownName("split", name, self.split_names)
        return self.where("split", name)

    def where(self, name: str, value: Any | Callable[[Any], bool]) -> Pool:
        """Rows whose column has this value, one of these values (list, set, tuple), or a value for which a function is true."""
        if self._lazy and isinstance(value, str) and self.is_flat(name):
            return self.select(np.flatnonzero(pc.equal(self.arrow(name), value).fill_null(False).to_numpy(zero_copy_only=False)))
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
        """Columns with one value per row of this pool, added or replaced (also "group", "split", "licence", "source")."""
        return self._joined(self._metadata.with_columns(columns), columns)

    def with_table(self, table: pa.Table, *, replace: bool = False) -> Pool:
        """Join a uid-keyed table.

        A table with a column "string" (and "language", "origin") holds texts: they are added after those of the sample, or with
        `replace` stand instead of them for every uid that the table names; a table with a column "predicate" (and "subject", "object",
        "confidence") holds relations, likewise. Any other table has one row a uid, and its columns
        become extras (or replace "group", "split", "licence", "source"). Unknown uids are ignored; a uid without row gets a gap.
        """
        if "uid" not in table.column_names:
            raise DataError("the table has no column 'uid'", expected=f"'uid' among {', '.join(table.column_names)}")
        uids = self._metadata.columns["uid"]
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
        return self._joined(self._metadata.with_table(table), table.column_names)

    def _joined(self, metadata: Metadata, names: Iterable[str]) -> Pool:
        """With new columns of these names; only some are part of the fingerprint."""
        return self._but(metadata=metadata, fingerprint="" if {"group", "sha256"} & {*names} else self._fingerprint)

    def named(self, name: str, *, fingerprint: str = "") -> Pool:
        """The same rows under another name; `fingerprint` where it is known to be that of another form of the same data."""
        return self._but(
            name=name, fingerprint=fingerprint or self._fingerprint, fingerprints=self._fingerprints, origin=self._origin
        )

    def in_language(self, language: str) -> Pool:
        """The same rows with only the texts of this language or of an unknown one; "" keeps all. Many languages cost time."""
        if not language:
            return self
        table = self.texts_table()
        mine = pc.is_in(table["language"], value_set=pa.array([language, ""], pa.string()))
        return self._but(texts=Texts.by_uid(table.filter(mine), self._metadata.columns["uid"]))

    def with_images(self, images: Images) -> Pool:
        """The same rows with images from elsewhere (a decoded cache); `images` counts the rows of this pool."""
        return self._but(
            metadata=self._metadata.copied(),
            texts=Texts(self.texts),
            images=images,
            media=MediaRows(self._media, self._metadata.row_array) if self._media else None,
            regions=self.regions,
            relations=self.relations,
        )

    def confined(self, folder: str) -> Pool:
        """The same rows; of images in files of their own, those that are links out of the folder cannot be read."""
        images = replace(self._images, within=folder) if isinstance(self._images, LooseFiles) else self._images
        return self._but(images=images, fingerprint=self._fingerprint)

    def rows_outside(self, folder: str) -> list[int] | None:
        """Rows whose path of the image may lead out of a folder, without asking the disk; None if every row must be looked at."""
        if self._media is not None or not isinstance(self._images, LooseFiles):
            return None
        may_lead_out = self._images.may_lead_out(folder)
        return [row for row, base in enumerate(self._metadata.rows.tolist()) if may_lead_out[base]]

    def with_one_label(self, label: str) -> Pool:
        """Same rows with one label for all regions, without attributes; another fingerprint."""
        if self._regions is None:
            return self
        rows = self._regions.table.num_rows
        same = {"label": pa.array([label] * rows, pa.string()), "attributes": pa.array([[]] * rows, pa.list_(pa.string()))}
        regions = self._regions.mapped(lambda table: pa.table({name: same.get(name, table[name]) for name in table.column_names}))
        return self._but(regions=regions, fingerprint=config_hash([self.fingerprint, "one label", label]))

    def with_media(self, media: Media) -> Pool:
        """The same rows with media from elsewhere; `media` counts the rows of this pool."""
        return self._but(media=MediaRows(media, self._metadata.place()))

    def _but(self, *, name: str | None = None, **changes: Any) -> Pool:
        """Copy of the pool with some parts replaced. Cached properties of the old ones are recomputed."""
        made = copy(self)
        made.name = self.name if name is None else name
        made.quarantine, made.notes = list(self.quarantine), list(self.notes)
        for part, value in {"fingerprint": "", "fingerprints": {}, "origin": "", "uids": None, "groups": None, **changes}.items():
            setattr(made, f"_{part}", value)
        return made

    # ------------------------------------------------------------ parts

    @property
    def is_mapped(self) -> bool:
        """True for memory-mapped columns, of which no list is made."""
        return self._lazy

    @property
    def stored_columns(self) -> Metadata:
        """Columns in the order of rows, and which of them are JSON."""
        return self._metadata if self._metadata.is_whole else self._metadata.copied()

    @property
    def image_table(self) -> Images:
        """Images by row. Of a selection, slices of shards are cut to its rows."""
        rows = self._metadata.row_array
        return self._images.taken(rows) if isinstance(self._images, Slices) else self._images

    @property
    def record_tables(self) -> tuple[Ragged, Ragged | None, Ragged | None]:
        """Texts, regions and relations by row."""
        return self.texts, self.regions, self.relations

    # ------------------------------------------------------------ identity

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits over every uid, its texts, group, image and media (sha256 if known, else size), independent of their
        order; and over the relations where a table gave them."""
        if not self._fingerprint:
            rows = hashlib.sha256(np.ascontiguousarray(self._metadata.row_array, np.int64).data).hexdigest()
            if rows not in self._fingerprints:  # of mapped columns by the whole and the rows, which is all that differs
                self._fingerprints[rows] = (
                    config_hash(["rows of", self._origin, rows])
                    if self._origin
                    else self.content_fingerprint(relations=self._relabelled)
                )
            self._fingerprint = self._fingerprints[rows]
        return self._fingerprint

    def content_fingerprint(self, *, relations: bool = False) -> str:
        """Fingerprint computed from the content, ignoring the stored one; includes the relations on request."""
        return content_fingerprint(self._metadata, self._texts, self._images, self._media, self._relations if relations else None)

    def __repr__(self) -> str:
        return f"Pool({self.name!r}, {len(self):,} samples)"

    def to_pandas(self) -> Any:
        """DataFrame with one row per sample: every column, and `texts`, a list of strings."""
        strings = [[text.string for text in sample.texts] for sample in self]
        columns = {name: self.column(name) for name in self.column_names}
        return notebook.frame(
            [{**{name: columns[name][row] for name in columns}, "texts": strings[row]} for row in range(len(self))]
        )

    def _repr_html_(self) -> str:
        return notebook.samples(self[: notebook.SHOWN], caption=repr(self))
