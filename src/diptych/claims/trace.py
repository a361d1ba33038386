"""A trace of a claim: what its arms do in their first steps, to twelve digits. Equal traces mean equal behaviour.

Both arms at seed 0, at smoke-test size, weights and batches in float64, one thread: the named losses of the first steps of everything
that trains, and the scores at the end. Tidying and moving leave a trace as it is; another crop, loss, optimiser or metric does not.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from diptych.claims.cell import Cell, run_cell
from diptych.claims.claim import Claim
from diptych.claims.tree import sources_of
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
LIMIT = 600
"""Seconds that the sources of another commit may take."""
Trace = dict[str, Any]
"""Arm ("baseline", "method") -> {"losses": [{name: value}, ...], "scores": {metric: value}}."""


def trace(claim: Claim) -> Trace:
    """Runs both arms at their smallest; seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found: Trace = {}
    try:
        for side, arm in (("baseline", claim.baseline), ("method", claim.method)):
            with TemporaryDirectory() as folder, frozen_engine("torch"):  # the same digits wherever it is recomputed
                cell = Cell(arm.name, SEED, Path(folder, "cell"), rate=min(arm.rates, default=None), size="trace")
                scores = run_cell(cell, arm.run).scores
            kept = {name: scores[name] for name in (claim.metric, *claim.reported) if name in scores}
            found[side] = {"losses": cell.spending.losses, "scores": kept}
    finally:
        torch.set_num_threads(threads)
    return found


def trace_at(commit: str, key: str) -> Trace | None:
    """The trace of a claim by the sources of a commit, on this machine; None where that commit cannot be had or has no such trace."""
    with sources_of(commit) as folder:
        if folder is None:
            return None
        words, paths = [sys.executable, "-c", RETRACE, key], {**os.environ, "PYTHONPATH": str(folder / "src")}
        try:
            done = subprocess.run(words, env=paths, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return None
    if done.returncode:
        return None
    found: Trace = json.loads(done.stdout.splitlines()[-1])
    return found


def differences(before: Trace, now: Trace) -> list[str]:
    """Where two traces part, in words; empty when they are equal."""
    found = []
    for side in sorted(before.keys() | now.keys()):
        old, new = before.get(side, {}), now.get(side, {})
        steps = old.get("losses", []), new.get("losses", [])
        if len(steps[0]) != len(steps[1]):
            found.append(f"{side}: {len(steps[0])} logged steps before, {len(steps[1])} now")
        for place, (a, b) in enumerate(zip(*steps, strict=False), 1):
            found += [f"{side}, logged step {place}: {words}" for words in _unequal(a, b, relative=LOSS_TOLERANCE)]
        scores = old.get("scores", {}), new.get("scores", {})
        found += [f"{side}, score {words}" for words in _unequal(*scores, absolute=SCORE_TOLERANCE)]
    return found


def _unequal(a: Mapping[str, Any], b: Mapping[str, Any], *, relative: float = 0.0, absolute: float = 0.0) -> list[str]:
    # A number more is logged, and all that were there are equal: a new term of the loss would have changed the sum, which is one of them.
    found = [f"'{name}' is gone" for name in sorted(a.keys() - b.keys())]
    for name in sorted(a.keys() & b.keys()):
        if not _close(a[name], b[name], relative, absolute):
            found.append(f"'{name}' was {a[name]} and is {b[name]}")
    return found


def _close(a: Any, b: Any, relative: float, absolute: float) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=relative, abs_tol=absolute or 1e-15)
