"""Results of a comparison as plain values. The page draws them and `comparisons/compare.py` computes them.

Points are hundredths of a metric between 0 and 1: accuracy .61 against .60 is a difference of one point.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Word = Literal["shown", "reversed", "equal within the margin", "open", "no verdict"]
"""The verdicts on an arm against its baseline; `claims/verdict.py` gives the rule."""


@dataclass(frozen=True, slots=True)
class ItemDifference:
    """Paired difference of two models over test items, whole groups resampled. About these two models, not about recipes.

    p          two-sided, from random sign flips of the groups' differences
    wins       items on which the first is wrong and the other right; `losses` the other way round
    mid_p      McNemar's mid-p, where every item is a group of its own and either right or wrong; not a number elsewhere
    discordant share of items on which the two differ
    seed       of the two runs
    """

    difference: float
    low: float
    high: float
    p: float
    wins: int
    losses: int
    discordant: float
    items: int
    groups: int
    mid_p: float = math.nan
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Contrast:
    """Difference of one arm to the first, in one metric.

    difference     mean over seeds (for given models: over items), arm minus first, with its 95 % interval
    p, p_holm      of the test that decides, as it is and adjusted for the number of arms that are compared
    p_equal        of two one-sided tests that the difference lies within the equivalence margin
    why            what withheld the verdict
    items          the item-level view of the first seed, where the metric is a mean over items
    seeds_a_point  seeds that would show a difference of one point with power .8; items_a_point likewise, for given models
    """

    arm: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: Word
    items: ItemDifference | None = None
    seeds_a_point: int = 0
    items_a_point: int = 0
    p_equal: float = math.nan
    why: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """Metric of a task on a held-out split: one value a seed for every arm, and each arm against the first. `controls` are values of raw
    input, without training: ridge from pixels, the nearest training picture, what is usual."""

    task: str
    split: str
    metric: str
    main: bool
    higher_is_better: bool
    chance: float
    n_items: int
    n_groups: int
    values: dict[str, dict[int, float]]
    contrasts: tuple[Contrast, ...] = ()
    controls: dict[str, float] = field(default_factory=dict)

    def mean(self, arm: str) -> float:
        """Mean over seeds; not a number when no cell of the arm finished."""
        values = list(self.values.get(arm, {}).values())
        return sum(values) / len(values) if values else math.nan


@dataclass(frozen=True, slots=True)
class ArmCost:
    """Mean cost over the cells of an arm. Not-a-number where nothing could be measured.

    wall_seconds, cpu_seconds  from the preparation of the recipe to the last score; cells that were resumed are left out
    train_seconds              of the steps alone, over all attempts
    peak_memory                bytes of a cell's own process
    """

    arm: str
    steps: int
    batch_size: int
    parameters: int
    trained_parameters: int
    wall_seconds: float
    cpu_seconds: float
    train_seconds: float
    images_per_second: float
    peak_memory: float

    @property
    def samples(self) -> int:
        return self.steps * self.batch_size


@dataclass(frozen=True, slots=True)
class CellFailure:
    """Cell without a result, and the reason."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """Results of a comparison. `given` marks trained or foreign models, which have no seeds.

    margins  the smallest difference that matters, and how close counts as equal; in units of each metric
    folders  arm -> seed -> run folder (models: folder of the records)
    configs  arm -> its resolved configuration as plain values
    looks    split -> times that cells were scored on it in this folder
    unseen   held-out splits that nothing was scored on yet
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    data: dict[str, Any]
    budget: str
    tasks: tuple[str, ...]
    given: bool
    measures: tuple[Measure, ...]
    costs: tuple[ArmCost, ...]
    failures: tuple[CellFailure, ...]
    folders: dict[str, dict[int, str]] = field(repr=False)
    configs: dict[str, dict[str, Any]] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)
    margins: tuple[float, float] = (0.01, 0.01)
    looks: dict[str, int] = field(default_factory=dict)
    unseen: tuple[str, ...] = ()

    @property
    def main_measures(self) -> list[Measure]:
        return [measure for measure in self.measures if measure.main]

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON; not-a-number becomes null."""
        plain: dict[str, Any] = _clean(asdict(self))
        return plain

    def rows(self) -> list[dict[str, Any]]:
        """Rows for each arm in each measure: its mean, and its difference to the first arm."""
        rows = []
        for measure in self.measures:
            against = {contrast.arm: contrast for contrast in measure.contrasts}
            for arm in self.arms:
                row: dict[str, Any] = {"task": measure.task, "split": measure.split, "metric": measure.metric, "arm": arm}
                row["mean"] = measure.mean(arm)
                if (contrast := against.get(arm)) is not None:
                    row |= {name: getattr(contrast, name) for name in ("difference", "low", "high", "p_holm", "verdict")}
                rows.append(row)
        return rows

    def seed_rows(self) -> list[dict[str, Any]]:
        """Rows for each arm and seed in each measure."""
        return [
            {"task": one.task, "split": one.split, "metric": one.metric, "arm": arm, "seed": seed, "value": value}
            for one in self.measures
            for arm, values in one.values.items()
            for seed, value in values.items()
        ]

    def differing_fields(self) -> dict[str, dict[str, Any]]:
        """Configuration fields that differ between arms: field -> arm -> value; absent ones are left out."""
        names = list(dict.fromkeys(name for arm in self.arms for name in self.configs.get(arm, {})))
        values_of = {
            name: {arm: self.configs[arm][name] for arm in self.arms if name in self.configs.get(arm, {})} for name in names
        }
        return {
            name: values
            for name, values in values_of.items()
            if len(values) < len(self.arms) or any(value != next(iter(values.values())) for value in values.values())
        }


def _clean(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value
