"""Evaluation results: metrics with confidence intervals, sample counts and the settings they depend on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from diptych.core.terminal import notebook

TRAINING_ROWS = "training rows"
"""What rows are called that a model was trained on, wherever it is scored on them all the same."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its 95 % interval over items or groups of one run (never over seeds), and what it takes to read it.

    chance            what guessing gives, in the same unit; NaN where the protocol knows no such level
    higher_is_better  False for ranks, errors, forgetting, perplexity: every comparison and choice reads it, none guesses from a name
    unit              "share" (0..1), "percent", "rank", "points", "nats", ...
    items             how many items it runs over; 0: those of the whole result
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan
    higher_is_better: bool = True
    unit: str = "share"
    items: int = 0

    def __str__(self) -> str:
        span = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{span}"

    def better(self, other: float) -> bool:
        """True if this value is strictly better than `other`.

        >>> Metric(3.0, higher_is_better=False).better(4.0)
        True
        """
        return self.value > other if self.higher_is_better else self.value < other


@dataclass(frozen=True, slots=True)
class Result:
    """The score of one protocol on one data set.

    main     the metric that decides
    notes    declarations of the protocol: tie policy and share of ties, templates, parse failures, fingerprints
    """

    task: str
    version: int
    main: str
    metrics: dict[str, Metric]
    n_items: int
    n_groups: int
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return self.metrics[self.main].value

    @property
    def higher_is_better(self) -> bool:
        """The direction of the metric that decides."""
        return self.metrics[self.main].higher_is_better

    def rows(self) -> list[dict[str, Any]]:
        """A row a metric, the one that decides first."""
        names = sorted(self.metrics, key=lambda name: name != self.main)
        return [{"metric": name, **asdict(self.metrics[name])} for name in names]

    def to_pandas(self) -> Any:
        """A DataFrame with a row a metric: value, interval, level of chance, unit."""
        return notebook.frame(self.rows())

    def __repr__(self) -> str:
        where = self.notes.get("data", {})
        name = f" on {where['name']}" if isinstance(where, dict) and "name" in where else ""
        head = f"Result({self.task} v{self.version}{name}: {self.main} {self.metrics[self.main]}"
        return f"{head}, {self.n_items:,} items in {self.n_groups:,} groups)"

    def _repr_html_(self) -> str:
        return notebook.table(
            [
                {"metric": row["metric"], "value": str(self.metrics[row["metric"]]), "chance": row["chance"]}
                for row in self.rows()
            ],
            caption=repr(self),
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values; not-a-number becomes null, as JSON has none."""

        def clean(value: Any) -> Any:
            if isinstance(value, float) and not math.isfinite(value):
                return None
            if isinstance(value, dict):
                return {k: clean(v) for k, v in value.items()}
            if isinstance(value, list | tuple):
                return [clean(v) for v in value]
            return value

        plain: dict[str, Any] = clean(asdict(self))
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Result:
        def number(values: dict[str, Any]) -> Metric:
            whole: dict[str, Any] = {name: math.nan if value is None else value for name, value in values.items()}
            return Metric(**whole)

        metrics = {name: number(values) for name, values in plain["metrics"].items()}
        own_values = {
            name: value for name, value in plain.items() if name != "higher_is_better"
        }  # of results before metrics had it
        return cls(**{**own_values, "metrics": metrics})
