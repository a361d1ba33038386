"""Raw-input controls, which the runner adds to every claim and every comparison: no declaration can leave them out.

Ridge regression from pixels to words and word pairs, the same to single words, the nearest training picture with its words, and what is
usual whatever the picture (`models/closed_form`). A control runs a cell of the claim's own arms, on its rows and by its metric, with the
closed-form model in place of the trained one: the method's cell, else the baseline's, else a declared control's. Where none of these can
be answered by such a model the reason is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from diptych.claims.cell import Cell, CellResult, run_cell
from diptych.claims.claim import Arm, Claim
from diptych.claims.training import without_training
from diptych.core.config import config_hash
from diptych.core.contracts import Dataset, Recipe
from diptych.core.disk.files import write_json
from diptych.core.errors import RunError
from diptych.models.closed_form.model import METHODS, Method, RawInputModel, raw_input_model
from diptych.worlds.rendered import keeping_pools

VERSION = 1
"""Raised when a control would give other scores on the same rows."""
PREFIX = "raw input, "
UNASKED = "its cells ask no model that is trained on their rows alone"
BLIND = (f"{PREFIX}majority",)
Folders = Callable[[Arm], Path]


@dataclass(frozen=True, slots=True)
class RawControls:
    """Results of the raw-input controls by name, one cell a seed, and why the others cannot stand in."""

    cells: dict[str, list[CellResult]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


class _Unasked(Exception):
    """A cell ran through and never asked for the raw-input model."""


@dataclass(slots=True)
class _Instead:
    """A raw-input model in place of training, and whether the cell has asked for it: a cell that has not measures something else."""

    method: Method
    asked: bool = False

    def __call__(self, recipe: Recipe, rows: Dataset) -> RawInputModel:
        self.asked = True
        return raw_input_model(rows, self.method, language=getattr(recipe, "language", ""))


def run_raw_controls(
    claim: Claim, seeds: Sequence[int], folder_of: Folders, on_cell: Callable[[Cell, CellResult], None]
) -> RawControls:
    """All that fit the claim, on the seeds of its verdict; seconds a cell, which are kept in the folders of the arms."""
    with keeping_pools():
        return _run_all(claim, seeds, folder_of, on_cell)


def _run_all(claim: Claim, seeds: Sequence[int], folder_of: Folders, on_cell: Callable[[Cell, CellResult], None]) -> RawControls:
    done, folder_of = RawControls(), cache(folder_of)
    arms: dict[Method, Arm] = {}
    candidates = [claim.method, claim.baseline, *claim.controls]
    for method in METHODS:
        for arm in list(candidates):
            outcome = _run(claim, arm, method, seeds[0], folder_of)
            if isinstance(outcome, CellResult):
                arms[method] = arm
                break
            done.missing.setdefault(f"{PREFIX}{method}", outcome)
            if outcome == UNASKED:
                candidates.remove(arm)  # it would ask no other method either
        if not candidates:
            done.missing.update({f"{PREFIX}{method}": UNASKED for method in METHODS})
            break
    for seed in seeds:  # rows of a seed are rendered and read once for all methods
        for method, arm in arms.items():
            name = f"{PREFIX}{method}"
            outcome = _run(claim, arm, method, seed, folder_of)
            if not isinstance(outcome, CellResult):
                raise RunError(f"claim '{claim.key}': '{name}' ran under seed {seeds[0]} and not under {seed}: {outcome}")
            on_cell(Cell(name, seed, folder_of(arm)), outcome)
            done.cells.setdefault(name, []).append(outcome)
            done.missing.pop(name, None)
    return done


def _run(claim: Claim, arm: Arm, method: Method, seed: int, folder_of: Folders) -> CellResult | str:
    """The finished cell, or in words why this arm's cell has no use for such a model."""
    instead = _Instead(method)
    folder = folder_of(arm) / f"raw-{VERSION}-{method.replace(' ', '-')}-{seed}"
    if (kept := CellResult.read(folder)) is not None:
        return kept if claim.metric in kept.scores else f"'{arm.name}' measures no {claim.metric} of it"

    def work(cell: Cell) -> Mapping[str, float]:
        scores = arm.run(cell)
        if not instead.asked or claim.metric not in scores:
            raise _Unasked
        return scores

    try:
        with without_training():
            return run_cell(Cell(f"{PREFIX}{method}", seed, folder, instead=instead), work)
    except _Unasked:
        return UNASKED
    except Exception as error:  # whatever a cell asks of its model that a closed form has not
        return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


# ---------------------------------------------------------------- comparisons

Values = dict[str, dict[str, dict[str, dict[str, float]]]]
"""Control -> task -> split -> metric -> value."""


def raw_values(
    rows: Dataset,
    parts: Mapping[str, Dataset],
    tasks: Sequence[str],
    make_task: Callable[[str], Any],
    out: Path,
    *,
    language: str = "en",
    say: Callable[[str], None] = lambda line: None,
) -> Values:
    """Scores of the raw-input controls of these training rows on held-out parts; a task that they cannot answer is left out, and the
    reason is logged. Kept in `out`/controls.json."""
    from diptych.tasks.evaluate import evaluate

    path = out / "controls.json"
    key = config_hash(
        [VERSION, rows.fingerprint, {name: part.fingerprint for name, part in parts.items()}, list(tasks), language]
    )
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            values: Values = kept["values"]
            return values
    values, missing = {}, dict[str, str]()
    for method in METHODS:
        by_task = values.setdefault(f"{PREFIX}{method}", {})
        for words in tasks:
            try:
                model = raw_input_model(rows, method, language=language)
                results = {split: evaluate(make_task(words), model, part) for split, part in parts.items()}
            except Exception as error:  # a task asks for whatever a closed form may not have: the comparison goes on and says so
                missing[f"{PREFIX}{method}, {words}"] = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
                continue
            by_task[words] = {
                split: {metric: value.value for metric, value in result.metrics.items()} for split, result in results.items()
            }
    for name, reason in missing.items():
        say(f"no control '{name}': {reason}")
    write_json(path, {"key": key, "values": values, "missing": missing})
    return values
