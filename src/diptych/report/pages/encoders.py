"""Page of encoders under one protocol: a table with ranks, differences to the best, and what settings of the head do to their order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from diptych.core.disk.files import write_atomic
from diptych.core.errors import ConfigError
from diptych.core.result import Metric, Result
from diptych.report import page
from diptych.report.curves import LineSeries, charts, legend, line_chart
from diptych.report.pages.worst_cases import WorstCase, worst_case_blocks
from diptych.report.paper_table import PaperTable

GROUP = "auroc/"
"""Beginning of the names of metrics by group."""
Difference = tuple[float, float, float]
"""Value and 95 % interval."""


@dataclass(frozen=True, slots=True)
class EncoderRank:
    """An encoder with its metrics, its rank in each (1 is best, equal values share the mean of their ranks) and the mean of its ranks."""

    name: str
    metrics: Mapping[str, Metric]
    ranks: Mapping[str, float]

    @property
    def average(self) -> float:
        """Mean rank."""
        return sum(self.ranks.values()) / len(self.ranks)


def ranked_encoders(results: Mapping[str, Result], metrics: Sequence[str]) -> list[EncoderRank]:
    """Encoders by their average rank, the best first. Raises ConfigError for a metric that a result lacks."""
    for name, result in results.items():
        if missing := [metric for metric in metrics if metric not in result.metrics]:
            raise ConfigError(f"'{name}' has no {missing[0]} (expected {', '.join(result.metrics)})")
    ranks: dict[str, dict[str, float]] = {name: {} for name in results}
    for metric in metrics:
        sign = -1 if next(iter(results.values())).metrics[metric].higher_is_better else 1
        values = {name: sign * result.metrics[metric].value for name, result in results.items()}
        for name, value in values.items():
            below = sum(other < value for other in values.values())
            equal = sum(other == value for other in values.values())
            ranks[name][metric] = below + (equal + 1) / 2
    rows = [EncoderRank(name, {m: result.metrics[m] for m in metrics}, ranks[name]) for name, result in results.items()]
    return sorted(rows, key=lambda row: (row.average, row.name))


def rank_table(rows: Sequence[EncoderRank], differences: Mapping[str, Difference] | None = None) -> PaperTable:
    """Metrics, average rank, and the difference of each to the best encoder, marked with * where its interval leaves out 0."""
    differences = differences or {}
    names = list(rows[0].metrics)
    head = ("encoder", *names, "average rank", *(("less than the best",) if differences else ()))
    made = []
    for row in rows:
        cells = [row.name, *(_spanned(row.metrics[name]) for name in names), f"{row.average:.2f}"]
        if differences:
            cells.append(_difference(differences.get(row.name)))
        made.append(tuple(cells))
    return PaperTable(head, tuple(made), ("intervals: 95 %, over patients of one test set",))


def write_encoder_page(
    path: Path,
    results: Mapping[str, Result],
    metrics: Sequence[str],
    differences: Mapping[str, Difference] | None = None,
    cases: Mapping[str, Sequence[WorstCase]] | None = None,
) -> None:
    """One HTML file with the table of encoders and, for results of `benchx`, AUROC by group, calibration, worst cases, and every setting of
    the head.

    differences  AUROC of each encoder less that of the best with its interval, from `paired_difference`
    cases        worst cases of encoders, from `worst_cases`
    Raises ConfigError for cases of an encoder without a result.
    """
    if unknown := sorted(set(cases or {}) - set(results)):
        raise ConfigError(f"'{unknown[0]}' has cases and no result (expected {', '.join(results)})")
    rows = ranked_encoders(results, metrics)
    table = rank_table(rows, differences)
    blocks = [page.table(table.head, table.rows), *(page.text(note, note=True) for note in table.notes)]
    settings = []
    for row in rows:
        runs = results[row.name].notes.get("table", [])
        cells = [
            (
                f"{run['share']:g}",
                run["setting"],
                f"{run['val']:.3f}",
                f"{run['test']:.3f}",
                f"{run['std']:.3f}",
                "yes" if run["chosen"] else "",
            )
            for run in runs
        ]
        if cells:
            head = ("share of patients", "setting", "AUROC on validation", "AUROC on test", "deviation over seeds", "chosen")
            settings += [page.heading(row.name), page.table(head, cells)]
    sections = [page.Section("Encoders", tuple(blocks))]
    if groups := group_table(results):
        note = page.text("AUROC; groups of few images are left out.", note=True)
        sections.append(page.Section("Groups of patients and pictures", (page.table(*groups), note)))
    if calibration := [
        calibration_block(row.name, results[row.name]) for row in rows if results[row.name].notes.get("reliability")
    ]:
        sections.append(page.Section("Calibration", tuple(calibration)))
    if worst := [block for name, chosen in (cases or {}).items() for block in worst_case_blocks(name, chosen)]:
        note = page.text("Predictions that are furthest from the truth, by finding; a map stands left of its picture.", note=True)
        sections.append(page.Section("Worst cases", (note, *worst)))
    sections.append(page.Section("Settings of the head", tuple(settings)))
    lead = f"{len(rows)} encoders under one protocol. Settings are chosen on validation. Not for clinical use."
    write_atomic(path, page.page("Encoders of chest X-rays", lead, sections).encode("utf-8"))


def group_table(results: Mapping[str, Result]) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """Head and rows of a table: a row a group of test images, with its AUROC by each encoder. None if no result has groups."""
    names = list(dict.fromkeys(name for result in results.values() for name in result.metrics if name.startswith(GROUP)))
    if not names:
        return None
    rows = []
    for name in names:
        metrics = [result.metrics.get(name) for result in results.values()]
        images = next(metric.items for metric in metrics if metric is not None)
        rows.append((name.removeprefix(GROUP), str(images), *(_spanned(metric) if metric else "" for metric in metrics)))
    return ("group", "images", *results), rows


def calibration_block(name: str, result: Result) -> str:
    """Reliability of one encoder's probabilities: share of positives against mean probability, with its bins and errors."""
    bins = result.notes["reliability"]
    positives = tuple((row["probability"], row["positive"]) for row in bins)
    ends = (positives[0][0], positives[-1][0])
    lines = (LineSeries("positive", positives), LineSeries("calibrated", tuple((end, end) for end in ends), 1))
    cells = [(f"{row['probability']:.3f}", f"{row['positive']:.3f}", f"{row['items']:,}") for row in bins]
    words = (
        f"expected calibration error {result.metrics['ece'].value:.3f}; sensitivity {result.metrics['sensitivity'].value:.3f} "
        f"at a specificity of {result.metrics['specificity'].value:.3f}, by thresholds of validation"
    )
    table = page.table(("mean probability", "share of positives", "pairs of image and label"), cells)
    chart = line_chart("share of positives", lines, x_label="probability")
    named = legend([(line.name, line.colour) for line in lines])
    return page.heading(name) + page.text(words) + charts([chart]) + named + table


def _spanned(metric: Metric) -> str:
    if math.isnan(metric.low):
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def _difference(difference: Difference | None) -> str:
    if difference is None:
        return ""
    value, low, high = difference
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]{'*' if low > 0 or high < 0 else ''}"
