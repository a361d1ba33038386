"""Raw features of a large set are made of some of its rows, evenly spaced, so that memory stays bounded."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.models.closed_form import features
from diptych.worlds.small_pairs import SmallPairs


def test_features_are_those_of_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SmallPairs(40).pool("train", 0)
    whole = features.raw_features(rows)
    features._cache.clear()
    monkeypatch.setattr(features, "MOST_ROWS", 4)
    some = features.raw_features(rows)
    features._cache.clear()
    assert len(whole.texts) == 40
    np.testing.assert_array_equal(some.pixels_ND, whole.pixels_ND[[0, 13, 26, 39]])
    assert some.texts == [whole.texts[row] for row in (0, 13, 26, 39)]
