"""What an evaluation says: numbers with intervals, and everything that is needed to read them rightly."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Metric:
    """A number with its 95 % interval over items or groups of one run (never over seeds) and the value of chance."""

    value: float
    low: float = math.nan
    high: float = math.nan
    chance: float = math.nan

    def __str__(self) -> str:
        span = "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{span}"


@dataclass(frozen=True, slots=True)
class Result:
    """The score of one protocol on one data set.

    main     the metric that decides; more is better when `higher_is_better`
    notes    whatever the protocol has to declare: tie policy and share of ties, templates, parse failures, fingerprints
    """

    task: str
    version: int
    main: str
    metrics: dict[str, Metric]
    n_items: int
    n_groups: int
    higher_is_better: bool = True
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return self.metrics[self.main].value

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
        metrics = {
            name: Metric(**{k: math.nan if v is None else v for k, v in values.items()})
            for name, values in plain["metrics"].items()
        }
        return cls(**{**plain, "metrics": metrics})
