"""Histogram of a score: every bin is shown, also of scores that are close together."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.report.pages.threshold import edge_labels, threshold_page


@pytest.mark.parametrize(
    ("low", "high"), [(0.9990, 0.9999), (1000.0, 1001.0), (1e-22, 1.0), (-3.0, 2.0), (0.0, 1e9), (1e9, 1e9 + 1e-3)]
)
def test_labels_of_bins_differ_and_are_in_them(low: float, high: float) -> None:
    edge_B = np.linspace(low, high, 21)
    labels = edge_labels(edge_B)
    assert len(set(labels)) == 20
    assert np.abs(np.array(labels, float) - edge_B[:-1]).max() <= (edge_B[1] - edge_B[0]) / 10


def test_no_bin_of_a_narrow_range_is_lost() -> None:
    """Labels of three digits are the same for most of these bins."""
    score_N = np.linspace(0.9991, 0.9999, 40)
    data = Pool.from_samples([Sample(f"s{row}", None, (Text("a"),)) for row in range(40)])
    rows = np.arange(40)
    html = threshold_page(data, score_N, rows[:0], rows[:0], name="score", threshold=0.99951, title="t", lead="l")
    assert "Threshold 0.99951." in html
    assert all(f">{label}<" in html for label in edge_labels(np.histogram(score_N, bins=20)[1]))
