"""What filters offer is counted over the items of the index, not over all of the data."""

from __future__ import annotations

from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.serve.facets import MOST, facets


def pool() -> Pool:
    return Pool.from_samples(
        [
            Sample(
                f"s{row:02}",
                texts=(Text("a thing"),),
                licence="MIT" if row % 2 else "CC0-1.0",
                extras={"score": row / 10 if row else float("nan"), "name": f"n{row}", "tags": ["a"], "checked": row > 30},
            )
            for row in range(60)
        ],
        name="things",
    )


def test_only_items_of_the_index_count() -> None:
    found = facets(pool(), {"s01", "s02", "s03", "s40", "elsewhere"})
    assert found["licence"] == {"values": ["CC0-1.0", "MIT"], "counts": [2, 2]}
    assert found["score"] == {"min": 0.1, "max": 4.0}
    assert found["checked"] == {"values": ["False", "True"], "counts": [3, 1]}
    assert found["name"]["values"] == ["n1", "n2", "n3", "n40"]


def test_what_cannot_be_offered_is_left_out() -> None:
    whole = facets(pool(), set(pool().uids))
    assert MOST < 60
    assert "name" not in whole, "too many different values"
    assert "tags" not in whole, "lists"
    assert whole["score"] == {"min": 0.1, "max": 5.9}, "what is no number does not stretch the range"
    assert facets(pool(), set()) == {}
    assert facets(None, {"s01"}) == {}
