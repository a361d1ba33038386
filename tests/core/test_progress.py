"""Bars: drawn where somebody watches, one at a time, and never a change of what is done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from diptych.core.terminal.progress import bar_allowed, with_bar
from diptych.data.load.features import FeatureTable
from diptych.models.io.inference import MANY, parts

Seen = Callable[[], str]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Seen:
    """What was drawn since it was asked last, with somebody watching."""
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return lambda: capsys.readouterr().err


@pytest.mark.parametrize("watched", [True, False])
def test_a_bar_names_its_work_where_somebody_watches(
    watched: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Console, "is_terminal", watched)
    monkeypatch.setenv("TERM", "xterm")
    assert list(with_bar("abc", 3, "letters")) == ["a", "b", "c"]
    keys = [f"k{row}" for row in range(5)]
    values = np.arange(5, dtype=np.float32)[:, None]
    table = FeatureTable.open_or_make(tmp_path / "t", keys, lambda rows: values[list(rows)], block=2, what="features of images")
    np.testing.assert_array_equal(table.rows(keys), values)
    out, said = capsys.readouterr()
    assert not out
    assert ("letters" in said and "features of images (5), once" in said) if watched else not said


def test_a_bar_counts_the_steps(drawn: Seen) -> None:
    assert list(with_bar("abc", 3, "letters")) == ["a", "b", "c"]
    seen = drawn()
    assert "letters" in seen
    assert "3/3" in seen


def test_few_steps_have_none(drawn: Seen) -> None:
    assert list(with_bar("abc", 3, "letters", least=4)) == ["a", "b", "c"]
    assert drawn() == ""


def test_steps_inside_a_step_are_a_line_below_it(drawn: Seen) -> None:
    assert [list(with_bar("xy", 2, "inside")) for _ in with_bar("abc", 3, "around")] == [["x", "y"]] * 3
    seen = drawn()
    assert "around" in seen
    assert "inside" in seen
    list(with_bar("xy", 2, "after"))  # the one around has gone
    seen = drawn()
    assert "after" in seen
    assert "around" not in seen


def test_none_is_drawn_over_another_kind_of_bar(drawn: Seen) -> None:
    """As where training, which draws its own, stops to evaluate."""
    with bar_allowed("training"):
        assert list(with_bar("xy", 2, "inside")) == ["x", "y"]
    assert drawn() == ""


def test_a_bar_that_ends_early_makes_room(drawn: Seen) -> None:
    next(with_bar("abc", 3, "letters"))  # nobody asks for the second
    with bar_allowed("next") as free:
        assert free


@pytest.mark.parametrize(("count", "bar"), [(MANY * 4, True), (MANY * 4 - 4, False)])
def test_what_goes_through_a_model_has_one(drawn: Seen, count: int, bar: bool) -> None:
    """All embedders, writers and detectors cut their inputs here: encoding, evaluation, curation by a model."""
    assert [len(part) for part in parts(range(count), 4)] == [4] * (count // 4)
    assert (f"{count} through the model" in drawn()) == bar
