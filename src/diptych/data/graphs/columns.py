"""Scene graphs in Arrow columns, image after image: what a pool has, what detectors answer and what a scorer reads, without an
object an image, a region or a relation.

Letters: N images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.core.scene_graph import SceneGraph
from diptych.core.triplet_rule import RawDetections
from diptych.data.dataset import Pool
from diptych.data.ragged import Ragged

Triplet = tuple[str, str, str]
Ints = npt.NDArray[np.int64]

REGIONS = {"box": pa.list_(pa.float64(), 4), "label": pa.string(), "score": pa.float64()}
RELATIONS = {"subject": pa.int32(), "predicate": pa.string(), "object": pa.int32(), "confidence": pa.float64()}
CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, slots=True)
class GraphColumns:
    """The graphs of N images. Every relation points at regions of its own image.

    regions    box (xyxy pixels), label, score
    relations  subject and object (positions among the regions of the image), predicate, confidence
    """

    uids: Sequence[str]
    regions: Ragged
    relations: Ragged

    @classmethod
    def of(cls, data: Dataset, rows: Iterable[int] | None = None) -> Self:
        """The graphs of a data set, or of some of its rows. A pool is read by column; of any other data set every sample is made."""
        chosen = np.arange(len(data)) if rows is None else np.fromiter(rows, np.int64)
        uids = [data.uids[row] for row in chosen.tolist()]
        if not isinstance(data, Pool):
            return cls.of_graphs(uids, [data[row].graph for row in chosen.tolist()])
        regions, relations = data.regions, data.relations
        nothing = cls.of_graphs(uids, [SceneGraph()] * len(uids))
        made = cls(
            uids,
            nothing.regions if regions is None else regions.take(chosen).mapped(_with_box),
            nothing.relations if relations is None else relations.take(chosen).mapped(_as_relations),
        )
        return made._checked("")

    @classmethod
    def of_graphs(cls, uids: Sequence[str], graphs: Sequence[SceneGraph | RawDetections]) -> Self:
        """From graphs that are there as objects."""
        sides = []
        for kinds, side in ((REGIONS, "regions"), (RELATIONS, "relations")):
            each = [getattr(graph, side) for graph in graphs]
            start_N1 = np.cumsum([0, *map(len, each)], dtype=np.int64)
            columns = [pa.array([getattr(item, name) for items in each for item in items], kind) for name, kind in kinds.items()]
            sides.append(Ragged(start_N1, pa.table(columns, list(kinds))))
        return cls(uids, *sides)

    @classmethod
    def of_lists(cls, table: pa.Table, prefix: str = "") -> Self:
        """From a table with one row per image and a list a column, as `lists` makes them; score and confidence are 1 where they are not
        there. Raises DataError with row and uid for lists of unequal length, and for a relation to a region that is not there."""
        uids = table.column("uid").to_pylist()
        sides = []
        for kinds, first in ((REGIONS, "box"), (RELATIONS, "predicate")):
            there = {name: f"{prefix}{name}" for name in (first, *kinds) if f"{prefix}{name}" in table.column_names}
            ragged = Ragged.of_lists(table, there, uids)
            for name in kinds.keys() - there.keys():
                ragged = ragged.with_column(name, pa.array(np.ones(len(ragged.table))))
            sides.append(ragged)
        return cls(uids, *sides)._checked(prefix)

    def __len__(self) -> int:
        return len(self.uids)

    def lists(self) -> dict[str, pa.Array]:
        """One list an image of every column, by the names above."""
        return {name: self.regions.lists(name) for name in REGIONS} | {name: self.relations.lists(name) for name in RELATIONS}

    def ends(self) -> tuple[Ints, Ints]:
        """Subject and object of every relation as records of `regions`."""
        start = self.regions.start_N1[self.relations.rows()]
        subject, other = (start + self.relations.numbers(end).astype(np.int64) for end in ("subject", "object"))
        return subject, other

    def named(self) -> list[Triplet]:
        """(subject label, predicate, object label) of every relation."""
        return list(zip(*(column.to_pylist() for column in self._names()), strict=True))

    def triplets(self) -> Counter[Triplet]:
        """Number of occurrences of each (subject label, predicate, object label)."""
        counted = pa.table(self._names(), ["s", "p", "o"]).group_by(["s", "p", "o"]).aggregate([([], "count_all")])
        keys = zip(*(counted[name].to_pylist() for name in ("s", "p", "o")), strict=True)
        return Counter(dict(zip(keys, counted["count_all"].to_pylist(), strict=True)))

    def names(self) -> tuple[set[str], set[str]]:
        """Labels and predicates that occur."""
        label, predicate = self.regions.column("label"), self.relations.column("predicate")
        return set(pc.unique(label).to_pylist()), set(pc.unique(predicate).to_pylist())

    def first_outside(self, labels: Iterable[str] | None, predicates: Iterable[str]) -> tuple[int, str] | None:
        """(image, name) of the first image with a label or a predicate that is not among these, its labels first. None: any label."""
        first_outside = []
        for ragged, column, allowed in ((self.regions, "label", labels), (self.relations, "predicate", predicates)):
            if allowed is None:
                continue
            values = ragged.column(column)
            strange = np.flatnonzero(
                ~pc.is_in(values, value_set=pa.array(list(allowed), pa.string())).to_numpy(zero_copy_only=False)
            )
            if len(strange):
                first_outside.append((int(ragged.rows()[strange[0]]), values[int(strange[0])].as_py()))
        return min(first_outside, key=lambda one: one[0]) if first_outside else None

    def _names(self) -> list[pa.Array]:
        label = self.regions.column("label")
        subject, other = (label.take(pa.array(end)) for end in self.ends())
        return [subject, self.relations.column("predicate"), other]

    def _checked(self, prefix: str) -> Self:
        image_R, count_N = self.relations.rows(), np.diff(self.regions.start_N1)
        for end in ("subject", "object"):
            place_R = self.relations.numbers(end)
            outside = np.flatnonzero((place_R < 0) | (place_R >= count_N[image_R]))
            if len(outside):
                at = int(outside[0])
                row = int(image_R[at])
                problem = f"a relation of {self.uids[row]} points at box {place_R[at]}, which does not exist"
                raise DataError(problem, row=row, field=prefix + end, expected=f"0..{count_N[row] - 1}")
        return self


def extras_of(data: Dataset, name: str) -> list[Any]:
    """An extra of every sample, None if it has none. A pool is read by column; of any other data set every sample is made."""
    if isinstance(data, Pool):
        return data.column(name) if name in data.column_names else [None] * len(data)
    return [data[row].extras.get(name) for row in range(len(data))]


def _with_box(table: pa.Table) -> pa.Table:
    """Four columns of corners as one of boxes."""
    corner_B4 = np.stack([table[name].to_numpy() for name in CORNERS], axis=1).astype(np.float64)
    box = pa.FixedSizeListArray.from_arrays(pa.array(corner_B4.reshape(-1)), 4)
    return pa.table([box, *(table[name].cast(REGIONS[name]) for name in ("label", "score"))], list(REGIONS))


def _as_relations(table: pa.Table) -> pa.Table:
    return pa.table([table[name].cast(kind) for name, kind in RELATIONS.items()], list(RELATIONS))
