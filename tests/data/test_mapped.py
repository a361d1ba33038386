"""Memory-mapped columns: the same rows as the folder, opened without reading them; an order that is computed; runs that began before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.cli import main
from diptych.core.errors import DataError
from diptych.data.dataset import Pool
from diptych.data.load import computed_order as computed
from diptych.data.load.computed_order import ComputedOrder, computed_order, default_order
from diptych.data.load.order import order, span
from diptych.data.mapped import FACTS, FOLDER, is_mapped, open_mapped, write_mapped
from diptych.data.metadata import WholeRows
from diptych.data.read import read
from diptych.data.shards.build import build, open_built
from diptych.worlds.resolve import resolve


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with texts in several languages, regions, relations and splits."""
    data = resolve("world:scenes?n=30")
    folder = tmp_path_factory.mktemp("mapped") / "built"
    build(Pool.from_samples((data[row] for row in range(len(data))), name="scenes"), folder, shard_samples=10)
    assert main(["data", "map", str(folder)]) == 0
    return folder


@pytest.fixture
def pools(built: Path) -> tuple[Pool, Pool]:
    return open_built(built), open_mapped(built)


def test_rows_are_those_of_the_folder(pools: tuple[Pool, Pool], built: Path) -> None:
    old, new = pools
    assert new.is_mapped
    assert read(built).is_mapped, "read takes the columns"
    assert len(new) == len(old)
    assert list(new.uids) == list(old.uids)
    assert new.uids[3] == old.uids[3]
    assert new.uids[-1] == old.uids[-1]
    assert list(new.groups) == list(old.groups)
    for one, other in zip(new, old, strict=True):
        assert (one.uid, one.texts, one.regions, one.relations, one.extras) == (
            other.uid,
            other.texts,
            other.regions,
            other.relations,
            other.extras,
        )
        assert one.image is not None
        assert other.image is not None
        assert one.image.read() == other.image.read()
    with pytest.raises(IndexError):
        new[len(new)]


def test_selections_and_tables_are_those_of_the_folder(pools: tuple[Pool, Pool]) -> None:
    old, new = pools
    assert new.split_names == old.split_names
    for name in old.split_names:
        assert list(new.split(name).uids) == list(old.split(name).uids)
    picked = [5, 2, 2 + 7]
    assert [sample.uid for sample in new.select(picked)] == [sample.uid for sample in old.select(picked)]
    assert new.texts_table()["string"].to_pylist() == old.texts_table()["string"].to_pylist()
    assert [one.texts for one in new.in_language("de")] == [one.texts for one in old.in_language("de")]
    more = list(range(len(old)))
    assert new.with_columns({"more": more})[4].extras["more"] == old.with_columns({"more": more})[4].extras["more"] == 4
    assert new.regions is not None
    assert new.regions_table() == old.regions_table()
    assert old.uids[3] in new
    assert "nobody" not in new


def test_fingerprints(pools: tuple[Pool, Pool]) -> None:
    old, new = pools
    assert new.fingerprint == old.fingerprint == new.content_fingerprint()
    train = new.split("train")
    again, other = new.split("train"), new.split("test")
    assert len({train.fingerprint, again.fingerprint}) == 1
    assert len({train.fingerprint, other.fingerprint, new.fingerprint, train.select(range(3)).fingerprint}) == 4
    assert train.content_fingerprint() == old.split("train").fingerprint, "what a run knows that began before"
    changed = new.with_columns({"group": ["one"] * len(new)})
    assert changed.fingerprint == old.with_columns({"group": ["one"] * len(old)}).fingerprint, "new content is read"


def test_columns_of_earlier_tables_are_not_used(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(built, folder)
    assert is_mapped(folder), "a copy is as good"
    main(["data", "split", str(folder), "--shares", "train=0.5,test=0.5"])
    assert not is_mapped(folder)
    assert not read(folder).is_mapped
    write_mapped(open_built(folder), folder)
    assert read(folder).is_mapped
    assert list(read(folder).column("split")) == list(open_built(folder).column("split"))


def test_damage_is_named(built: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(built, folder)
    rows = folder / FOLDER / "rows.arrow"
    rows.write_bytes(rows.read_bytes()[:-200])
    with pytest.raises(DataError, match="diptych data map"):
        open_mapped(folder)
    facts = folder / FOLDER / FACTS
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "format": 9}))
    with pytest.raises(DataError, match="has format 9"):
        open_mapped(folder)


def test_opening_makes_no_object_a_row(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a list of all rows was made")

    monkeypatch.setattr(WholeRows, "__array__", refuse)
    monkeypatch.setattr(WholeRows, "__iter__", refuse)
    monkeypatch.setattr(WholeRows, "tolist", refuse)
    pool = read(built)
    assert pool[2].uid == pool.uids[2]
    assert len(pool.fingerprint) == 16


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 16, 17, 255, 1000, 4097])
def test_the_computed_order_is_a_permutation(rows: int) -> None:
    whole = computed_order(7, 2, rows)
    assert sorted(whole.tolist()) == list(range(rows))
    places = np.array([rows - 1, 0, rows // 2])
    assert computed_order.at(7, 2, rows, places).tolist() == whole[places].tolist()


def test_the_computed_order_looks_random() -> None:
    rows = 40_000
    one, other, seeded = computed_order(0, 0, rows), computed_order(0, 1, rows), computed_order(1, 0, rows)
    place = np.arange(rows)
    pairs = [(one, place), (one, other), (one, seeded), (one[1:], one[:-1]), (one[::2], one[1::2])]
    for first, second in pairs:
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / rows**0.5
    assert (one == place).sum() < 10, "about one row stays where it was"
    cells = np.histogram2d(place, one, bins=20)[0]
    expected = rows / 400
    assert abs(((cells - expected) ** 2 / expected).sum() - 361) < 5 * (2 * 361) ** 0.5, "chi squared of 19 x 19 degrees"


def test_which_order_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_order(999_999) is order
    assert default_order(1_000_000) is computed_order
    assert default_order(10**8, version=1) is order, "a run that began before goes on in its own"
    epochs, rows = span(3, 10**8, 10**8 - 2, 10**8 + 2, order=default_order(10**8))
    assert epochs.tolist() == [0, 0, 1, 1]
    assert rows[2:].tolist() == ComputedOrder().at(3, 1, 10**8, np.array([0, 1])).tolist()
    monkeypatch.setattr(computed, "COMPUTED_FROM", 5)
    assert default_order(5) is computed_order
