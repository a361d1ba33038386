"""Plots for papers: the data beside a plot are what was drawn, files open as what they are, equal data give equal bytes."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from diptych.cli import main
from diptych.report.paper_plots import comparison_plots, run_plots, write_plots

from .test_paper_table import comparison


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_comparison_gives_values_and_differences_with_their_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "comparison.json").write_text(json.dumps(comparison()))
    assert main(["plot", str(tmp_path), "--out", str(tmp_path / "plots"), "--json"]) == 0
    files = {Path(file).name for file in json.loads(capsys.readouterr().out)["files"]}
    stems = ("retrieval-test-r@1", "retrieval-test-r@1-difference")
    assert files == {f"{stem}.{form}" for stem in stems for form in ("svg", "pdf", "csv")}
    rows = rows_of(tmp_path / "plots" / "retrieval-test-r@1.csv")
    assert [(row["arm"], float(row["value"])) for row in rows][:3] == [("clip", 0.2), ("clip", 0.3), ("clip", 0.4)]
    mean, half = 0.3, 4.302652729911275 * 0.1 / math.sqrt(3)
    assert [float(rows[0][name]) for name in ("mean", "low", "high")] == pytest.approx([mean, mean - half, mean + half])
    differences = rows_of(tmp_path / "plots" / "retrieval-test-r@1-difference.csv")
    assert [float(row["value"]) for row in differences] == pytest.approx([0.1] * 3)
    assert (tmp_path / "plots" / "retrieval-test-r@1.pdf").read_bytes().startswith(b"%PDF")
    drawn = (tmp_path / "plots" / "retrieval-test-r@1.svg").read_text()
    assert {"hard_neg", "chance", "raw ridge"} <= set(re.findall(r">([^<>]+)</text>", drawn))  # text stays text


def test_curves_of_runs_and_equal_bytes(tmp_path: Path) -> None:
    lines: list[dict[str, Any]] = [{"step": 1, "kind": "train", "loss": 2.0}, {"step": 2, "kind": "train", "loss": None}]
    lines += [{"step": 3, "kind": "train", "loss": 1.0}, {"step": 3, "kind": "eval", "retrieval-val/r@1": 0.5}]
    plots = run_plots({"a": lines, "b": lines[:1]})
    assert [(plot.name, plot.rows) for plot in plots] == [
        ("loss", (("a", 1, 2.0), ("a", 3, 1.0), ("b", 1, 2.0))), ("retrieval-val/r@1", (("a", 3, 0.5),)),
    ]  # fmt: skip
    for name in ("one", "two"):
        write_plots([*plots, *comparison_plots(comparison())], tmp_path / name)
    one = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert one == {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()}
    assert "retrieval-val-r@1.svg" in one


def test_what_cannot_be_plotted_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", str(tmp_path / "nowhere")]) == 2
    assert "neither a run folder nor one comparison" in capsys.readouterr().err
