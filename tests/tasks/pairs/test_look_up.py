"""Retrieval by the nearest training picture: high where a split repeats its pictures, near chance where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from diptych.data.dataset import Pool
from diptych.tasks.pairs.look_up import look_up_scores
from diptych.worlds.small_pairs import SmallPairs


def parted(*parts: tuple[str, Any]) -> Pool:
    samples = [
        replace(rows[row], uid=f"{name}-{row}", extras={"split": name}) for name, rows in parts for row in range(len(rows))
    ]
    return Pool.from_samples(samples, name="parted")


def test_repeated_pictures_are_solved_and_fresh_ones_are_not() -> None:
    train, fresh = SmallPairs(120).pool("train", 0), SmallPairs(60).pool("test", 1)
    scores = {score.split: score for score in look_up_scores(parted(("train", train), ("copies", train), ("fresh", fresh)))}
    assert scores["copies"].recall > 0.8
    assert scores["fresh"].recall < 0.4
    assert scores["fresh"].chance == pytest.approx(1 / 60, rel=0.3)
    assert str(scores["fresh"]).startswith("fresh: 0.")


def test_without_splits_or_texts_there_is_none() -> None:
    rows = SmallPairs(10).pool("train", 0)
    assert look_up_scores(rows.select(range(5))) == [] or rows.split_names
    bare = [replace(rows[row], texts=(), extras={"split": name}) for row, name in enumerate(["train"] * 5 + ["test"] * 5)]
    assert look_up_scores(Pool.from_samples(bare, name="bare")) == []
