"""Best checkpoint and early stopping by the run's own evaluations.

Everything follows from `metrics.jsonl`, which a resumed run has up to where it goes on: so a run that was killed ends as one that never
was. Evaluators that take part give a number "score", higher for better.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from diptych.core.disk.files import atomic_folder
from diptych.core.run_folder import RunFolder
from diptych.train.options import TrainOptions

SCORE = "score"
EVALUATIONS = 20
"""In a run that may end early, where nothing is said about their number."""


@dataclass(frozen=True, slots=True)
class BestEvaluation:
    """Where the run was best: the step, its score, and how many evaluations came after it."""

    step: int
    score: float
    since: int


def tracks_best(options: TrainOptions) -> bool:
    """True if the run tracks its best evaluation (`keep_best` or `early_stop`)."""
    return options.keep_best or options.early_stop


def evaluation_interval(options: TrainOptions, steps: int) -> int:
    """Steps between evaluations; 0 for none before the end."""
    if options.eval_every or not tracks_best(options):
        return options.eval_every
    return max(1, steps // EVALUATIONS)


def best_so_far(folder: RunFolder) -> BestEvaluation | None:
    """The best evaluation that the log has, the earlier of two that are equal; None before the first."""
    evaluations = [
        (int(line["step"]), float(value))
        for line in folder.metrics()
        if line.get("kind") == "eval"
        for key, value in line.items()
        if key.endswith(f"/{SCORE}") and isinstance(value, int | float)
    ]
    if not evaluations:
        return None
    at = max(range(len(evaluations)), key=lambda index: (evaluations[index][1], -index))
    return BestEvaluation(*evaluations[at], since=len(evaluations) - 1 - at)


def out_of_patience(options: TrainOptions, best: BestEvaluation | None) -> bool:
    """True if `patience` evaluations in a row brought no better score (early stopping)."""
    return options.early_stop and best is not None and best.since >= options.patience


def promote(folder: RunFolder, kept: Path) -> None:
    """The kept model becomes the run's."""
    with atomic_folder(folder.model) as work:
        shutil.copytree(kept, work, dirs_exist_ok=True)
