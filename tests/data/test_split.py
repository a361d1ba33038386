"""Splits never leak, whatever ties samples together; leaks that are planted are found and named."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample, Text
from diptych.data.columns import MadeBy
from diptych.data.dataset import Pool
from diptych.data.shards.build import build, open_built
from diptych.data.split import leaks, save_split, split

rows = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 30)), min_size=30, max_size=80)


def pool_of(numbers: list[tuple[int, int, int]]) -> Pool:
    """Group 0, hash 0 mean: none."""
    made = [
        Sample(f"u{i}", texts=(Text(f"Text  {text}"), Text("wrong", origin="negative")), group=f"g{group}" if group else "")
        for i, (group, _, text) in enumerate(numbers)
    ]
    return Pool.from_samples(made).with_columns({"sha256": [f"h{image}" if image else None for _, image, _ in numbers]})


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(0, 5))
def test_nothing_leaks(numbers: list[tuple[int, int, int]], seed: int) -> None:
    pool = pool_of(numbers)
    try:
        made = split(pool, {"train": 2, "val": 1, "test": 1}, seed=seed, together=("group", "image", "text"))
    except ConfigError:  # too few units for three splits
        return
    where = made.column("split")
    for a, b in combinations(range(len(numbers)), 2):
        tied = any(x == y and (x or k == 2) for k, (x, y) in enumerate(zip(numbers[a], numbers[b], strict=True)))
        if tied:
            assert where[a] == where[b]
    assert leaks(made).clean
    order = list(range(len(numbers)))[::-1]
    again = split(pool.select(order), {"train": 2, "val": 1, "test": 1}, seed=seed, together=("group", "image", "text"))
    assert [again.column("split")[order.index(i)] for i in range(len(numbers))] == where  # the order of rows does not matter


def test_shares_are_met_and_seeds_differ() -> None:
    pool = Pool.from_samples([Sample(f"u{i}", group=f"g{i // 3}") for i in range(900)])
    made = split(pool, {"train": 0.8, "val": 0.1, "test": 0.1})
    assert {name: len(made.split(name)) for name in made.split_names} == {"train": 720, "val": 90, "test": 90}
    assert split(pool, seed=1).split("test").uids != made.split("test").uids
    assert split(pool, seed=0).split("test").uids == made.split("test").uids


def test_what_cannot_work_is_refused() -> None:
    pool = Pool.from_samples([Sample(f"u{i}", group="one") for i in range(9)])
    with pytest.raises(ConfigError, match="'test' would get no sample: 1 units"):
        split(pool, {"train": 0.5, "test": 0.5})
    with pytest.raises(ConfigError, match="above 0"):
        split(pool, {"train": 1.0, "test": 0.0})
    with pytest.raises(ConfigError, match="together holds 'groups'"):
        split(pool, together=("groups",))  # type: ignore[arg-type]


sample = st.tuples(
    st.integers(0, 4), st.integers(0, 4), st.lists(st.sampled_from(["A  b", "a B", "c", " ", "d"]), max_size=3), st.integers(0, 3)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(sample, max_size=25), st.randoms())
def test_leaks_equal_a_comparison_of_all_rows(made: list[tuple[int, int, list[str], int]], random: Random) -> None:
    """Number 0 is: no group, no hash, no split."""
    samples = [
        Sample(f"u{i}", texts=(*map(Text, texts), Text("e", origin="negative")), group=f"g{group}" if group else "")
        for i, (group, _, texts, _) in enumerate(made)
    ]
    pool = Pool.from_samples(samples).with_columns(
        {"sha256": [f"h{n}" if n else None for _, n, _, _ in made], "split": [f"s{n}" if n else "" for *_, n in made]}
    )
    order = list(range(len(made)))
    random.shuffle(order)
    pool, made = pool.select(order), [made[i] for i in order]
    carried = {
        "group": [{f"g{group}" if group else uid} for uid, (group, *_) in zip(pool.uids, made, strict=True)],
        "image": [{n} - {0} for _, n, _, _ in made],
        "text": [{"".join(text.split()).casefold() for text in texts} - {""} for _, _, texts, _ in made],
    }
    expected = {}
    for kind, each in carried.items():
        for one, other in combinations(pool.split_names, 2):
            rows_of = [[i for i, (*_, n) in enumerate(made) if f"s{n}" == name] for name in (one, other)]
            shared = set().union(*(each[i] for i in rows_of[0])) & set().union(*(each[i] for i in rows_of[1]))
            if shared:
                rows = sum(len(each[i] & shared) for i in rows_of[0] + rows_of[1])
                first = {key: tuple(next(pool.uids[i] for i in rows if key in each[i]) for rows in rows_of) for key in shared}
                expected[kind, (one, other)] = (len(shared), rows, set(first.values()))
    report = leaks(pool, examples=99)
    assert {(x.kind, x.splits): (x.shared, x.rows, set(x.examples)) for x in report.leaks} == expected
    assert report.checked == (("group", "image", "text") if any(carried["image"]) else ("group", "text"))


def test_planted_leaks_are_found() -> None:
    made = [
        Sample("a", texts=(Text("A cat"),), group="g", extras={"split": "train"}),
        Sample("b", texts=(Text("a  CAT "),), extras={"split": "test"}),
        Sample("c", texts=(Text("dog"),), group="g", extras={"split": "test"}),
        Sample("d", texts=(Text("bird"),), extras={"split": "val"}),
        Sample("e", texts=(Text("dog"),)),
    ]
    pool = Pool.from_samples(made).with_columns({"sha256": ["x", "y", "z", "x", "z"]})
    report = leaks(pool)
    found = {(leak.kind, leak.splits): (leak.shared, leak.rows, leak.examples) for leak in report.leaks}
    assert found == {
        ("group", ("train", "test")): (1, 2, (("a", "c"),)),
        ("image", ("train", "val")): (1, 2, (("a", "d"),)),
        ("text", ("train", "test")): (1, 2, (("a", "b"),)),
    }
    assert "train and val share 1 identical image (2 samples, such as a and d)" in report.lines()
    assert not report.to_json()["clean"]


def test_splits_stay_with_the_folder(tmp_path: Path) -> None:
    build(Pool.from_samples([Sample(f"u{i}") for i in range(20)]), tmp_path)
    made = split(open_built(tmp_path), {"train": 3, "test": 1})
    save_split(tmp_path, made, MadeBy("split", {"seed": 0}))
    opened = open_built(tmp_path)
    assert opened.column("split") == made.column("split")
    assert sorted(opened.split_names) == ["test", "train"]
