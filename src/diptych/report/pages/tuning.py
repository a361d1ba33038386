"""Page on fine-tuning, before and after: gains on the target, forgetting elsewhere, and whether the loss could fall at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from diptych.report.curves import LineSeries, legend, line_chart
from diptych.report.page import Section, lines, page, table, text


@dataclass(frozen=True, slots=True)
class MetricChange:
    """Metric before and after, on the same items.

    role   "target" or "source"
    low, high, p  of the difference, over items with whole groups resampled: about these two models, not about another seed
    won, lost     items on which only the model after, or only the one before, is right
    """

    role: str
    data: str
    metric: str
    before: float
    after: float
    low: float
    high: float
    p: float
    won: int
    lost: int
    items: int
    chance: float
    higher_is_better: bool

    @property
    def difference(self) -> float:
        return self.after - self.before

    @property
    def word(self) -> str:
        """In a word: whether the interval of the difference lies above or below zero."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "no interval"
        better = self.low > 0 if self.higher_is_better else self.high < 0
        worse = self.high < 0 if self.higher_is_better else self.low > 0
        if self.role == "target":
            return "helped" if better else "hurt" if worse else "no difference shown"
        return "forgotten" if worse else "gained" if better else "no loss shown"


@dataclass(frozen=True, slots=True)
class BlendPoint:
    """Scores of a weight blend with that share of the tuned model."""

    share: float
    target: float
    source: float


@dataclass(frozen=True, slots=True)
class TuningReport:
    """warnings  what in the run says that it could not work
    data      the report of the training data, in lines
    loss      (step, loss) of the log
    """

    run: str
    changes: tuple[MetricChange, ...]
    warnings: tuple[str, ...]
    data: tuple[str, ...]
    loss: tuple[tuple[float, float], ...]

    def lines(self) -> list[str]:
        out = [f"! {warning}" for warning in self.warnings]
        for c in self.changes:
            span = f" [{c.low:+.3f}, {c.high:+.3f}]" if math.isfinite(c.low) else ""
            out.append(
                f"{c.role}  {c.data}: {c.metric} {c.before:.3f} -> {c.after:.3f} ({c.difference:+.3f}{span}), "
                f"won {c.won:,}, lost {c.lost:,} of {c.items:,}: {c.word}"
            )
        return out


def tuning_page(report: TuningReport) -> str:
    """HTML of the page: one file that opens offline."""
    head = ("", "data", "metric", "before", "after", "difference", "95 % interval", "won", "lost", "items", "chance", "so")
    rows = [
        (
            c.role,
            c.data,
            c.metric,
            c.before,
            c.after,
            f"{c.difference:+.3f}",
            f"{c.low:+.3f} to {c.high:+.3f}" if math.isfinite(c.low) else "–",
            c.won,
            c.lost,
            c.items,
            c.chance,
            c.word,
        )
        for c in report.changes
    ]
    sections = (
        Section("What could not work", (lines(report.warnings, warn=True),) if report.warnings else ()),
        Section(
            "Before and after",
            (
                table(head, rows),
                text(
                    "Intervals are over items, whole groups resampled, and speak of these two models: another seed gives another model.",
                    note=True,
                ),
            ),
        ),
        Section("Loss", (line_chart("Loss of the run", (LineSeries("loss", report.loss),)),)),
        Section("Training data", (lines(report.data),)),
    )
    return page("Did tuning help, and what was forgotten?", report.run, sections)


def blend_chart(points: Sequence[BlendPoint]) -> str:
    """HTML of a page with the curve over shares: target against source."""
    series = [
        LineSeries("target", tuple((p.share, p.target) for p in points), 0),
        LineSeries("source", tuple((p.share, p.source) for p in points), 1),
    ]
    series = [s for s in series if any(math.isfinite(y) for _, y in s.points)]
    chart = line_chart("Score by the share of the tuned model", series, x_label="share of the tuned model")
    rows = [(p.share, p.target, p.source) for p in points]
    return page(
        "Between two models",
        "0 is the first model, 1 the second; in between, the mean of their weights.",
        (Section("Curve", (chart, legend([(s.name, s.colour) for s in series]), table(("share", "target", "source"), rows))),),
    )
