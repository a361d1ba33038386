"""Mistakes that are known: as many as asked for, none in place, equal for every arm, never in the test rows."""

from __future__ import annotations

from diptych.claims.noisy_texts import NoisyPairs, exchanged


def test_no_exchanged_row_keeps_its_own() -> None:
    source = exchanged(200, 0.3, "train", 0)
    moved = [row for row, other in enumerate(source) if row != other]
    assert len(moved) == 60
    assert sorted(source) == list(range(200)), "every text is used once"
    assert exchanged(200, 0.3, "train", 0) == source != exchanged(200, 0.3, "train", 1)
    assert exchanged(5, 0.0, "train", 0) == exchanged(5, 0.2, "train", 0) == list(range(5)), "one row has nobody to exchange with"


def test_texts_say_what_is_shown_unless_they_are_marked() -> None:
    clean, noisy = NoisyPairs(40).pool("train", 3), NoisyPairs(40, 0.5, 0.1, captioned=True).pool("train", 3)
    for true, found in zip(clean, noisy, strict=True):
        assert true.uid == found.uid
        assert (true.texts[0].string == found.texts[0].string) or found.extras["mismatched"]
        assert [text.origin for text in found.texts] == ["alt", "synthetic"]
    assert sum(noisy.column("mismatched")) == 20
    assert not any(clean.column("mismatched"))
    unplaced = [sample.texts[1].string for sample in noisy]
    assert not any(word in text for text in unplaced for word in ("top", "left", "centre", "bottom"))


def test_what_is_avoided_is_not_shown() -> None:
    rows = NoisyPairs(60, avoid=("red circle", "blue cross")).pool("train", 0)
    assert not any("red circle" in sample.texts[0].string or "blue cross" in sample.texts[0].string for sample in rows)


def test_equal_texts_are_one_group_in_the_test_rows_alone() -> None:
    test, train = NoisyPairs(30).pool("test", 0), NoisyPairs(30).pool("train", 0)
    assert all(sample.group == sample.texts[0].string for sample in test)
    assert not any(sample.group for sample in train)
