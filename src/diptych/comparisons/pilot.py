"""Pilot of a comparison: short trainings of its first arm that say what budget and seeds can show, before they are spent.

The first arm is trained for a quarter, a half and the whole of some steps under one seed, and for the whole under a second one. Where the
task knows a level of chance, the lines say from how many steps on the score is above it. The two seeds give the spread of a difference
between equal arms (one draw of it, and at least the error of the test items), and so the seeds that a difference needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from diptych.claims.verdict import Margins, seeds_needed
from diptych.comparisons.job import Job, run_job
from diptych.core.config import config_hash, to_plain
from diptych.core.disk.files import write_json
from diptych.core.result import Metric
from diptych.recipes._shared.frozen.frozen_pairs import FrozenPairRecipe
from diptych.train.estimate import estimate
from diptych.worlds.address import training_rows

WORTH = 10
"""A comparison takes a pilot when it trains for so many times as long."""
SHARES = ((0.25, 0), (0.5, 0), (1.0, 0), (1.0, 1))
"""Share of the pilot's steps and seed of each of its trainings."""
FEWEST = 8
SMALL_DATA = 20_000


@dataclass(frozen=True, slots=True)
class PilotResult:
    """Scores of a pilot.

    steps    of its trainings: a quarter, a half, the whole, the whole again under a second seed
    values   main metric of each, on the first held-out split
    low      lower end of the 95 % interval over test items of each; NaN where the protocol has none
    high     upper end
    chance   NaN where the protocol knows no such level
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    chance: float
    higher_is_better: bool = True

    @property
    def above_chance(self) -> int:
        """Fewest steps after which the interval lies beyond chance; 0 where none does."""
        near = self.low if self.higher_is_better else tuple(-value for value in self.high)
        level = self.chance if self.higher_is_better else -self.chance
        return next((steps for steps, end in zip(self.steps, near, strict=True) if end > level), 0)

    @property
    def spread(self) -> float:
        """Standard deviation that a difference between equal arms may have."""
        items = (self.high[-1] - self.low[-1]) / 3.92
        return max(abs(self.values[-1] - self.values[-2]), items if math.isfinite(items) else 0.0)


def run_pilot(job: Job, whole: Any, seconds: float, pace: float) -> PilotResult | None:
    """Train and score the first arm for about so many seconds; None where they are too few for a training.

    job   its first cell; the pilot's runs lie in the folder `pilot` beside the cells
    pace  seconds a step
    """
    most = min(job.recipe.steps, int(seconds / pace / sum(share for share, _ in SHARES)))
    if most < FEWEST:
        return None
    steps = tuple(max(1, round(share * most)) for share, _ in SHARES)
    metrics: list[Metric] = []
    for count, (_, seed) in zip(steps, SHARES, strict=True):
        recipe = replace(job.recipe, steps=count, warmup=min(job.recipe.warmup, count // 4))
        folder = job.folder.parent.parent / "pilot" / f"{config_hash([to_plain(recipe), job.fingerprint, job.tasks])}-{seed}"
        short = replace(job, recipe=recipe, options=replace(job.options, seed=seed), seed=seed, folder=folder)
        result = next(iter(run_job(short, whole).results[job.tasks[0]].values()))
        metrics.append(result.metrics[result.main])
    last = metrics[-1]
    return PilotResult(
        steps,
        tuple(metric.value for metric in metrics),
        tuple(metric.low for metric in metrics),
        tuple(metric.high for metric in metrics),
        last.chance,
        last.higher_is_better,
    )


def smallest_difference(spread: float, seeds: int) -> float:
    """Smallest difference that so many seeds show with a power of .8; 0 without spread.

    >>> round(smallest_difference(0.01, 5), 3)
    0.017
    """
    low, high = 0.0, 64 * spread
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if seeds_needed(spread, middle) <= seeds else (middle, high)
    return high


def pilot_lines(name: str, pilot: PilotResult, budget: int, seeds: int, margins: Margins, metric: str) -> list[str]:
    """Report lines: scores by steps, the step from which they are above chance, the seeds for the margin."""
    scores = ", ".join(f"{value:.3f} after {steps:,}" for steps, value in zip(pilot.steps, pilot.values, strict=True))
    chance = "" if math.isnan(pilot.chance) else f" (chance {pilot.chance:.3f})"
    lines = [f"pilot: {metric} of {name}: {scores} steps{chance}"]
    if math.isfinite(pilot.chance) and math.isfinite(pilot.low[0]):
        first, has = pilot.above_chance, f"the budget has {budget:,}"
        if not first:
            lines.append(
                f"! pilot: {max(pilot.steps):,} steps are not above chance; {has}: they may be too few to learn anything"
            )
        elif budget < first:
            lines.append(f"! pilot: above chance from {first:,} steps on; {has}: nothing would be learned")
        else:
            lines.append(f"pilot: above chance from {first:,} steps on; {has}")
    if pilot.spread > 0:
        needed, least = seeds_needed(pilot.spread, margins.matters), smallest_difference(pilot.spread, seeds)
        lines.append(
            f"{'' if needed <= seeds else '! '}pilot: two seeds differ by {abs(pilot.values[-1] - pilot.values[-2]):.3f}; "
            f"a difference of {margins.matters:g} needs about {needed:,} seeds, and {seeds} show one of {least:.3f} or more"
        )
    return lines


def report_pilot(jobs: Sequence[Job], whole: Any, *, seconds: float, margins: Margins, say: Callable[[str], None]) -> None:
    """Say what the budget of a comparison can show, by a pilot of so many seconds, where its cells take `WORTH` times as long together.

    A comparison that was begun already, and goes on, takes none.
    """
    rows, first = training_rows(whole), jobs[0]
    if any((job.folder / "cell.json").is_file() for job in jobs):
        return
    if len(rows) < SMALL_DATA and not any(isinstance(job.recipe, FrozenPairRecipe) for job in jobs):
        say(
            f"note: with {len(rows):,} training rows a recipe on frozen encoders learns more in less time: try locked or linear_map first"
        )
    pace = float(estimate(first.recipe, rows, first.options)["seconds_per_step"])
    if pace * sum(job.recipe.steps for job in jobs) < WORTH * seconds:
        return
    pilot = run_pilot(first, whole, seconds, pace)
    if pilot is None:
        say(
            f"pilot: {seconds:g} seconds are fewer than {FEWEST} steps of {first.arm} ({pace:.1f} s a step): say --pilot {60 * pace:.0f}"
        )
        return
    seeds = len({job.seed for job in jobs})
    for line in pilot_lines(first.arm, pilot, first.recipe.steps, seeds, margins, first.tasks[0]):
        say(line)
    write_json(first.folder.parent.parent / "pilot" / "pilot.json", asdict(pilot))
