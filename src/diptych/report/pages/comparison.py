"""Page of a comparison: verdicts in sentences, charts and a table; cost, curves, items won and lost, differences of configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diptych.core.contracts import Dataset
from diptych.core.disk.files import write_atomic
from diptych.core.run_folder import RunFolder
from diptych.report import page
from diptych.report.comparison_result import ComparisonResult, Contrast, Measure
from diptych.report.curves import WIDTH, Bar, LineSeries, charts, interval_chart, legend, line_chart, ticks
from diptych.report.escape import escape
from diptych.report.pages.side_by_side import over_seeds
from diptych.report.pictures import Album
from diptych.report.won_and_lost import won_and_lost


def comparison_report(path: Path, measured: ComparisonResult, data: Dataset | None = None) -> Path:
    """Writes the page and returns its path. With `data`, the items that one arm gets right and another does not have pictures."""
    sections = [
        page.Section("Result", _result(measured)),
        page.Section("Cost", _cost(measured)),
        page.Section("Learning curves", () if measured.given else _curves(measured)),
        *([page.Section("Won and lost", won_and_lost(measured, Album(data)))] if data is not None else []),
        page.Section("What was different", _differences(measured)),
        page.Section("All numbers", _all_numbers(measured)),
        page.Section("How it was made", _origin_blocks(measured)),
    ]
    made = measured.environment
    footer = f"commit {made.get('commit') or 'unknown'}, {made.get('cores')} cores, {made.get('memory_gib')} GiB"
    title = f"{_listed(measured.arms)} on {measured.data['name']}"
    write_atomic(path, page.page(title, _lead(measured), [s for s in sections if s.blocks], footer=footer))
    return path


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _lead(m: ComparisonResult) -> str:
    if m.given:
        return f"{len(m.arms)} models as they are, on the same items. The results hold for these models, not for their recipes."
    seeds = f"{len(m.seeds)} seeds" if len(m.seeds) > 1 else "one seed"
    rows = f"{m.data['training_rows']:,} training rows"
    unseen = f" Nothing was scored on {_listed(m.unseen)} yet." if m.unseen else ""
    return (
        f"{seeds} a recipe, each under a budget of {m.budget.replace(':', ' ')}; {rows}, the same for all, and held-out splits."
        + unseen
    )


# ---------------------------------------------------------------- result


def _result(m: ComparisonResult) -> tuple[str, ...]:
    sentences = [summary(m, arm) for arm in m.arms[1:]]
    failed = [f"{f.arm}, seed {f.seed}, has no result: {f.reason}" for f in m.failures]
    shown = []
    for measure in m.main_measures:
        bars = [_bar(measure, arm, colour) for colour, arm in enumerate(m.arms) if measure.values.get(arm)]
        both = interval_chart(_name(measure), bars), difference_chart(f"difference to {m.arms[0]}: {_split(measure)}", m, measure)
        shown.append(charts([chart for chart in both if chart]))
    dots = "one model" if m.given else "the mean over seeds, dots are seeds, the bar is its 95 % t interval"
    note = f"Thick tick: {dots}. Dashed tick: chance. Right of zero is better for metrics where more is better."
    return (
        page.lines(sentences),
        page.lines(failed, warn=True) if failed else "",
        *shown,
        legend([(arm, colour) for colour, arm in enumerate(m.arms)]),
        page.text(note, note=True),
        _table(m),
        page.text(_rule(m), note=True),
    )


def summary(m: ComparisonResult, arm: str) -> str:
    """Sentence with the verdicts of one arm; differences in brackets."""
    verdicts: dict[str, list[str]] = {}
    for measure in m.main_measures:
        for c in measure.contrasts:
            if c.arm == arm:
                by = f" ({_signed(c.difference)})" if math.isfinite(c.difference) else ""
                verdicts.setdefault(c.verdict, []).append(_where(m, measure) + by)
    words = {
        "shown": "shown to be better on",
        "reversed": "shown to be worse on",
        "equal within the margin": "equal within the margin on",
        "open": "open on",
        "no verdict": "no verdict on",
    }
    return f"{arm} against {m.arms[0]}: " + "; ".join(f"{words[v]} {_listed(verdicts[v])}" for v in words if v in verdicts) + "."


def _where(m: ComparisonResult, measure: Measure) -> str:
    """Split of a measure, and the metric if there are several."""
    return _split(measure) if len(m.tasks) == 1 else f"{measure.task.partition(':')[0]} {measure.metric} of {_split(measure)}"


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def _split(measure: Measure) -> str:
    return measure.split.replace("_", " ")


def _name(measure: Measure) -> str:
    return f"{measure.task.partition(':')[0].replace('_', ' ')} {measure.metric}: {_split(measure)}"


def _brief(name: str) -> str:
    """Name shortened to the room of a chart."""
    return name if len(name) <= 28 else f"{name[:14]}…{name[-13:]}"


def _bar(measure: Measure, arm: str, colour: int) -> Bar:
    values = tuple(measure.values[arm].values())
    mean, low, high = over_seeds(values)
    return Bar(_brief(arm), mean, low, high, values if len(values) > 1 else (), measure.chance, colour)


def difference_chart(title: str, m: ComparisonResult, measure: Measure) -> str:
    """Interval chart of differences, one row an arm: its interval, its seeds as dots, and a line at zero."""
    rows = [c for c in measure.contrasts if math.isfinite(c.difference)]
    if not rows:
        return ""
    width, left, right, row, top, bottom = WIDTH, 22, 66, 44, 14, 30  # the name of an arm stands above its row
    height = top + row * len(rows) + bottom
    first = measure.values[m.arms[0]]
    dots = {c.arm: [v - first[s] for s, v in measure.values[c.arm].items() if s in first] for c in rows}
    ends = [v for c in rows for v in (c.low, c.high, c.difference, *dots[c.arm]) if math.isfinite(v)]
    marks = ticks(min(0.0, *ends), max(0.0, *ends)) if any(ends) else [-0.01, 0.0, 0.01]

    def x(value: float) -> float:
        return left + (value - marks[0]) / (marks[-1] - marks[0]) * (width - left - right)

    parts = []
    for mark in marks:
        colour = "var(--soft)" if mark == 0 else "var(--line)"
        parts.append(f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="{top}" y2="{height - bottom}" stroke="{colour}"/>')
        parts.append(f'<text x="{x(mark):.1f}" y="{height - 10}" text-anchor="middle">{mark:g}</text>')
    for index, c in enumerate(rows):
        y, colour = top + row * (index + 0.66), f"var(--s{m.arms.index(c.arm) % 6})"
        parts.append(f'<text x="{left}" y="{y - 14:.1f}">{escape(_brief(c.arm))}</text>')
        if math.isfinite(c.low):
            span = f'x1="{x(c.low):.1f}" x2="{x(c.high):.1f}"'
            parts.append(f'<line {span} y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3" stroke-opacity=".45"/>')
        if not m.given:
            parts += [f'<circle cx="{x(d):.1f}" cy="{y}" r="3.2" fill="{colour}" fill-opacity=".75"/>' for d in dots[c.arm]]
        at = x(c.difference)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y - 8}" y2="{y + 8}" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{width - right + 12}" y="{y + 4}">{_signed(c.difference)}</text>')
    name = escape(title)
    return f'<div><h3>{name}</h3><svg viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg></div>'


def _table(m: ComparisonResult) -> str:
    rows: list[tuple[object, ...]] = []
    for measure in m.main_measures:
        by_arm = {c.arm: c for c in measure.contrasts}
        for arm in m.arms:
            c = by_arm.get(arm)
            span = f"{_signed(c.difference)} [{_signed(c.low)}, {_signed(c.high)}]" if c and math.isfinite(c.low) else ""
            runs = "" if not (c and c.items) else f"[{_signed(c.items.low)}, {_signed(c.items.high)}]"
            rows.append(
                (
                    _where(m, measure) if arm == m.arms[0] else "",
                    arm,
                    measure.mean(arm),
                    span or (_signed(c.difference) if c else "reference"),
                    "" if c is None or math.isnan(c.p_holm) else f"{c.p_holm:.3g}",
                    "" if c is None else c.verdict + (f" ({c.why})" if c.why else ""),
                    *([] if m.given else [runs]),
                    _needed(m, c) if c else "",
                )
            )
    p = "p (Holm)" if len(m.arms) > 2 else "p"
    interval = "difference [95 % over items]" if m.given else "difference [95 % t over seeds]"
    head = ("held out", "arm", "mean", interval, p, "verdict", *([] if m.given else ["for these runs only"]), "1 point needs")
    return page.table(head, rows)


def _rule(m: ComparisonResult) -> str:
    if m.given:
        return (
            "The interval resamples whole groups of items, the same for both models; p comes from random sign flips of the groups' "
            "differences. It speaks about these two models; trained again, they might differ otherwise. '1 point needs': so many "
            "independent items would show a difference of .01 with power .8."
        )
    words = (
        f"What decides are t tests over seed-paired differences at .05; a verdict needs three seeds. A difference of "
        f"{m.margins[0]:g} matters; arms closer than {m.margins[1]:g} by two one-sided tests are equal; what neither settles is open. "
        "'For these runs only' is the interval over test items (whole groups resampled) of the first seed's two runs: it says "
        "nothing about the recipes."
    )
    words += " '1 point needs': so many seeds would show a difference of .01 with power .8, if the spread stays what it was here."
    if len(m.arms) > 2:
        words += " p is adjusted (Holm) for the number of arms within a split and metric, not over splits and metrics."
    return words


def _needed(m: ComparisonResult, c: Contrast) -> str:
    """Number of items or seeds that would show a difference of one point."""
    if m.given:
        return f"{c.items_a_point:,} items" if c.items_a_point else ""
    return "" if not c.seeds_a_point else "10,000 seeds or more" if c.seeds_a_point >= 10_000 else f"{c.seeds_a_point:,} seeds"


# ---------------------------------------------------------------- cost, curves


def _cost(m: ComparisonResult) -> tuple[str, ...]:
    if m.given:
        rows: list[tuple[object, ...]] = [(c.arm, _number(c.wall_seconds, 1)) for c in m.costs]
        return (page.table(("model", "seconds to score"), rows),)
    head = (
        "arm",
        "steps",
        "batch",
        "samples seen",
        "parameters",
        "trained",
        "wall s",
        "CPU s",
        "training s",
        "images/s",
        "peak MiB",
    )
    rows = [
        (
            *(c.arm, c.steps, c.batch_size, c.samples, c.parameters, c.trained_parameters),
            *(_number(seconds) for seconds in (c.wall_seconds, c.cpu_seconds, c.train_seconds)),
            *(_number(c.images_per_second), _number(c.peak_memory / 2**20)),
        )
        for c in m.costs
    ]
    note = (
        "Means over the cells of an arm, each in a process of its own. Wall and CPU time run from the preparation of the recipe to the "
        "last score; cells that were stopped and went on are left out of both. Peak memory is that of the whole process."
    )
    return (page.table(head, rows), page.text(note, note=True))


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "–"


def _curves(m: ComparisonResult) -> tuple[str, ...]:
    shown = []
    for colour, arm in enumerate(m.arms):
        runs = [list(RunFolder(Path(path)).metrics()) for path in m.folders.get(arm, {}).values()]
        both = []
        for over, of in (("steps", _over_steps), ("seconds", _over_seconds)):
            lines = [LineSeries(arm, points, colour) for run in runs if (points := of(run))]
            both.append(line_chart(f"loss of {arm} over {over}", lines, x_label=""))
        shown.append(charts([chart for chart in both if chart]))
    note = "One line a seed. Losses of different recipes are different quantities: compare their shapes, not their heights."
    return (*shown, page.text(note, note=True)) if any(shown) else ()


def _train(run: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in run if line.get("kind") == "train" and isinstance(line.get("loss"), int | float)]


def _over_steps(run: list[dict[str, Any]]) -> tuple[tuple[float, float], ...]:
    return tuple((line["step"], line["loss"]) for line in _train(run))


def _over_seconds(run: list[dict[str, Any]]) -> tuple[tuple[float, float], ...]:
    spent, last, points = 0.0, 0, []
    for line in _train(run):
        spent += (line.get("seconds") or 0.0) * (line["step"] - last)
        last = line["step"]
        points.append((spent, line["loss"]))
    return tuple(points)


# ---------------------------------------------------------------- configuration, numbers, environment


def _differences(m: ComparisonResult) -> tuple[str, ...]:
    if m.given:
        return ()
    fields = m.differing_fields()
    if not fields:
        return (page.text("Nothing: the arms have equal configurations."),)
    rows = [(name, *(_short(values[arm]) if arm in values else "–" for arm in m.arms)) for name, values in fields.items()]
    note = "Only the fields that are not equal in all arms. Everything else (rows, order, seeds, evaluation) is the same."
    return (page.table(("field", *m.arms), rows), page.text(note, note=True))


def _short(value: Any) -> str:
    words = f"{value:g}" if isinstance(value, float) else str(value)
    return words if len(words) <= 80 else f"{words[:77]}..."


def _all_numbers(m: ComparisonResult) -> tuple[str, ...]:
    blocks = []
    for task in m.tasks:
        for split in dict.fromkeys(measure.split for measure in m.measures if measure.task == task):
            measures = [measure for measure in m.measures if (measure.task, measure.split) == (task, split)]
            head = ("metric", *m.arms, "chance", *(f"{arm} − {m.arms[0]}" for arm in m.arms[1:]))
            rows = [
                (
                    *(x.metric, *(x.mean(arm) for arm in m.arms), "" if math.isnan(x.chance) else f"{x.chance:.4f}"),
                    *(_signed(c.difference) if math.isfinite(c.difference) else "–" for c in x.contrasts),
                )
                for x in measures
            ]
            size = f"{measures[0].n_items:,} items in {measures[0].n_groups:,} groups"
            blocks += [page.heading(f"{task} on {split.replace('_', ' ')}: {size}"), page.table(head, rows)]
    return tuple(blocks)


def _origin_blocks(m: ComparisonResult) -> tuple[str, ...]:
    return (
        page.folded("Models" if m.given else "Configurations", json.dumps(m.configs, indent=2, ensure_ascii=False))
        if m.configs
        else "",
        page.folded("Data", json.dumps(m.data, indent=2, ensure_ascii=False)),
        page.folded("Environment", json.dumps(m.environment, indent=2)),
    )
