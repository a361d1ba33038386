"""A uid-keyed table of relations, joined to a pool: behind those of a sample, or in their place."""

from __future__ import annotations

import pyarrow as pa

from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool

REGIONS = (Region((0, 0, 4, 4), "a"), Region((2, 2, 8, 8), "b"))
OWN = Relation(0, "near", 1)


def pool(*, related: bool = True) -> Pool:
    return Pool.from_samples([Sample(uid, None, (), REGIONS, (OWN,) if related else ()) for uid in ("x", "y", "z")])


TABLE = pa.table(
    {
        "uid": ["z", "nobody", "x", "x"],
        "subject": [1, 0, 0, 1],
        "predicate": ["on", "on", "under", "over"],
        "object": [0, 1, 1, 0],
        "confidence": [0.25, 0.5, 0.75, 0.5],
        "note": ["", "", "", "is no part of a relation"],
    }
)
X, Z = (Relation(0, "under", 1, 0.75), Relation(1, "over", 0, 0.5)), (Relation(1, "on", 0, 0.25),)


def relations(data: Pool) -> dict[str, tuple[Relation, ...]]:
    return {sample.uid: sample.relations for sample in data}


def test_relations_stand_in_place_of_the_old_ones_where_there_are_new_ones() -> None:
    assert relations(pool().with_table(TABLE, replace=True)) == {"x": X, "y": (OWN,), "z": Z}
    assert relations(pool().select([2, 0]).with_table(TABLE, replace=True)) == {"z": Z, "x": X}


def test_or_behind_them() -> None:
    assert relations(pool().with_table(TABLE)) == {"x": (OWN, *X), "y": (OWN,), "z": (OWN, *Z)}


def test_relations_of_a_table_are_part_of_the_fingerprint() -> None:
    given = pool().with_table(TABLE, replace=True)
    other = pool().with_table(TABLE.set_column(4, "confidence", pa.array([0.25, 0.5, 0.75, 0.75])), replace=True)
    assert len({pool().fingerprint, given.fingerprint, other.fingerprint}) == 3
    assert given.fingerprint == pool().with_table(TABLE, replace=True).fingerprint
    rows = [2, 0]
    assert given.select(rows).fingerprint == pool().select(rows).with_table(TABLE, replace=True).fingerprint
    assert given.select(rows).fingerprint != other.select(rows).fingerprint
    assert given.select([1]).fingerprint == other.select([1]).fingerprint


def test_data_without_relations_get_some() -> None:
    bare = pool(related=False)
    assert not bare.has_relations
    assert relations(bare.with_table(TABLE)) == {"x": X, "y": (), "z": Z}
    assert bare.with_table(TABLE, replace=True).relations_table().num_rows == 3
