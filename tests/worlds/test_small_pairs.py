"""Mistakes that are known: as many as asked for, none in place, equal for every arm, never in the test rows."""

from __future__ import annotations

import numpy as np

from diptych.worlds.resolve import resolve
from diptych.worlds.small_pairs import COLOURS, SmallPairs, exchanged


def test_no_exchanged_row_keeps_its_own() -> None:
    source = exchanged(200, 0.3, "train", 0)
    moved = [row for row, other in enumerate(source) if row != other]
    assert len(moved) == 60
    assert sorted(source) == list(range(200)), "every text is used once"
    assert exchanged(200, 0.3, "train", 0) == source != exchanged(200, 0.3, "train", 1)
    assert exchanged(5, 0.0, "train", 0) == exchanged(5, 0.2, "train", 0) == list(range(5)), "one row has nobody to exchange with"


def test_texts_say_what_is_shown_unless_they_are_marked() -> None:
    clean, noisy = SmallPairs(40).pool("train", 3), SmallPairs(40, 0.5, 0.1, captioned=True).pool("train", 3)
    for true, found in zip(clean, noisy, strict=True):
        assert true.uid == found.uid
        assert (true.texts[0].string == found.texts[0].string) or found.extras["mismatched"]
        assert [text.origin for text in found.texts] == ["alt", "synthetic"]
    assert sum(noisy.column("mismatched")) == 20
    assert not any(clean.column("mismatched"))
    unplaced = [sample.texts[1].string for sample in noisy]
    assert not any(word in text for text in unplaced for word in ("top", "left", "centre", "bottom"))


def test_what_is_avoided_is_not_shown() -> None:
    rows = SmallPairs(60, avoid=("red circle", "blue cross")).pool("train", 0)
    assert not any("red circle" in sample.texts[0].string or "blue cross" in sample.texts[0].string for sample in rows)


def test_equal_texts_are_one_group_in_the_test_rows_alone() -> None:
    test, train = SmallPairs(30).pool("test", 0), SmallPairs(30).pool("train", 0)
    assert all(sample.group == sample.texts[0].string for sample in test)
    assert not any(sample.group for sample in train)


def test_the_world_has_an_address_and_its_test_rows_are_clean() -> None:
    whole = resolve("world:small_pairs?n=40&mismatched=0.5&captioned=true&wrong=0.5&test=10&seed=3")
    train, test = whole.split("train"), whole.split("test")
    assert sum(train.column("mismatched")) == 20
    assert not any(test.column("mismatched"))
    alone = SmallPairs(40, 0.5, 0.5, captioned=True).pool("train", 3)
    assert [sample.texts for sample in alone] == [train[row].texts for row in range(40)]
    for row in range(10):
        placed, plain = (text.string for text in test[row].texts)
        assert [words.split()[1:3] for words in placed.split(" and ")] == [words.split()[1:3] for words in plain.split(" and ")]


def test_regions_are_the_things_that_the_text_names() -> None:
    for sample in SmallPairs(20, regions=True).pool("train", 1):
        assert sample.image is not None
        pixels_HWC = sample.image.pixels_HWC  # type: ignore[attr-defined]
        named = [words.split()[1:3] for words in sample.texts[0].string.split(" and ")]
        assert [[*region.attributes, region.label] for region in sample.regions] == named
        for region in sample.regions:
            x0, y0, x1, y1 = map(int, region.box)
            right = (pixels_HWC == COLOURS[region.attributes[0]]).all(-1)
            assert right[y0:y1, x0:x1].sum() > 0.3 * (y1 - y0) * (x1 - x0)
            assert np.argwhere(right).min(0).tolist() <= [y0, x0]
