"""One cell: an arm under one seed. Runs it or reads what is finished, and measures what it took.

`compare` and the claims share this file: `cell.json` in the cell's folder is the only record, a finished cell is read and never run
again, and a cell that was killed goes on with what its folder holds.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import safe_open

from diptych.core.config import from_plain
from diptych.core.contracts import Dataset, Recipe
from diptych.core.disk.files import write_json
from diptych.core.errors import RunError
from diptych.core.result import Result
from diptych.core.run_folder import RunFolder
from diptych.recipes._shared.cached_models import shared_costs

FORMAT = 2
SMOKE_BATCH, TRACED_STEPS, TRACED_WARMUP = 16, 24, 2.0
"""Two steps of warm-up, the peak, and enough on the way down that what begins late is seen, too."""

Scores = Mapping[str, float]
Results = dict[str, dict[str, Result]]
"""Task -> split -> result."""
Size = Literal["full", "smoke", "trace"]
AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


@dataclass(slots=True)
class Spending:
    """Running account of a cell's costs; every training adds to it.

    steps, samples     optimiser steps and rows read, repeats included, of every training and every stage
    labelled, trusted  rows with labels, and rows known to be right, that the arm was given
    trained, frozen    parameters of the largest module that was trained
    train_seconds      of the steps alone
    losses             named losses of the first, some later and the last steps, in a trace
    schedules          learning rates over the steps of every full training, in a trace, which itself trains for fewer
    """

    steps: int = 0
    samples: int = 0
    labelled: int = 0
    trusted: int = 0
    trained: int = 0
    frozen: int = 0
    train_seconds: float = 0.0
    losses: list[dict[str, float]] = field(default_factory=list)
    schedules: list[list[float]] = field(default_factory=list)

    def count(self, *, steps: int = 0, samples: int = 0, labelled: int = 0, trusted: int = 0) -> None:
        """Adds what no run folder knows of: labels that were given, steps of a search."""
        self.steps, self.samples = self.steps + steps, self.samples + samples
        self.labelled, self.trusted = self.labelled + labelled, self.trusted + trusted

    def add(self, folder: RunFolder, kind: type[Recipe]) -> None:
        """Adds a finished run."""
        recipe = from_plain(kind, folder.config["recipe"])
        self.steps += folder.state["step"]
        self.samples += folder.state["step"] * recipe.batch_size
        self.train_seconds += folder.training_seconds()
        trained, frozen = _parameters(recipe)
        trained += max(0, _stored_numbers(folder.model) - trained - frozen)  # what grew while it was trained
        if trained + frozen > self.trained + self.frozen:
            self.trained, self.frozen = trained, frozen


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of an arm: seed, folder, learning rate and size.

    folder  may hold what a kill interrupted; the arm goes on with it
    rate    learning rate of what is trained; None takes the recipe's own
    share   of the recipe's steps: below 1 while rates are swept
    size    "smoke" is the smallest thing that still exercises the code, "trace" the same in float64 for `traced` steps with losses kept
    instead what gives a model of the training rows in place of training one: a raw-input control runs an arm's own cell with it
    """

    arm: str
    seed: int
    folder: Path
    rate: float | None = None
    share: float = 1.0
    size: Size = "full"
    traced: int = TRACED_STEPS
    spending: Spending = field(default_factory=Spending, compare=False)
    instead: Callable[[Recipe, Dataset], Any] | None = field(default=None, compare=False, repr=False)

    @property
    def smoke(self) -> bool:
        return self.size != "full"

    def sized(self, recipe: AnyRecipe, *, smoke_steps: int = 2) -> AnyRecipe:
        """The recipe at the cell's rate and share of the steps; a few steps of a small batch in a smoke test or trace."""
        if self.rate is not None:
            recipe = replace(recipe, lr=self.rate)
        if not self.smoke and not recipe.steps:
            return replace(recipe, epochs=recipe.epochs * self.share)
        if not self.smoke:
            return replace(recipe, steps=max(1, round(recipe.steps * self.share)))
        batch_size = min(recipe.batch_size, SMOKE_BATCH)
        if self.size == "smoke":
            return replace(recipe, steps=smoke_steps, batch_size=batch_size, warmup=0.0)
        warmup = min(recipe.warmup, TRACED_WARMUP) if recipe.warmup >= 1 else recipe.warmup
        return replace(recipe, steps=max(self.traced, smoke_steps), batch_size=batch_size, warmup=warmup)

    def part(self, name: str) -> Cell:
        """For a further training of the same cell (a scorer, a captioner): a folder and rate of its own, the same share and account."""
        return replace(self, folder=self.folder / name, rate=None)


