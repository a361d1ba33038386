"""Tables for papers: means, deviations and marks are those of the comparison, LaTeX is escaped, CSV reads back."""

from __future__ import annotations

import csv
import io
import statistics
from typing import Any

import pytest

from diptych.cli import main
from diptych.report.paper_table import comparison_table, latex_escape


def comparison(p_holm: float = 0.01, verdict: str = "shown") -> dict[str, Any]:
    contrast = {"arm": "hard_neg", "difference": 0.1, "low": 0.05, "high": 0.15, "p_holm": p_holm, "verdict": verdict}
    measure = {
        "task": "retrieval", "split": "test", "metric": "r@1", "main": True, "chance": 0.01, "controls": {"raw ridge": 0.08},
        "values": {"clip": {"0": 0.2, "1": 0.3, "2": 0.4}, "hard_neg": {"0": 0.3, "1": 0.4, "2": 0.5}}, "contrasts": [contrast],
    }  # fmt: skip
    other = {**measure, "metric": "mrr", "main": False}
    return {"arms": ["clip", "hard_neg"], "seeds": [0, 1, 2], "tasks": ["retrieval"], "budget": "steps:5", "measures": [measure, other],
            "data": {"name": "emoji", "fingerprint": "abc"}}  # fmt: skip


def test_cells_are_mean_deviation_difference_and_mark() -> None:
    table = comparison_table(comparison())
    spread = statistics.stdev([0.2, 0.3, 0.4])
    assert table.rows[0] == ("clip", f"0.300 ({spread:.3f})", "")
    assert table.rows[1] == ("hard_neg", f"0.400 ({spread:.3f})", "+0.100 [+0.050, +0.150]*")
    assert table.rows[2:] == (("raw ridge", "0.080", ""), ("chance", "0.010", ""))
    assert not comparison_table(comparison(p_holm=0.06)).rows[1][2].endswith("*")
    assert not comparison_table(comparison(verdict="no verdict")).rows[1][2].endswith("*")
    assert comparison_table(comparison(), points=True).rows[1][1] == "40.0 (10.0)"
    assert len(comparison_table(comparison(), every=True).head) == 5


def test_the_formats_hold_the_same_cells() -> None:
    table = comparison_table(comparison())
    assert list(csv.reader(io.StringIO(table.text("csv")))) == [list(table.head), *map(list, table.rows)]
    latex = table.text("latex")
    assert r"hard\_neg & 0.400 (0.100) & $+$0.100 [+0.050, +0.150]* \\" in latex
    assert latex.count(r"\\") == 5
    assert r"\begin{tabular}{lrr}" in latex
    assert table.text("md").splitlines()[2] == "| clip | 0.300 (0.100) |  |"
    assert latex_escape("a_b & 5 % {x}") == r"a\_b \& 5 \% \{x\}"


@pytest.mark.parametrize("words", [["nowhere"], []])
def test_what_is_no_comparison_is_one_line(words: list[str], tmp_path: Any, capsys: Any) -> None:
    if not words:
        (tmp_path / "comparison.json").write_text('{"measures": 3}')
        words = [str(tmp_path)]
    assert main(["table", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "is neither a run folder nor one comparison" in error or "is not a comparison" in error
