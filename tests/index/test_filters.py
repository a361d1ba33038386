"""What `where` means, and that the engine understands it alike."""

from __future__ import annotations

import uuid
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, UnknownName
from diptych.index.engine.edge import EdgeStore
from diptych.index.engine.store import DenseSpace, IndexItem, ItemFilter
from diptych.index.filters import OneOf, check_where, clauses, matches, merge_kinds

ROW = {"split": "train", "side": 40, "score": 0.5, "ok": True, "tags": ["red", "old"]}
KINDS = {"split": "text", "side": "integer", "score": "number", "ok": "boolean", "tags": "texts"}


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ({}, True),
        ({"split": "train"}, True),
        ({"split": "test"}, False),
        ({"split": ["test", "train"]}, True),
        ({"side": {">=": 40, "<": 41}}, True),
        ({"side": {">": 40}}, False),
        ({"side": {">": 39.5}}, True),
        ({"score": 0.5, "ok": True}, True),
        ({"ok": False}, False),
        ({"absent": "x"}, False),
        ({"tags": "old"}, True),
        ({"tags": ["blue", "red"]}, True),
        ({"tags": "blue"}, False),
    ],
)
def test_meaning(where: dict[str, Any], holds: bool) -> None:
    assert matches(ROW, where) is holds


@pytest.mark.parametrize(
    ("where", "error", "says"),
    [
        ({"splt": "train"}, UnknownName, "did you mean 'split'"),
        ({"split": 3}, ConfigError, "holds text"),
        ({"split": {">": 3}}, ConfigError, "a range needs numbers"),
        ({"side": {"=>": 3}}, ConfigError, "expected keys among > >= < <="),
        ({"side": {}}, ConfigError, "expected keys"),
        ({"side": []}, ConfigError, "an empty list of values"),
        ({"ok": "yes"}, ConfigError, "holds boolean"),
        ({"ok": 1}, ConfigError, "holds boolean"),
        ({"split": [["train"]]}, ConfigError, "holds text, the condition gives"),
        ({"tags": [["red"]]}, ConfigError, "holds texts, the condition gives"),
        ({"side": 10**400}, ConfigError, "too large"),
        ({"score": {"<": float("nan")}}, ConfigError, "expected a finite one"),
        ({"score": [float("-inf")]}, ConfigError, "expected a finite one"),
    ],
)
def test_refused(where: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        check_where(where, KINDS)


def test_kinds() -> None:
    assert merge_kinds({}, [ROW, {"tags": "x", "note": None, "points": [1, 2], "none": []}]) == KINDS
    assert merge_kinds({"tags": "text"}, [{"tags": ["x"]}]) == {"tags": "texts"}
    assert merge_kinds({"side": "integer"}, [{"side": 1.5}]) == {"side": "number"}
    with pytest.raises(ConfigError, match="column 'side' holds integer in some rows and text in others"):
        merge_kinds(KINDS, [{"side": "wide"}])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One shard for all generated conditions; fixtures of a function would be made for each."""
    rng = np.random.default_rng(0)
    names = ["a", "b", "ä ö", "c.d"]
    rows: list[dict[str, Any]] = [
        {
            "word": names[rng.integers(4)],
            "whole": int(rng.integers(-3, 4)),
            "broken number": float(rng.integers(-3, 4)) / 2,
            "yes.no": bool(rng.integers(2)),
            "several": [name for name in names if rng.integers(2)],
        }
        for _ in range(80)
    ]
    for row in rows[::7]:
        del row["whole"]
    store = EdgeStore.create(tmp_path_factory.mktemp("filters") / "shard", [DenseSpace("", 2)])
    stored = [{k: int(v) if isinstance(v, bool) else v for k, v in row.items()} for row in rows]
    one = np.array([1, 0], np.float32)
    store.upsert([IndexItem(uuid.UUID(int=i), {"": one}, row) for i, row in enumerate(stored)])
    yield store, rows
    store.close()


numbers = st.integers(-3, 3).map(lambda i: i / 2) | st.integers(-3, 3)
ranges = st.dictionaries(st.sampled_from([">", ">=", "<", "<="]), numbers, min_size=1)
words = st.sampled_from(["a", "b", "ä ö", "c.d", "none"])
conditions = st.fixed_dictionaries(
    {},
    optional={
        "word": words | st.lists(words, min_size=1, max_size=3),
        "whole": numbers | ranges | st.lists(numbers, min_size=1, max_size=3),
        "broken number": numbers | ranges,
        "yes.no": st.booleans() | st.just([True, False]),
        "several": words | st.lists(words, min_size=1, max_size=2),
    },
)


@settings(max_examples=80, deadline=None)
@given(where=conditions)
def test_engine_understands_alike(filled: Any, where: dict[str, Any]) -> None:
    store, rows = filled
    kinds = merge_kinds({}, rows)
    check_where(where, kinds)
    found = store.scroll(ItemFilter(where, kinds))
    assert sorted(item.id.int for item in found) == [i for i, row in enumerate(rows) if matches(row, where)]


def test_truth_is_asked_for_as_the_numbers_that_are_stored() -> None:
    """JSON has a word for true, and an engine on a server would look for that."""
    (clause,) = clauses({"mirrored": [True, False]}, {"mirrored": "boolean"})
    assert isinstance(clause, OneOf)
    assert [type(value) for value in clause.values] == [int, int]
    assert clause.values == (1, 0)