Work = Callable[[Cell], Scores]
"""What runs an arm: one cell to named scores."""


@dataclass(frozen=True, slots=True)
class CellResult:
    """Scores and costs of a finished cell; a cost is NaN where nothing could be measured.

    shared  processor seconds of the models that all cells share and this one asked for, by name; None where not known
    cost    steps, samples, labelled, trusted, trained_parameters, frozen_parameters, parameters, wall_seconds, cpu_seconds,
            train_seconds, images_per_second, peak_memory (bytes); without those of shared models
    """

    arm: str
    seed: int
    resumed: bool
    scores: dict[str, float]
    cost: dict[str, float]
    results: Results = field(default_factory=dict, repr=False)
    shared: dict[str, float | None] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return int(self.cost.get("steps", 0))

    @classmethod
    def read(cls, folder: Path) -> CellResult | None:
        """The result of a finished cell; None when there is none yet."""
        path = folder / "cell.json"
        if not path.is_file():
            return None
        plain = json.loads(path.read_text(encoding="utf-8"))
        if plain["format"] != FORMAT:
            raise RunError(
                f"{path} has format {plain['format']}; this version reads {FORMAT}: choose another folder for the cells"
            )
        results = {
            task: {split: Result.from_json(result) for split, result in parts.items()} for task, parts in plain["results"].items()
        }
        cost = {name: math.nan if value is None else value for name, value in plain["cost"].items()}
        return cls(plain["arm"], plain["seed"], plain["resumed"], plain["scores"], cost, results, plain.get("shared", {}))

    def write(self, folder: Path) -> None:
        cost = {name: None if math.isnan(value) else value for name, value in self.cost.items()}
        results = {task: {split: result.to_json() for split, result in parts.items()} for task, parts in self.results.items()}
        plain = {"format": FORMAT, "arm": self.arm, "seed": self.seed, "resumed": self.resumed, "scores": dict(self.scores)}
        write_json(folder / "cell.json", {**plain, "cost": cost, "results": results, "shared": self.shared})


def run_cell(cell: Cell, work: Work, *, results: Results | None = None, own_process: bool = False) -> CellResult:
    """Runs a cell, or reads it when it is finished. A smoke test or trace is never stored.

    results      filled by `work`, where it scores tasks
    own_process  whether the peak of this process's memory is the cell's
    """
    if not cell.smoke and (done := CellResult.read(cell.folder)) is not None:
        return done
    resumed = not cell.smoke and cell.folder.exists() and any(cell.folder.iterdir())
    wall, cpu = time.perf_counter(), _cpu_seconds()
    with shared_costs() as shared:
        scores = dict(work(cell))
    spent = cell.spending
    cost = {
        "wall_seconds": math.nan if resumed else time.perf_counter() - wall - shared.wall_now,
        "cpu_seconds": math.nan if resumed else _cpu_seconds() - cpu - shared.cpu_now,
        "peak_memory": _peak_memory() if own_process else math.nan,
        "train_seconds": spent.train_seconds,
        "images_per_second": spent.samples / spent.train_seconds if spent.train_seconds else math.nan,
        "parameters": spent.trained + spent.frozen,
        "trained_parameters": spent.trained,
        "frozen_parameters": spent.frozen,
        **{name: value for name, value in asdict(spent).items() if name in ("steps", "samples", "labelled", "trusted")},
    }
    done = CellResult(cell.arm, cell.seed, resumed, scores, cost, results or {}, shared.seconds)
    if not cell.smoke:
        done.write(cell.folder)
    return done


def _parameters(recipe: Recipe) -> tuple[int, int]:
    """Trained and frozen parameters of the module that was trained."""
    from diptych.train.optimise import freeze

    model = recipe.model()
    freeze(model, recipe.optimiser())
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    return trained, sum(size for size, _ in sizes) - trained


def _stored_numbers(model: Path) -> int:
    """Numbers in the weights of a stored model; 0 when it has none."""
    path = model / "model.safetensors"
    if not path.is_file():
        return 0
    with safe_open(path, framework="pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118, a handle is no mapping


def _cpu_seconds() -> float:
    """Of this process and of its loader processes that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in used)


def _peak_memory() -> float:
    """Bytes. Under Linux from /proc: `ru_maxrss` of a started program begins at what its parent held."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) * 1024
    peak = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peak if sys.platform == "darwin" else peak * 1024
