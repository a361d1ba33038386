"""Runs the cells of a claim and gives the verdict. A finished cell is a file; what is missing is run, what is there is read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from diptych.claims import ledger
from diptych.claims.claim import Arm, Cell, Claim
from diptych.claims.sweep import TUNING_SEEDS
from diptych.claims.verdict import MINIMUM_SEEDS, judge
from diptych.core.environment import commit, environment
from diptych.core.errors import ConfigError
from diptych.core.files import write_json


@dataclass(frozen=True, slots=True)
class Finished:
    """Scores of one cell and how long it took."""

    scores: dict[str, float]
    seconds: float


def run_cell(claim: Claim, arm: Arm, seed: int, folder: Path, *, smoke: bool = False) -> Finished:
    """Run one cell, or read it when it is finished. The file's name carries the source hash: other sources, other cell."""
    name = f"{arm.name}-{seed}"
    done = folder / (claim.slug if arm.shared else claim.key) / claim.source_hash() / f"{name}.json"
    if done.exists() and not smoke:
        plain = json.loads(done.read_text(encoding="utf-8"))
        return Finished(plain["scores"], plain["seconds"])
    start = time.perf_counter()
    scores = dict(arm.run(Cell(seed, done.with_suffix(""), smoke)))
    if claim.metric not in scores:
        raise ConfigError(f"claim '{claim.key}': arm '{arm.name}' returned {sorted(scores)} but not '{claim.metric}'")
    finished = Finished(scores, time.perf_counter() - start)
    if not smoke:
        write_json(done, {"scores": scores, "seconds": finished.seconds})
    return finished


def run(
    claim: Claim, seeds: Sequence[int], *, cells: Path, on_cell: Callable[[str, int, Finished], None] | None = None
) -> ledger.Entry:
    """Both arms under every seed, then the verdict. Does not write the ledger.

    Seeds used for tuning may not give a verdict, and fewer than three can not.
    """
    if len(set(seeds)) < MINIMUM_SEEDS:
        raise ConfigError(f"a verdict needs at least {MINIMUM_SEEDS} different seeds, got {len(set(seeds))}")
    if tuned := sorted(TUNING_SEEDS & set(seeds)):
        raise ConfigError(f"seeds {tuned} are for tuning; a verdict needs fresh ones (101, 102, ...)")
    results: dict[str, list[Finished]] = {claim.baseline.name: [], claim.method.name: []}
    for seed in seeds:
        for arm in (claim.baseline, claim.method):
            finished = run_cell(claim, arm, seed, cells)
            results[arm.name].append(finished)
            if on_cell:
                on_cell(arm.name, seed, finished)
    scores = {
        name: {metric: [cell.scores[metric] for cell in side] for metric in (claim.metric, *claim.reported)}
        for name, side in results.items()
    }
    base, method = scores[claim.baseline.name], scores[claim.method.name]
    higher = claim.higher_is_better
    judged = judge(base[claim.metric], method[claim.metric], {}, claim.margins, higher_is_better=higher)
    difference = judged.difference
    return ledger.Entry(
        claim=claim.key,
        date=datetime.now(UTC).date().isoformat(),
        commit=commit(),
        source_hash=claim.source_hash(),
        machine=environment(),
        seeds=tuple(seeds),
        budget=claim.budget,
        data=claim.data,
        metric=claim.metric,
        baseline={"name": claim.baseline.name, "scores": base},
        method={"name": claim.method.name, "scores": method},
        difference=difference.mean,
        interval=(difference.low, difference.high),
        p=difference.p,
        verdict=judged.verdict,
        seconds=sum(f.seconds for side in results.values() for f in side),
    )


def smoke(claim: Claim, folder: Path) -> None:
    """Both arms at their smallest, to see that they run. Gives no verdict and stores nothing."""
    for arm in (claim.baseline, claim.method):
        run_cell(claim, arm, 0, folder, smoke=True)
