from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.read import read
from diptych.worlds.resolve import resolve


def named(samples: Iterable[Sample]) -> set[tuple[str, str]]:
    return {(sample.extras["task"], sample.texts[0].string) for sample in samples}


def first_labels(count: int) -> set[tuple[str, str]]:
    """Vendor and English label of the first so many training pictures of each vendor."""
    rows = read("emoji").split("train").in_language("en")
    by_vendor: dict[str, list[str]] = {}
    for sample in rows:
        by_vendor.setdefault(sample.extras["style"], []).append(next(t.string for t in sample.texts if t.origin == "label"))
    return {(vendor, label) for vendor, labels in by_vendor.items() for label in labels[:count]}


def test_every_vendor_has_equally_many_and_tests_ask_what_was_trained() -> None:
    whole = resolve("world:emoji_vendors?n=30&test=9")
    train, test = whole.split("train"), whole.split("test")
    assert set(Counter(train.column("task")).values()) == {10}
    assert (len(train), len(test), whole.split_names) == (30, 9, ("train", "test"))
    assert [test[row].texts for row in range(9)] == [train[row].texts for row in range(9)]
    assert not set(test.uids) & set(train.uids)
    assert [train[row].uid for row in range(30)] == list(train.uids)
    assert named(train[row] for row in range(30)) == first_labels(10)


def test_the_seed_names_rows_and_too_many_are_refused() -> None:
    one, other = resolve("world:emoji_vendors?n=6&test=3"), resolve("world:emoji_vendors?n=6&test=3&seed=1")
    assert one.fingerprint != other.fingerprint
    assert one[4].texts == other[4].texts
    with pytest.raises(ConfigError, match="n is 1000000 "):
        resolve("world:emoji_vendors?n=1000000")
