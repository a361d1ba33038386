"""Links whose predicates follow Zipf's law: how often each comes up, and that a row is a row of `world:links`."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.worlds.links.tailed import TRIES, TailedLinkWorld, tailed_links
from diptych.worlds.links.world import PREDICATES, predicate
from diptych.worlds.resolve import resolve


def counts(split: str, rows: int, exponent: float = 1.5) -> list[int]:
    world = TailedLinkWorld(5, exponent=exponent)
    found: Counter[str] = Counter()
    for index in range(rows):
        scene, pairs = world.plain.scene(split, world.place(split, index))
        found.update(predicate(scene.things[i], scene.things[j]) for i, j in pairs)
    return [found[name] for name in world.ranked()]


def test_predicates_fall_by_the_law_in_training_and_not_in_the_test() -> None:
    train = counts("train", 300)
    assert train[0] > 0.35 * sum(train)
    assert sum(train[4:]) < 0.2 * sum(train)
    test = counts("test", 300)
    assert min(test) > 0.05 * sum(test)
    assert sorted(TailedLinkWorld(5).ranked()) == sorted(PREDICATES)
    assert TailedLinkWorld(5).ranked() != TailedLinkWorld(6).ranked()


def test_a_steeper_law_leaves_few_links_of_the_rarest_predicates() -> None:
    train = counts("train", 600, exponent=2.0)
    assert all(5 < count < 60 for count in train[4:])
    assert train[0] > 10 * train[4]


def test_a_row_is_a_scene_of_links_and_its_uid_its_own() -> None:
    rows = tailed_links(3, seed=2, split="val")
    world = TailedLinkWorld(2)
    for index in range(3):
        place = world.place("val", index)
        assert place // TRIES == index
        plain = world.plain.sample("val", place)
        assert rows[index].relations == plain.relations
        np.testing.assert_array_equal(rows[index].image.pixels_HWC, plain.image.pixels_HWC)
        assert rows[index].uid == rows.uids[index] == f"tailed_links-2-val-{index:07d}"
    assert len(resolve("world:tailed_links?n=8&exponent=1.0")) == 12
    with pytest.raises(ConfigError, match=r"0\.\.3"):
        TailedLinkWorld(exponent=9.0)
