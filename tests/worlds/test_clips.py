"""Clips: a function of seed, split and number; every class is its partner read backwards."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.worlds.clips import CLASSES, PAIRS, PARTNER, ClipWorld, clips
from diptych.worlds.resolve import resolve


def frames(row: int, **options: int) -> np.ndarray:
    return clips(row + 1, **options)[row].media["clip"].decode()


def test_a_clip_is_a_function_of_its_number() -> None:
    assert np.array_equal(frames(3), frames(3))
    assert not np.array_equal(frames(3), frames(3, seed=1))
    assert frames(0, length=6, size=32).shape == (6, 32, 32, 3)
    sample = clips(1)[0]
    assert sample.extras["label"] in CLASSES
    assert sample.texts[0].string == f"a {sample.extras['colour']} {sample.extras['shape']} {sample.extras['label']}"
    assert {s.extras["label"] for s in clips(60)} == set(CLASSES)
    assert resolve("world:clips?n=8").split_names == ("train", "val", "test")


def test_what_each_class_does() -> None:
    """Where the coloured pixels are, over time."""
    seen = set()
    for sample in clips(120):
        label = sample.extras["label"]
        thing = np.abs(sample.media["clip"].decode().astype(float) - 64).max(-1) > 60
        where = [np.argwhere(frame) for frame in thing]
        area = np.array([len(place) for place in where])
        if label in ("appearing", "vanishing"):
            change = area[-3:].sum() - area[:3].sum()
            assert (change > 0) == (label == "appearing")
        elif label in ("growing", "shrinking"):
            assert (area[-1] > 1.5 * area[0]) == (label == "growing")
            assert (area[0] > 1.5 * area[-1]) == (label == "shrinking")
        else:
            (y0, x0), (y1, x1) = where[0].mean(0), where[-1].mean(0)
            moved = {
                "moving left": x1 < x0 - 9,
                "moving right": x1 > x0 + 9,
                "moving up": y1 < y0 - 9,
                "moving down": y1 > y0 + 9,
            }
            assert [name for name, found in moved.items() if found] == [label]
        seen.add(label)
    assert seen == set(CLASSES)


def test_reversed_in_time_a_class_is_its_partner() -> None:
    """In distribution: the mean clip of a class, frame by frame, is that of its partner backwards."""
    assert sorted(name for pair in PAIRS for name in pair) == sorted(CLASSES)
    by_label: dict[str, list[np.ndarray]] = {name: [] for name in CLASSES}
    for sample in clips(600):
        by_label[sample.extras["label"]].append(sample.media["clip"].decode().astype(float).mean(-1))
    for first, second in PAIRS:
        assert PARTNER[PARTNER[first]] == first
        ahead, back = np.mean(by_label[first], 0), np.mean(by_label[second], 0)[::-1]
        still = np.abs(ahead - np.mean(by_label[second], 0)).mean()
        assert np.abs(ahead - back).mean() < 0.5 * still


def test_refused() -> None:
    with pytest.raises(ConfigError, match="clips of 1 frames and 48 pixels"):
        ClipWorld(length=1)
