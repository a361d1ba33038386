"""Runs a claim: sweeps the rates, runs both arms and the controls under fresh seeds, gives the verdict.

Cells are kept by a hash over the arm's configuration, its code and all code that it reaches: an arm that stands in several claims
runs once, and a changed loss or reader means another cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from diptych.claims.budget import check_equal, mean_spent
from diptych.claims.cell import Cell, CellResult, run_cell
from diptych.claims.claim import Arm, Claim
from diptych.claims.controls.raw_input import BLIND, RawControls, run_raw_controls
from diptych.claims.declared import declared_hash, modules_of
from diptych.claims.ledger import Entry, Side, judged_again, learned
from diptych.claims.sweep import TUNING_SEEDS, Chosen, choose, rule
from diptych.claims.verdict import MINIMUM_SEEDS, judge, seeds_needed
from diptych.core.environment import environment
from diptych.core.errors import ConfigError
from diptych.core.sources.closure import closure_hash

OnCell = Callable[[Cell, CellResult], None]
OnWidened = Callable[[str, float, float], None]
"""Arm, the best rate of its grid, and the one beyond that is tried, too."""


@dataclass(frozen=True, slots=True)
class Swept:
    """Result of an arm's learning-rate sweep; empty where the arm has no rates. `cells` are those of the chosen rate."""

    rate: float | None
    record: dict[str, Any]
    cells: tuple[CellResult, ...]
    cpu_seconds: float
    shared: dict[str, float | None]


def run(
    claim: Claim,
    *,
    cells: Path,
    commit: str,
    seeds: Sequence[int] = (),
    tries: int = 1,
    on_cell: OnCell = lambda cell, done: None,
    on_widened: OnWidened = lambda arm, rate, beyond: None,
) -> Entry:
    """The verdict on a claim. Writes nothing but cells.

    seeds  others than the claim's own, for whoever wants to see the verdict again; a verdict on them does not enter the ledger
    tries  declarations of this claim that were run to their end, this one included
    Raises ConfigError when seeds were used for tuning, budgets are unequal, or an arm trains without a sweep.
    """
    seeds = tuple(seeds) or claim.verdict_seeds()
    check_seeds(seeds)
    swept = {arm.name: _sweep(claim, arm, cells, on_cell, on_widened) for arm in claim.arms}
    tuned = {name: mean_spent(cells_by_arm.cells) for name, cells_by_arm in swept.items() if cells_by_arm.cells}
    if len(tuned) == len(claim.arms):
        check_equal(claim.key, tuned, claim.equal_budget)
    cells_by_arm: dict[str, list[CellResult]] = {arm.name: [] for arm in claim.every_arm}
    for seed in seeds:
        for arm in claim.every_arm:
            rate = swept[arm.name].rate if arm.name in swept else None
            cell = Cell(arm.name, seed, folder_of(cells, arm) / _stem(rate, seed), rate=rate)
            done = _run(claim, arm, cell, on_cell)
            if arm in claim.arms and not arm.rates and done.steps:
                raise ConfigError(f"claim '{claim.key}': arm '{arm.name}' trains but sweeps no rates (expected three at least)")
            cells_by_arm[arm.name].append(done)
    check_equal(claim.key, {arm.name: mean_spent(cells_by_arm[arm.name]) for arm in claim.arms}, claim.equal_budget)
    raw = run_raw_controls(claim, seeds, partial(folder_of, cells), on_cell)
    if claim.kind == "mechanism check" and not any(learned(mean_spent(cells)) for cells in cells_by_arm.values()):
        raise ConfigError(f"claim '{claim.key}': no arm learns anything (expected a test in tests/ of what it plants)")
    return _entry(claim, seeds, cells_by_arm, swept, commit, tries, raw)


def judge_again(claim: Claim, entry: Entry, *, cells: Path, on_cell: OnCell = lambda cell, done: None) -> Entry:
    """A kept verdict by the present rule: its scores stay as they are, and only raw-input controls are run, on its own seeds."""
    raw = run_raw_controls(claim, entry.seeds, partial(folder_of, cells), on_cell)
    sides = tuple(_raw_side(claim, name, done) for name, done in raw.cells.items())
    return judged_again(
        replace(entry, raw=sides, raw_missing=raw.missing),
        today=datetime.now(UTC).date().isoformat(),
        cpu_seconds=sum(_cpu(done) for done in raw.cells.values()),
    )


