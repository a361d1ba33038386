"""Arms on a stream of tasks: one recipe on the tasks one after the other, every model of the stream scored on every task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.learned_pairs.pairs import retrieved
from diptych.claims.cells.learned_pairs.task_streams import Tasks
from diptych.claims.training import trained, untrained
from diptych.data.dataset import Pool
from diptych.models.io.saved_model import open_model
from diptych.recipes.contrastive.ctp import CTP
from diptych.tasks.pairs.continual import Continual, TaskStream

SMOKE_ROWS, SMOKE_STEPS = 32, 8


@dataclass(frozen=True)
class Streamed:
    """`rows` training and `tested` test rows of each task. "union" is recall at 1 among all tasks after the last one, "first_task"
    that of the first alone.
    """

    recipe: CTP
    tasks: Tasks
    rows: int
    tested: int

    def __call__(self, cell: Cell) -> Scores:
        rows, test = drawn(self.tasks, self.rows, self.tested, cell)
        task = Continual()
        folder = trained(self.recipe, rows, cell, smoke_steps=SMOKE_STEPS)
        models = [open_model(path) for path in sorted(folder.snapshots.iterdir()) if path.is_dir()]
        result = task.score(task.records(models, TaskStream.read(folder.snapshots / "stream.json"), test))
        scores = {name.replace(",", "_"): metric.value for name, metric in result.metrics.items()}
        last = len(models) - 1
        named = {
            "first_task": scores[f"r[{last}_1]"],
            "last_task": scores[f"r[{last}_{last}]"],
            "first_task_then": scores["r[1_1]"],
        }
        return {**scores, **named}


@dataclass(frozen=True)
class Untrained:
    """The model of an arm as it is before the first step."""

    arm: Streamed

    def __call__(self, cell: Cell) -> Scores:
        rows, test = drawn(self.arm.tasks, self.arm.rows, self.arm.tested, cell)
        return asked(untrained(self.arm.recipe, rows, cell), test)


@dataclass(frozen=True)
class Stopped:
    """An arm that learns the first task, in that task's part of the steps, and none of the others: it cannot forget."""

    arm: Streamed

    def __call__(self, cell: Cell) -> Scores:
        rows, test = drawn(self.arm.tasks, self.arm.rows, self.arm.tested, cell)
        first = of_first_task(rows)
        recipe = replace(self.arm.recipe, steps=round(self.arm.recipe.steps * len(first) / len(rows)))
        return asked(open_model(trained(recipe, first, cell, smoke_steps=SMOKE_STEPS).model), test)


@dataclass(frozen=True)
class AtOnce:
    """An arm that has all tasks at once, as nobody has who learns them one after the other."""

    arm: Streamed

    def __call__(self, cell: Cell) -> Scores:
        rows, test = drawn(self.arm.tasks, self.arm.rows, self.arm.tested, cell)
        recipe = replace(self.arm.recipe, split=replace(self.arm.recipe.split, at_most=1))
        return asked(open_model(trained(recipe, rows, cell, smoke_steps=SMOKE_STEPS).model), test)


def drawn(tasks: Tasks, rows: int, tested: int, cell: Cell) -> tuple[Pool, Pool]:
    """Training and test rows of the cell's seed."""
    size = SMOKE_ROWS if cell.smoke else 0
    return tasks("train", size or rows, cell.seed), tasks("test", size or tested, cell.seed)


def of_first_task(rows: Pool) -> Pool:
    names = rows.column("task")
    first = min(names)
    return rows.select([row for row, name in enumerate(names) if name == first])


def asked(model: Any, test: Pool) -> Scores:
    """Recall at 1 over the test rows of all tasks together, and over those of the first."""
    return {
        "union": retrieved(model, test, origins=())["r@1"],
        "first_task": retrieved(model, of_first_task(test), origins=())["r@1"],
    }
