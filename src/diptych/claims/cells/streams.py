"""Arms on a stream of tasks: one recipe on the tasks one after the other, every model of the stream scored on every task."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.claims.cell import Cell, Scores
from diptych.claims.cells.pairs import retrieved
from diptych.claims.training import trained, untrained
from diptych.models.io.deployed import open_model
from diptych.recipes.contrastive.ctp import CTP
from diptych.tasks.pairs.continual import Continual, Stream
from diptych.worlds.task_streams import Tasks

SMOKE_ROWS, SMOKE_STEPS = 32, 8


@dataclass(frozen=True)
class Streamed:
    """`rows` training and `tested` test rows of each task. "first_task" is recall of the first task after the last one.

    learns  False asks the model as it is before the first step about the first task alone
    """

    recipe: CTP
    tasks: Tasks
    rows: int
    tested: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        size = SMOKE_ROWS if cell.smoke else 0
        rows, test = self.tasks("train", size or self.rows, cell.seed), self.tasks("test", size or self.tested, cell.seed)
        if not self.learns:
            first = min(rows.column("task"))
            alone = test.select([row for row, name in enumerate(test.column("task")) if name == first])
            return {"first_task": retrieved(untrained(self.recipe, rows, cell), alone, origins=())["r@1"]}
        task = Continual()
        folder = trained(self.recipe, rows, cell, smoke_steps=SMOKE_STEPS)
        models = [open_model(path) for path in sorted(folder.snapshots.iterdir()) if path.is_dir()]
        result = task.score(task.records(models, Stream.read(folder.snapshots / "stream.json"), test))
        found = {name.replace(",", "_"): metric.value for name, metric in result.metrics.items()}
        last = len(models) - 1
        named = {"first_task": found[f"r[{last}_1]"], "last_task": found[f"r[{last}_{last}]"], "first_task_then": found["r[1_1]"]}
        return {**found, **named}
