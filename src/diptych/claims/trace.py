"""A trace of a claim: what its arms do in a few steps, to twelve digits. Equal traces mean equal behaviour.

Both arms at seed 0, at smoke-test size, weights, batches and frozen encoders in float64, one thread: the named losses of the first, some
later and the last of `TRACED_STEPS` steps of everything that trains, the learning rates of its full training, and the scores at the end.
Tidying and moving leave a trace as it is; another crop, loss, optimiser, schedule or metric does not. Sizes that only a full run has are
compared by `claims/constants.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from diptych.claims.cell import TRACED_STEPS, Cell, run_cell
from diptych.claims.claim import Claim
from diptych.claims.tree import run_at
from diptych.models.io.frozen_engine import frozen_engine

SEED = 0
LOSS_TOLERANCE = 1e-8
"""Relative: sums in another order on another processor differ by about 1e-12."""
SCORE_TOLERANCE = 1e-6
RETRACE = """
import json, sys
from diptych.claims import registry
from diptych.claims.trace import trace
print(json.dumps(trace(registry.find(sys.argv[1]))))
"""
Trace = dict[str, Any]
"""Arm ("baseline", "method") -> {"losses": [{name: value}, ...], "schedules": [[rate, ...], ...], "scores": {metric: value}}."""
EARLIER_STEPS = 4
"""Of traces that stand in lines of the ledger from before freshness had a file of its own."""


def trace(claim: Claim, *, earlier: bool = False) -> Trace:
    """Runs both arms at their smallest; seconds. earlier=True gives what traces were when they had four steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    sides: Trace = {}
    try:
        for side, arm in (("baseline", claim.baseline), ("method", claim.method)):
            with TemporaryDirectory() as folder, frozen_engine("torch" if earlier else "double"):
                rate, steps = min(arm.rates, default=None), EARLIER_STEPS if earlier else TRACED_STEPS
                cell = Cell(arm.name, SEED, Path(folder, "cell"), rate=rate, size="trace", traced=steps)
                scores = run_cell(cell, arm.run).scores
            kept = {name: scores[name] for name in (claim.metric, *claim.reported) if name in scores}
            sides[side] = _short({"losses": cell.spending.losses, "schedules": cell.spending.schedules, "scores": kept})
    finally:
        torch.set_num_threads(threads)
    return sides


def _short(value: Any) -> Any:
    """Floats to twelve digits, those that are not finite as None."""
    if isinstance(value, dict):
        return {name: _short(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return value if not isinstance(value, float) else float(f"{value:.12g}") if math.isfinite(value) else None


def trace_at(commit: str, key: str) -> Trace | None:
    """The trace of a claim by the sources of a commit, on this machine; None where that commit cannot be had or has no such trace."""
    traced: Trace | None = run_at(commit, RETRACE, key)
    return traced


def differences(before: Trace, now: Trace) -> list[str]:
    """Where two traces part, in words; empty when they are equal."""
    problems = []
    for side in sorted(before.keys() | now.keys()):
        old, new = before.get(side, {}), now.get(side, {})
        steps = old.get("losses", []), new.get("losses", [])
        if len(steps[0]) != len(steps[1]):
            problems.append(f"{side}: {len(steps[0])} logged steps before, {len(steps[1])} now")
        for step, (a, b) in enumerate(zip(*steps, strict=False), 1):
            problems += [f"{side}, logged step {step}: {words}" for words in _unequal(a, b, relative=LOSS_TOLERANCE)]
        for number, (a, b) in enumerate(zip(old.get("schedules", []), new.get("schedules", []), strict=False), 1):
            if not all(math.isclose(x, y, rel_tol=LOSS_TOLERANCE, abs_tol=1e-15) for x, y in zip(a, b, strict=True)):
                problems.append(f"{side}, learning rates of training {number} at full size were {a} and are {b}")
        scores = old.get("scores", {}), new.get("scores", {})
        problems += [f"{side}, score {words}" for words in _unequal(*scores, absolute=SCORE_TOLERANCE)]
    return problems


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any], *, relative: float = 0.0, absolute: float = 0.0) -> list[str]:
    # A number more is logged, and all that were there are equal: a new term of the loss would have changed the sum, which is one of them.
    problems = [f"'{name}' is gone" for name in sorted(a.keys() - b.keys())]
    for name in sorted(a.keys() & b.keys()):
        if not _close(a[name], b[name], relative, absolute):
            problems.append(f"'{name}' was {a[name]} and is {b[name]}")
    return problems


def _close(a: Any, b: Any, relative: float, absolute: float) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=relative, abs_tol=absolute or 1e-15)
