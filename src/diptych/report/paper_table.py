"""Tables for papers: Markdown, LaTeX (booktabs) or CSV, from the same cells."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["md", "latex", "csv"]
MARKED = 0.05
"""Level of Holm-corrected p below which a difference is marked."""


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Head and rows of words; `notes` say what the columns and marks are."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def text(self, form: Format) -> str:
        """The table in one of the formats; CSV has no notes."""
        if form == "csv":
            made = io.StringIO()
            csv.writer(made, lineterminator="\n").writerows([self.head, *self.rows])
            return made.getvalue()
        return _latex(self) if form == "latex" else _markdown(self)


def comparison_table(plain: Mapping[str, Any], *, every: bool = False, points: bool = False) -> PaperTable:
    """Arms by measures of a comparison, as `comparison.json` holds it.

    A cell has the mean over seeds and its standard deviation (n - 1); the column after it the difference to the first arm with its 95 %
    interval, marked with * where Holm-corrected p is below .05 and there is a verdict. Chance and raw-input controls are rows below.

    every   all metrics, not the main one of each task and split alone
    points  in hundredths
    """
    measures = [one for one in plain["measures"] if every or one["main"]]
    data, seeds = plain["data"], len(plain["seeds"])
    head, notes = ["arm"], [f"{plain['budget']}; {seeds or 1} seeds; data {data['name']} ({data['fingerprint']})"]
    for one in measures:
        name = f"{one['split']} {one['metric']}" if len(plain["tasks"]) == 1 else f"{one['task']} {one['split']} {one['metric']}"
        head += [name, f"{name}, difference"]
    rows = []
    for arm in plain["arms"]:
        row = [arm]
        for one in measures:
            values = list(one["values"].get(arm, {}).values())
            factor, digits = _scale(one, points)
            contrast = next((c for c in one["contrasts"] if c["arm"] == arm), None)
            row += [_mean(values, factor, digits), _difference(contrast, factor, digits)]
        rows.append(tuple(row))
    controls = dict.fromkeys(name for one in measures for name in one.get("controls", {}))
    for name in controls:
        cells = [[_number(one["controls"].get(name), *_scale(one, points)), ""] for one in measures]
        rows.append((name, *(cell for pair in cells for cell in pair)))
    if any(one["chance"] is not None for one in measures):
        cells = [[_number(one["chance"], *_scale(one, points)), ""] for one in measures]
        rows.append(("chance", *(cell for pair in cells for cell in pair)))
    notes.append(
        "mean (standard deviation over seeds); difference to the first arm [95 % interval]; * Holm-corrected p below .05"
    )
    return PaperTable(tuple(head), tuple(rows), tuple(notes))


def runs_table(results: Mapping[str, Mapping[str, Any]], *, points: bool = False) -> PaperTable:
    """Runs by held-out splits: the main metric with its interval over test items, and the level of chance.

    results  run -> split -> `Result`
    """
    splits = list(dict.fromkeys(split for parts in results.values() for split in parts))
    head, rows = ["run"], []
    for split in splits:
        example = next(parts[split] for parts in results.values() if split in parts)
        head.append(f"{split} {example.main}")
    chance: list[str] = ["chance"]
    for run, parts in results.items():
        row = [run]
        for split in splits:
            metric = parts[split].metrics[parts[split].main] if split in parts else None
            factor, digits = (100.0, 1) if points and metric and metric.unit == "share" else (1.0, 3)
            row.append("" if metric is None else _interval(metric.value, metric.low, metric.high, factor, digits))
        rows.append(tuple(row))
    for split in splits:
        metric = next(parts[split].metrics[parts[split].main] for parts in results.values() if split in parts)
        factor, digits = (100.0, 1) if points and metric.unit == "share" else (1.0, 3)
        chance.append(_number(metric.chance, factor, digits))
    return PaperTable(tuple(head), (*rows, tuple(chance)), ("value [95 % interval over test items of one run]",))


def _scale(measure: Mapping[str, Any], points: bool) -> tuple[float, int]:
    """Factor and digits: hundredths where asked for and the metric is a share."""
    values = [value for by_seed in measure["values"].values() for value in by_seed.values() if value is not None]
    share = bool(values) and all(0 <= value <= 1 for value in values)
    return (100.0, 1) if points and share else (1.0, 3)


def _mean(values: Sequence[float | None], factor: float, digits: int) -> str:
    given = [factor * value for value in values if value is not None and math.isfinite(value)]
    if not given:
        return ""
    spread = f" ({statistics.stdev(given):.{digits}f})" if len(given) > 1 else ""
    return f"{statistics.fmean(given):.{digits}f}{spread}"


def _difference(contrast: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    if contrast is None or contrast["difference"] is None:
        return ""
    marked = "*" if contrast["p_holm"] is not None and contrast["p_holm"] < MARKED and contrast["verdict"] != "no verdict" else ""
    return _interval(contrast["difference"], contrast["low"], contrast["high"], factor, digits, sign="+") + marked


def _interval(value: float, low: float | None, high: float | None, factor: float, digits: int, sign: str = "") -> str:
    shown = f"{factor * value:{sign}.{digits}f}"
    if low is None or high is None or not math.isfinite(low) or not math.isfinite(high):
        return shown
    return f"{shown} [{factor * low:{sign}.{digits}f}, {factor * high:{sign}.{digits}f}]"


def _number(value: float | None, factor: float, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{factor * value:.{digits}f}"


def _markdown(table: PaperTable) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    lines = [line(table.head), "|" + "---|" * len(table.head), *map(line, table.rows)]
    return "\n".join([*lines, "", *(f"{note}." for note in table.notes)]) + "\n"


SPECIAL = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
           "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}  # fmt: skip


def latex_escape(text: str) -> str:
    """Text with LaTeX's own characters written out."""
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _latex(table: PaperTable) -> str:
    def line(cells: Sequence[str]) -> str:
        # Signs in mathematics, where a minus is no hyphen.
        words = [latex_escape(cell) for cell in cells]
        return (
            "  "
            + " & ".join(f"${word[0]}${word[1:]}" if word[:1] in "+-" and word[1:2].isdigit() else word for word in words)
            + r" \\"
        )

    body = [line(table.head), r"  \midrule", *map(line, table.rows)]
    note = [f"% {note}." for note in table.notes]
    begin = [*note, r"\begin{tabular}{l" + "r" * (len(table.head) - 1) + "}", r"  \toprule"]
    return "\n".join([*begin, *body, r"  \bottomrule", r"\end{tabular}"]) + "\n"
