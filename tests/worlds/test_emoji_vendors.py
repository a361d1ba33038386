from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest

from diptych.claims.cells.learned_pairs.task_streams import vendors
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.worlds.resolve import resolve


def named(samples: Iterable[Sample]) -> set[tuple[str, str]]:
    return {(sample.extras["task"], sample.texts[0].string) for sample in samples}


def test_every_vendor_has_equally_many_and_tests_ask_what_was_trained() -> None:
    whole = resolve("world:emoji_vendors?n=30&test=9")
    train, test = whole.split("train"), whole.split("test")
    assert set(Counter(train.column("task")).values()) == {10}
    assert (len(train), len(test), whole.split_names) == (30, 9, ("train", "test"))
    assert [test[row].texts for row in range(9)] == [train[row].texts for row in range(9)]
    assert not set(test.uids) & set(train.uids)
    assert [train[row].uid for row in range(30)] == list(train.uids)
    stream = vendors("train", 10, 0)
    assert named(stream[row] for row in range(len(stream))) == named(train[row] for row in range(30))


def test_the_seed_names_rows_and_too_many_are_refused() -> None:
    one, other = resolve("world:emoji_vendors?n=6&test=3"), resolve("world:emoji_vendors?n=6&test=3&seed=1")
    assert one.fingerprint != other.fingerprint
    assert one[4].texts == other[4].texts
    with pytest.raises(ConfigError, match="n is 1000000 "):
        resolve("world:emoji_vendors?n=1000000")
