"""Plots for papers as SVG and PDF, each with its data as CSV: values over seeds, differences, curves over steps."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.core.disk.files import write_atomic
from diptych.core.errors import MissingExtra
from diptych.report.pages.side_by_side import over_seeds

PlotFormat = Literal["svg", "pdf", "png"]
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which readers tell apart who see colours otherwise."""
WIDTH, HEIGHT = 3.4, 2.4
"""Inches: a column of a page of two."""


@dataclass(frozen=True, slots=True)
class PaperPlot:
    """A plot and its data: `rows` under `head`, as the CSV holds them.

    kind     "intervals" draws a row for each name (value, low, high, seeds as points), "lines" a line for each (x, y)
    marks    vertical levels by name, such as chance
    """

    name: str
    kind: Literal["intervals", "lines"]
    label: str
    head: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    marks: Mapping[str, float]


def comparison_plots(plain: Mapping[str, Any]) -> list[PaperPlot]:
    """Plots of a comparison as `comparison.json` holds it: for each main measure the values of arms, and differences to the first."""
    plots = []
    for one in (measure for measure in plain["measures"] if measure["main"]):
        stem, label = f"{one['task']}-{one['split']}", f"{one['metric']}, {one['split']}"
        rows: list[tuple[Any, ...]] = []
        for arm in plain["arms"]:
            values = {seed: value for seed, value in one["values"].get(arm, {}).items() if value is not None}
            mean, low, high = over_seeds(list(values.values())) if values else (math.nan,) * 3
            rows += [(arm, seed, value, mean, low, high) for seed, value in values.items()]
        marks = {name: value for name, value in {"chance": one["chance"], **one.get("controls", {})}.items() if value is not None}
        head = ("arm", "seed", "value", "mean", "low", "high")
        plots.append(PaperPlot(f"{stem}-{one['metric']}", "intervals", label, head, tuple(rows), marks))
        contrasts = [c for c in one["contrasts"] if c["difference"] is not None]
        first = one["values"].get(plain["arms"][0], {})
        rows = [
            (c["arm"], seed, value - first[seed], c["difference"], c["low"], c["high"])
            for c in contrasts
            for seed, value in one["values"].get(c["arm"], {}).items()
            if value is not None and first.get(seed) is not None
        ]
        if rows:
            label = f"difference to {plain['arms'][0]} in {label}"
            plots.append(PaperPlot(f"{stem}-{one['metric']}-difference", "intervals", label, head, tuple(rows), {"": 0.0}))
    return plots


def run_plots(lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[PaperPlot]:
    """Curves over steps of one or several runs: the loss, and each metric of evaluations inside the run.

    lines  run -> lines of metrics.jsonl
    """
    wanted = {("train", "loss")}
    wanted |= {
        ("eval", key) for each in lines.values() for line in each if line.get("kind") == "eval" for key in line if "/" in key
    }
    plots = []
    for kind, key in sorted(wanted, key=lambda one: (one[0] != "train", one[1])):
        rows = [
            (run, line["step"], line[key])
            for run, each in lines.items()
            for line in each
            if line.get("kind") == kind and isinstance(line.get(key), int | float)
        ]
        if rows:
            plots.append(PaperPlot(key, "lines", key, ("run", "step", key), tuple(rows), {}))
    return plots


def write_plots(plots: Iterable[PaperPlot], folder: Path, formats: Sequence[PlotFormat] = ("svg", "pdf")) -> list[Path]:
    """Write each plot in every format, and its data as CSV, into a folder. Equal data give equal bytes. Raises MissingExtra without
    matplotlib."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plots", needed_for="drawing plots") from error
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    style = {"font.size": 8, "svg.hashsalt": "diptych", "svg.fonttype": "none", "pdf.fonttype": 42, "axes.spines.top": False,
             "axes.spines.right": False}  # fmt: skip
    for plot in plots:
        stem = folder / re.sub(r"[^A-Za-z0-9._@-]+", "-", plot.name)
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([plot.head, *plot.rows])
        write_atomic(stem.with_name(f"{stem.name}.csv"), table.getvalue())
        written.append(stem.with_name(f"{stem.name}.csv"))
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
            axes = figure.add_subplot()
            (_draw_intervals if plot.kind == "intervals" else _draw_lines)(axes, plot)
            for form in formats:
                file, made = stem.with_name(f"{stem.name}.{form}"), io.BytesIO()
                dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
                figure.savefig(made, format=form, metadata=dates, dpi=300)
                write_atomic(file, made.getvalue())
                written.append(file)
    return written


def _draw_intervals(axes: Any, plot: PaperPlot) -> None:
    """A row for each name from top to bottom: the mean with its interval, the seeds as points."""
    names = list(dict.fromkeys(row[0] for row in plot.rows))
    for at, name in enumerate(names):
        rows = [row for row in plot.rows if row[0] == name]
        _, _, _, mean, low, high = rows[0]
        colour = COLOURS[at % len(COLOURS)]
        axes.plot([row[2] for row in rows], [at] * len(rows), "o", color=colour, alpha=0.5, markersize=3)
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [at, at], color=colour, linewidth=1.5)
        axes.plot([mean], [at], "|", color=colour, markersize=12, markeredgewidth=2)
    for name, level in plot.marks.items():
        axes.axvline(level, color="0.6", linewidth=0.8, linestyle="--" if name else "-")
        if name:
            axes.text(level, len(names) - 0.4, name, rotation=90, va="bottom", ha="center", fontsize=6, color="0.4")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(plot.label)


def _draw_lines(axes: Any, plot: PaperPlot) -> None:
    names = list(dict.fromkeys(row[0] for row in plot.rows))
    for at, name in enumerate(names):
        points = [(row[1], row[2]) for row in plot.rows if row[0] == name]
        axes.plot(*zip(*points, strict=True), color=COLOURS[at % len(COLOURS)], linewidth=1, label=str(name))
    axes.set_xlabel("step")
    axes.set_ylabel(plot.label)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=7)
