"""Pool: rows, subsets, joins, identity. The naive counterpart is always a plain list of samples."""

from __future__ import annotations

import multiprocessing
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diptych as dp
from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool


def samples(n: int = 12) -> list[Sample]:
    return [
        Sample(
            f"u{i:02d}",
            BytesImage(bytes([i]) * (i + 1), f"image {i}"),
            tuple(Text(f"text {i} {k}", "de" if k else "", "tags" if k else "caption") for k in range(i % 3)),
            (Region((0, 0, 4, 4), "dog", ("red",), 0.5), Region((1, 1, 3, 5), "ball")) if i % 2 else (),
            (Relation(0, "chasing", 1, 0.25),) if i % 2 else (),
            group=f"g{i % 4}" if i % 5 else "",
            licence="MIT",
            source="here",
            extras={"label": i, "split": "train" if i % 3 else "test", **({"odd": {"a": [i]}} if i % 2 else {})},
        )
        for i in range(n)
    ]


def test_rows_are_the_samples_they_were_made_from() -> None:
    made = samples()
    pool = Pool.from_samples(made, name="made")
    assert list(pool) == made
    assert len(pool) == 12
    assert pool[-1] == made[-1]
    with pytest.raises(IndexError):
        pool[12]
    assert list(pool.groups) == [s.group or s.uid for s in made]
    assert pool.column("label") == list(range(12))
    assert pool.column("odd") == [s.extras.get("odd") for s in made]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 11), max_size=20), st.lists(st.integers(0, 19), max_size=8))
def test_selecting_twice_is_indexing_twice(first: list[int], second: list[int]) -> None:
    made = samples()
    second = [row for row in second if row < len(first)]
    pool = Pool.from_samples(made).select(first).select(second)
    assert list(pool) == [made[first[row]] for row in second]
    assert pool.texts_table()["string"].to_pylist() == [t.string for row in second for t in made[first[row]].texts]


def test_subsets_by_split_value_and_uid() -> None:
    made = samples()
    pool = Pool.from_samples(made)
    assert pool.split_names == ["test", "train"]
    assert list(pool.split("test")) == [s for s in made if s.extras["split"] == "test"]
    assert list(pool.where("label", {3, 5})) == [made[3], made[5]]
    assert list(pool.where("label", lambda v: v > 9)) == made[10:]
    assert list(pool.where("group", "g1")) == [s for s in made if s.group == "g1"]
    assert list(pool.exclude(["u00", "nobody"])) == made[1:]
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        pool.split("trian")
    with pytest.raises(UnknownName, match="label"):
        pool.where("lable", 1)
    with pytest.raises(DataError, match="no splits"):
        Pool.from_samples([Sample("a")]).split("train")


def test_wrong_rows_and_duplicate_uids_are_named() -> None:
    pool = Pool.from_samples(samples())
    with pytest.raises(DataError, match="row 12 is not in"):
        pool.select([0, 12])
    with pytest.raises(DataError, match="row -1"):
        pool.select([-1])
    with pytest.raises(DataError, match="float64"):
        pool.select([0.5])  # type: ignore[list-item]
    with pytest.raises(DataError, match="'a' comes twice: rows 0 and 2"):
        Pool.from_samples([Sample("a"), Sample("b"), Sample("a")])
    with pytest.raises(DataError, match="surrogate"):
        Pool.from_samples([Sample("a", texts=(Text("\ud800"),))])
    with pytest.raises(DataError, match="'width' cannot be an extra"):
        Pool.from_samples([Sample("a", extras={"width": 3})])


def test_columns_join_by_uid_in_any_order() -> None:
    made = samples()
    pool = Pool.from_samples(made).select([5, 2, 9])
    table = pa.table({"uid": ["u09", "nobody", "u05"], "score": [0.9, 1.0, 0.5], "group": ["nine", "x", "five"]})
    joined = pool.with_table(table)
    assert joined.column("score") == [0.5, None, 0.9]
    assert joined.column("group") == ["five", "", "nine"]
    assert [s.extras.get("score") for s in joined] == [0.5, None, 0.9]
    assert "score" not in pool.column_names  # the old pool is as it was
    with pytest.raises(DataError, match="'u05' comes twice"):
        pool.with_table(pa.table({"uid": ["u05", "u05"], "score": [1, 2]}))
    with pytest.raises(DataError, match="sha256"):
        pool.with_table(pa.table({"uid": ["u05"], "sha256": ["00"]}))