def _raw_side(claim: Claim, name: str, cells: Sequence[CellResult]) -> Side:
    metrics = [metric for metric in (claim.metric, *claim.reported) if all(metric in cell.scores for cell in cells)]
    scores = {metric: [cell.scores[metric] for cell in cells] for metric in metrics}
    return Side(name, scores, None, {"cpu_seconds": _cpu(cells) / len(cells)})


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse seeds that can give no verdict."""
    if len(set(seeds)) < MINIMUM_SEEDS:
        raise ConfigError(f"a verdict needs at least {MINIMUM_SEEDS} different seeds, got {len(set(seeds))}")
    if used := sorted(TUNING_SEEDS & set(seeds)):
        raise ConfigError(f"seeds {used} are for tuning; a verdict needs fresh ones")


def smoke(claim: Claim, folder: Path) -> None:
    """Both arms and all controls at their smallest, to see that they run. Gives no verdict and stores nothing."""
    for arm in claim.every_arm:
        _run(claim, arm, Cell(arm.name, 0, folder / _stem(None, 0) / _safe(arm.name), size="smoke"), lambda cell, done: None)


def folder_of(cells: Path, arm: Arm) -> Path:
    """Where the cells of an arm are kept: for as long as its configuration and all code that it reaches stay as they are."""
    key = f"{declared_hash(arm, without=('rates',))}{closure_hash(*sorted(modules_of(arm.run)))}"
    return cells / f"{_safe(arm.name)}-{key}"


def _run(claim: Claim, arm: Arm, cell: Cell, on_cell: OnCell) -> CellResult:
    done = run_cell(cell, arm.run)
    if claim.metric not in done.scores:
        raise ConfigError(f"claim '{claim.key}': arm '{arm.name}' returned {sorted(done.scores)} but not '{claim.metric}'")
    on_cell(cell, done)
    return done


def _sweep(claim: Claim, arm: Arm, cells: Path, on_cell: OnCell, on_widened: OnWidened) -> Swept:
    """The best rate of an arm. Where it is at the edge of the grid, one more beyond it is tried, once; its cells count as any."""
    if not arm.rates:
        return Swept(None, {}, (), 0.0, {})
    metric, widened = claim.tuned_by or claim.metric, list[str]()

    def tuned(rate: float, seed: int) -> CellResult:
        folder = folder_of(cells, arm) / f"tuning-{_stem(rate, seed)}"
        return _run(claim, arm, Cell(arm.name, seed, folder, rate=rate, share=claim.tuning_share), on_cell)

    by_rate: dict[float, list[CellResult]] = {rate: [] for rate in sorted(arm.rates)}
    for seed in claim.tuning_seeds:
        for rate, done in by_rate.items():
            done.append(tuned(rate, seed))

    def chosen() -> tuple[dict[float, list[float]], Chosen]:
        scores = {rate: [cell.scores[metric] for cell in done] for rate, done in by_rate.items()}
        return scores, choose(scores, higher_is_better=claim.higher_is_better)

    scores, best = chosen()
    if best.at_edge and len(scores) > 1:
        beyond = _beyond(best.rate, sorted(scores))
        by_rate[beyond] = [tuned(beyond, seed) for seed in claim.tuning_seeds]
        on_widened(arm.name, best.rate, beyond)
        widened, (scores, best) = [f"{beyond:g}"], chosen()
    record = {
        "rates": {f"{rate:g}": values for rate, values in scores.items()},
        "chosen": best.rate,
        "at_edge": best.at_edge,
        "widened": widened,
        "metric": metric,
        "seeds": list(claim.tuning_seeds),
        "rule": rule(claim.tuning_share),
    }
    every = [cell for done in by_rate.values() for cell in done]
    return Swept(best.rate, record, tuple(by_rate[best.rate]), _cpu(every), _shared(every))


def _beyond(rate: float, rates: Sequence[float]) -> float:
    """The next rate outside a sorted grid, on the side of the edge that `rate` is: as far away as its neighbour within.

    >>> _beyond(9e-4, [1e-4, 3e-4, 9e-4]), _beyond(1e-4, [1e-4, 3e-4, 9e-4])
    (0.0027, 3.33333e-05)
    """
    neighbour = rates[-2] if rate == rates[-1] else rates[1]
    return float(f"{rate * rate / neighbour:.6g}")


def _entry(
    claim: Claim,
    seeds: tuple[int, ...],
    cells_by_arm: dict[str, list[CellResult]],
    swept: dict[str, Swept],
    commit: str,
    tries: int,
    raw: RawControls,
) -> Entry:
    values = {name: [cell.scores[claim.metric] for cell in cells] for name, cells in cells_by_arm.items()}
    judged = judge(
        values[claim.baseline.name],
        values[claim.method.name],
        {control.name: values[control.name] for control in claim.controls}
        | {name: [cell.scores[claim.metric] for cell in cells] for name, cells in raw.cells.items()},
        claim.margins,
        higher_is_better=claim.higher_is_better,
        blind=BLIND,
    )

    shared = {name: value for cells in cells_by_arm.values() for name, value in _shared(cells).items()}
    shared |= {name: value for arm in swept.values() for name, value in arm.shared.items()}

    def side(arm: Arm) -> Side:
        cells = cells_by_arm[arm.name]
        metrics = [name for name in (claim.metric, *claim.reported) if all(name in cell.scores for cell in cells)]
        scores = {name: [cell.scores[name] for cell in cells] for name in metrics}
        rate = swept[arm.name].rate if arm.name in swept else None
        budget = {name: value if math.isfinite(value) else None for name, value in mean_spent(cells).items()}
        return Side(arm.name, scores, rate, budget)

    return Entry(
        claim=claim.key,
        kind=claim.kind,
        date=datetime.now(UTC).date().isoformat(),
        commit=commit,
        hash=claim.hash(),
        machine=environment(),
        seeds=seeds,
        data=claim.data,
        metric=claim.metric,
        higher_is_better=claim.higher_is_better,
        matters=claim.margins.matters,
        equivalence=claim.margins.equivalence,
        baseline=side(claim.baseline),
        method=side(claim.method),
        controls=tuple(side(control) for control in claim.controls),
        bounds=tuple(side(bound) for bound in claim.bounds),
        raw=tuple(_raw_side(claim, name, cells) for name, cells in raw.cells.items()),
        raw_missing=raw.missing,
        equal_budget=claim.equal_budget,
        sweep={name: arm.record for name, arm in swept.items() if arm.record},
        difference=judged.difference.mean,
        interval=(judged.difference.low, judged.difference.high),
        p=judged.difference.p,
        p_equal=judged.p_equal,
        verdict=judged.verdict,
        why=judged.why,
        reached={name: list(arms) for name, arms in judged.reached.items()},
        seeds_needed=seeds_needed(judged.difference.spread, claim.margins.matters),
        cpu_seconds=sum(_cpu(cells) for cells in (*cells_by_arm.values(), *raw.cells.values()))
        + sum(arm.cpu_seconds for arm in swept.values()),
        shared_cpu_seconds=_sum_known(shared),
        tries=tries,
    )


def _cpu(cells: Sequence[CellResult]) -> float:
    """Of cells that ran through; one that was stopped and went on is not known."""
    return sum(seconds for cell in cells if (seconds := cell.cost["cpu_seconds"]) == seconds)


def _shared(cells: Sequence[CellResult]) -> dict[str, float | None]:
    return {name: seconds for cell in cells for name, seconds in cell.shared.items()}


def _sum_known(shared: dict[str, float | None]) -> float | None:
    """Each shared model once; None where what one took is not known."""
    finite = [seconds for seconds in shared.values() if seconds is not None]
    return sum(finite) if len(finite) == len(shared) else None


def _stem(rate: float | None, seed: int) -> str:
    return f"{seed}" if rate is None else f"{rate:g}-{seed}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "arm"
