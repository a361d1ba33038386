"""Arithmetic of directions against numpy on dense vectors, and the record of removals after any sequence of calls and a cut line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, RunError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.index.engine.store import SparseVector
from diptych.index.gone import FILE, GoneItems, read_gone, record_back, record_removed, record_taken_down, rows_to_refuse
from diptych.index.vectors import combine, cosine, unit_rows


def test_parts_are_directions_whatever_their_length() -> None:
    a_D, b_D = np.array([3.0, 4.0], np.float32), np.array([0.0, 0.5], np.float32)
    found = combine([(a_D, 2.0), (b_D, -0.5)])
    wanted = 2 * np.array([0.6, 0.8]) - 0.5 * np.array([0.0, 1.0])
    assert found == pytest.approx(wanted / np.linalg.norm(wanted), abs=1e-7)
    assert found.dtype == np.float32
    assert combine([(1e-9 * a_D, 1e-5)]) == pytest.approx([0.6, 0.8], abs=1e-6)
    for parts in ([(a_D, 1.0), (5 * a_D, -1.0)], [(0 * a_D, 1.0)]):
        with pytest.raises(ConfigError, match="cancel out"):
            combine(parts)
    rows_ND = np.array([[3.0, 4.0], [0.0, 0.0], [1e-6, 0.0]], np.float32)
    assert unit_rows(rows_ND) == pytest.approx(np.array([[0.6, 0.8], [0, 0], [1, 0]]), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.dictionaries(st.integers(0, 8), st.floats(-2, 2, width=32), max_size=6), min_size=2, max_size=2))
def test_cosines_of_sparse_vectors_are_those_of_dense_ones(terms: list[dict[int, float]]) -> None:
    dense = np.zeros((2, 9))
    sparse = []
    for row, values in enumerate(terms):
        places = sorted(values)
        dense[row, places] = [values[place] for place in places]
        sparse.append(SparseVector(np.array(places, np.uint32), np.array([values[place] for place in places], np.float32)))
    length = float(np.prod(np.linalg.norm(dense, axis=1)))
    wanted = float(dense[0] @ dense[1]) / length if length > 1e-9 else 0.0
    if length > 1e-9 or not length:
        assert cosine(*sparse) == pytest.approx(wanted, abs=1e-5)


def test_dense_vectors_are_not_compared_as_sparse_ones() -> None:
    one = SparseVector(np.array([0], np.uint32), np.ones(1, np.float32))
    with pytest.raises(TypeError, match="sparse"):
        cosine(one, np.ones(2, np.float32))
    with pytest.raises(TypeError, match="sparse"):
        cosine(np.ones(2, np.float32), one)


def test_removals_and_returns_are_recorded_once(tmp_path: Path) -> None:
    assert read_gone(tmp_path) == GoneItems()
    record_removed(tmp_path, ["b", "a", "b"])
    record_removed(tmp_path, ["a", "c"])
    record_back(tmp_path, ["a", "never"])
    record_taken_down(tmp_path, ["u", "u"], ["f00"])
    record_taken_down(tmp_path, ["u"], ["f00", "ba4"])
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"removed": "a"},
        {"removed": "b"},
        {"removed": "c"},
        {"back": "a"},
        {"uid": "u"},
        {"sha256": "f00"},
        {"sha256": "ba4"},
    ]
    assert read_gone(tmp_path) == GoneItems(frozenset("bc"), frozenset("u"), frozenset({"f00", "ba4"}))
    record_removed(tmp_path, ["a"])
    assert read_gone(tmp_path).removed == frozenset("abc")


def test_a_line_that_a_kill_cut_is_dropped_and_a_broken_one_is_named(tmp_path: Path) -> None:
    record_removed(tmp_path, ["a", "b"])
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-3])
    assert read_gone(tmp_path).removed == frozenset("a")
    record_removed(tmp_path, ["a", "d"])
    assert path.read_text(encoding="utf-8") == '{"removed": "a"}\n{"removed": "d"}\n'
    path.write_text('{"gone": "a"}\n', encoding="utf-8")
    with pytest.raises(RunError, match="cannot be read"):
        read_gone(tmp_path)


def test_pictures_that_were_taken_down_are_refused_under_any_uid() -> None:
    known = "6ec9c2b0eb14010746c8bce8939303b382344b296206612eb8a907a37b2b2f37"  # sha256 of b"pixels"
    images = [BytesImage(b"pixels", "a"), BytesImage(b"others", "b"), None, ArrayImage(np.zeros((1, 1, 3), np.uint8), "d")]
    pool = Pool.from_samples([Sample(uid, image) for uid, image in zip("abcd", images, strict=True)])
    assert rows_to_refuse(pool, GoneItems(removed=frozenset("abcd"))) == []
    assert rows_to_refuse(pool, GoneItems(uids=frozenset("bx"))) == [1]
    assert rows_to_refuse(pool, GoneItems(uids=frozenset("d"), hashes=frozenset({known}))) == [0, 3]