def test_texts_are_added_or_replaced_by_uid() -> None:
    made = samples()
    pool = Pool.from_samples(made)
    table = pa.table({"uid": ["u04", "u01", "u04"], "string": ["new a", "new b", "new c"], "origin": ["rewrite"] * 3})
    new = {"u04": (Text("new a", "", "rewrite"), Text("new c", "", "rewrite")), "u01": (Text("new b", "", "rewrite"),)}
    assert [s.texts for s in pool.with_table(table)] == [s.texts + new.get(s.uid, ()) for s in made]
    assert [s.texts for s in pool.with_table(table, replace=True)] == [new.get(s.uid, s.texts) for s in made]
    with pytest.raises(DataError, match="unknown origin 'guess'"):
        pool.with_table(pa.table({"uid": ["u04"], "string": ["x"], "origin": ["guess"]}))


def test_columns_can_be_set_on_a_subset() -> None:
    pool = Pool.from_samples(samples()).select([7, 3]).with_columns({"split": ["a", "b"], "odd": [{"k": 1}, None]})
    assert pool.split("b").uids == ("u03",)
    assert pool.column("odd") == [{"k": 1}, None]
    with pytest.raises(DataError, match="3 values for 2 rows"):
        pool.with_columns({"split": ["a"] * 3})


def test_fingerprint_ignores_order_and_notices_every_change() -> None:
    made = samples()
    whole = Pool.from_samples(made).fingerprint
    assert Pool.from_samples(made[::-1]).fingerprint == whole
    changes = [
        replace(made[4], uid="other"),
        replace(made[4], texts=(*made[4].texts, Text("more"))),
        replace(made[4], texts=(Text("text 4 0", "fr"),)),
        replace(made[4], group="other"),
        replace(made[4], image=BytesImage(b"other")),
        replace(made[4], image=None),
    ]
    prints = {Pool.from_samples([*made[:4], change, *made[5:]]).fingerprint for change in changes}
    assert len(prints) == len(changes)
    assert whole not in prints
    assert Pool.from_samples(made).select(range(11)).fingerprint != whole


def test_fingerprint_sees_pixels() -> None:
    dark, light = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    prints = {Pool.from_samples([Sample("a", ArrayImage(pixels))]).fingerprint for pixels in (dark, light, dark)}
    assert len(prints) == 2


def test_images_can_be_exchanged_below_a_subset() -> None:
    from diptych.data.media.images import ImageObjects

    pool = Pool.from_samples(samples()).select([7, 3])
    other = [BytesImage(b"a"), BytesImage(b"b")]
    changed = pool.with_images(ImageObjects(other))
    assert [s.image for s in changed] == other
    assert [replace(s, image=None) for s in changed] == [replace(s, image=None) for s in pool]


def _texts(pool: Pool) -> list[str]:
    return [t.string for s in pool for t in s.texts]


def test_pickles_and_crosses_processes() -> None:
    pool = Pool.from_samples(samples()).select([4, 2])
    again = pickle.loads(pickle.dumps(pool))
    assert list(again) == list(pool)
    assert again.fingerprint == pool.fingerprint
    with multiprocessing.get_context("fork").Pool(1) as workers:
        assert workers.apply(_texts, (pool,)) == _texts(pool)


def test_a_large_pool_is_small() -> None:
    """200,000 rows: what belongs to a row is a number in a column, not an object."""
    n = 200_000
    from diptych.data.media.images import LooseFiles
    from diptych.data.texts import Texts

    uids = pa.array([f"{i:09d}" for i in range(n)])
    table = pa.table({"uid": uids, "string": [f"a caption of picture {i}" for i in range(n)]})
    pool = Pool("large", {"uid": uids}, Texts.by_uid(table, uids), LooseFiles("/x", pa.array([f"{i}.jpg" for i in range(n)])))
    assert pool.select(np.arange(n)[::-1])[0].texts[0].string == f"a caption of picture {n - 1}"
    assert len(pickle.dumps(pool)) < 160 * n


def test_a_column_changes_the_fingerprint_only_where_it_belongs_to_it() -> None:
    pool = Pool.from_samples(samples())
    assert (
        pool.fingerprint
        == pool.with_columns({"score": range(12)}).fingerprint
        == pool.with_columns({"split": ["x"] * 12}).fingerprint
    )
    assert pool.with_columns({"group": ["x"] * 12}).fingerprint not in ("", pool.fingerprint)


def test_equal_rows_of_one_pool_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    plain = Pool.content_fingerprint

    def counted(pool: Pool, **options: bool) -> str:
        hashed.append(len(pool))
        return plain(pool, **options)

    monkeypatch.setattr(Pool, "content_fingerprint", counted)
    pool = Pool.from_samples(samples())
    first = pool.select([1, 2, 3]).fingerprint
    assert pool.select([1, 2, 3]).named("other").fingerprint == pool.select(range(6))[1:4].fingerprint == first
    assert hashed == [3]
    assert len({first, pool.select([1, 2, 4]).fingerprint, pool.in_language("xx").select([1, 2, 3]).fingerprint}) == 3
    assert pool.with_columns({"group": ["x"] * 12}).select([1, 2, 3]).fingerprint != first
    dp.read(pool)
    assert hashed == [3] * 4, "reading a pool hashes nothing"
