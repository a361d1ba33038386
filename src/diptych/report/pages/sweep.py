"""Report of a sweep: importance of fields, a slice for each, values over trials, every trial in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diptych.core.disk.files import write_atomic
from diptych.report import page
from diptych.report.curves import charts, ticks
from diptych.report.escape import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 420, 240, 52, 40, 10
COLOURS = {"finished": "var(--s0)", "pruned": "var(--s1)"}


def sweep_page(path: Path, plain: Mapping[str, Any], logs: Mapping[str, bool]) -> Path:
    """Write the page of a sweep.

    plain  as `Sweep.to_json` gives it
    logs   by field, whether its axis is logarithmic
    """
    trials, metric = plain["trials"], plain["metric"]
    best = plain["best"]
    lead = f"{len(trials)} trials over {', '.join(plain['over'])}."
    cards = [(f"{best['value']:.4f}", f"{metric} of trial {best['trial']}, the best")] if best else []
    slices = [slice_chart(name, metric, trials, log=log) for name, log in logs.items()]
    columns = list(trials[0]) if trials else []
    table = page.table(columns, [[_cell(trial[name]) for name in columns] for trial in trials]) if trials else ""
    sections = [
        page.Section("Result", (page.cards(cards) if cards else "",)),
        page.Section("Importance", (importance_chart(plain["importance"]),) if plain["importance"] else ()),
        page.Section(
            "Slices", (charts(slices), page.text("Blue: finished; other: pruned, at the last step measured.", note=True))
        ),
        page.Section("Trials", (charts([slice_chart("trial", metric, trials)]), table)),
    ]
    write_atomic(path, page.page("Sweep", lead, sections))
    return path


def importance_chart(shares: Mapping[str, float]) -> str:
    """Bars of the share of the variance between trials that each field explains."""
    rows = []
    for row, (name, share) in enumerate(shares.items()):
        y = 20 + 26 * row
        rows.append(f'<text x="150" y="{y + 4}" text-anchor="end">{escape(name)}</text>')
        rows.append(f'<rect x="160" y="{y - 8}" width="{max(1.0, 200 * share):.1f}" height="16" fill="var(--s0)"/>')
        rows.append(f'<text x="{168 + 200 * share:.1f}" y="{y + 4}">{share:.2f}</text>')
    height = 20 + 26 * len(shares)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="importance of fields">{"".join(rows)}</svg>'


def slice_chart(name: str, metric: str, trials: Sequence[Mapping[str, Any]], *, log: bool = False) -> str:
    """Points of a metric over one field; choices that are no numbers stand side by side."""
    points = [(trial[name], trial[metric], trial["state"]) for trial in trials if trial.get(metric) is not None and name in trial]
    points = [(x, y, state) for x, y, state in points if state in COLOURS]
    if not points:
        return ""
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x, _, _ in points)
    labels = [] if numeric else sorted({str(x) for x, _, _ in points})
    placed = [(math.log10(x) if log else float(x)) if numeric else float(labels.index(str(x))) for x, _, _ in points]
    low, high = (min(placed), max(placed)) if numeric else (-0.5, len(labels) - 0.5)
    high = high if high > low else low + 1
    levels = ticks(min(y for _, y, _ in points), max(y for _, y, _ in points))
    bottom, top = levels[0], levels[-1] if levels[-1] > levels[0] else levels[0] + 1
    right = WIDTH - 10

    def at(x: float) -> float:
        return LEFT + (x - low) / (high - low) * (right - LEFT - 12) + 6

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - BOTTOM - TOP)

    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{up(y):.1f}" y2="{up(y):.1f}" stroke="var(--line)"/>' for y in levels
    ]
    parts += [f'<text x="{LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:g}</text>' for y in levels]
    marks = [(low, low), (high, high)] if numeric else [(float(position), label) for position, label in enumerate(labels)]
    for x, label in marks:
        words = f"{10**x:.2g}" if numeric and log else f"{x:.4g}" if numeric else str(label)
        parts.append(f'<text x="{at(x):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(words)}</text>')
    for x, (_, y, state) in zip(placed, points, strict=True):
        parts.append(f'<circle cx="{at(x):.1f}" cy="{up(y):.1f}" r="4" fill="{COLOURS[state]}" fill-opacity=".7"/>')
    title = escape(name)
    return (
        f'<div><h3>{title}</h3><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg></div>'
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
