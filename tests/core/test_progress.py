"""Bars are for who watches: on a terminal they say what is done, elsewhere nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from diptych.core.progress import shown
from diptych.data.load.features import FeatureTable


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_names_its_work_where_somebody_watches(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "is_terminal", watched)
    monkeypatch.setenv("TERM", "xterm")
    assert list(shown("abc", 3, "letters")) == ["a", "b", "c"]
    keys = [f"k{row}" for row in range(5)]
    values = np.arange(5, dtype=np.float32)[:, None]
    table = FeatureTable.made(tmp_path / "t", keys, lambda rows: values[list(rows)], block=2, what="features of images")
    np.testing.assert_array_equal(table.rows(keys), values)
    out, said = capsys.readouterr()
    assert not out
    assert ("letters" in said and "features of images (5), once" in said) if watched else not said
