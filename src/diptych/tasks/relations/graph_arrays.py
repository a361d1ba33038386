"""Scene graphs of one side of the records as flat NumPy arrays, for scorers without a Python loop over images.

Letters: N images, B boxes, R relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.errors import DataError
from diptych.data.graphs.columns import GraphColumns

Side = Literal["truth", "prediction"]
PREFIX: dict[Side, str] = {"truth": "truth_", "prediction": ""}
"""What the columns of a side are called: "truth_box", "box"."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GraphArrays:
    """Scene graphs as flat arrays. The boxes of image n are box_start[n] : box_start[n + 1], relations likewise.

    label, predicate   codes: positions in the vocabularies that were given
    subject, object    rows of `box` (not of the image)
    image_of_box, image_of_relation  the row of the records
    Truth has score and confidence 1 throughout.
    """

    uids: tuple[str, ...]
    groups: tuple[str, ...]
    box: Floats  # [B, 4]
    label: Ints  # [B]
    score: Floats  # [B]
    image_of_box: Ints  # [B]
    box_start: Ints  # [N + 1]
    subject: Ints  # [R]
    predicate: Ints  # [R]
    object: Ints  # [R]
    confidence: Floats  # [R]
    image_of_relation: Ints  # [R]
    relation_start: Ints  # [N + 1]

    def __len__(self) -> int:
        return len(self.uids)

    @classmethod
    def of(cls, table: pa.Table, side: Side, *, objects: Sequence[str], predicates: Sequence[str]) -> Self:
        """Arrays from records. Raises DataError with row and uid for a label or predicate outside the vocabularies, or a relation to a
        missing box."""
        prefix = PREFIX[side]
        graphs = GraphColumns.of_lists(table, prefix)
        regions, relations, uids = graphs.regions, graphs.relations, graphs.uids
        image_of_box, image_of_relation = regions.rows(), relations.rows()
        subject, other = graphs.ends()
        return cls(
            tuple(uids),
            tuple(table.column("group").to_pylist()),
            np.asarray(regions.column("box").flatten(), np.float64).reshape(-1, 4),
            _codes_of_names(regions.column("label"), objects, uids, image_of_box, f"{prefix}label"),
            np.asarray(regions.numbers("score"), np.float64),
            image_of_box,
            regions.start_N1,
            subject,
            _codes_of_names(relations.column("predicate"), predicates, uids, image_of_relation, f"{prefix}predicate"),
            other,
            np.asarray(relations.numbers("confidence"), np.float64),
            image_of_relation,
            relations.start_N1,
        )


def names_in(table: pa.Table, column: str) -> list[str]:
    """Distinct strings of a list column ("truth_label", "predicate", ...), sorted."""
    return sorted(pc.unique(pc.list_flatten(table.column(column))).to_pylist())


def _codes_of_names(values: pa.Array, names: Sequence[str], uids: Sequence[str], image: Ints, field: str) -> Ints:
    codes = pc.fill_null(pc.index_in(values, value_set=pa.array(list(names), pa.string())), -1)
    code: Ints = np.asarray(codes, np.int64)
    if (code < 0).any():
        position = int(np.flatnonzero(code < 0)[0])
        row = int(image[position])
        expected = f"one of {len(names)} names, such as {names[0]!r}" if names else "no name at all: the vocabulary is empty"
        raise DataError(f"unknown name {values[position].as_py()!r} in {uids[row]}", row=row, field=field, expected=expected)
    return code
