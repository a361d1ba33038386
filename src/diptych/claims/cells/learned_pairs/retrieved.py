"""Arms on data at an address: a recipe learns from the split "train", then retrieves on held-out splits."""

from __future__ import annotations

from dataclasses import dataclass

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.core.contracts import Recipe
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.address import cached_for_training, open_data

SMOKE_ROWS = 16


@dataclass(frozen=True)
class Retrieved:
    """Returns "PART/METRIC" for every part; `learns=False` asks the model as it is before the first step."""

    recipe: Recipe
    parts: tuple[str, ...]
    data: str = "emoji"
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        whole = open_data(self.data)
        rows, held = whole.split("train"), {part: whole.split(part) for part in self.parts}
        if cell.smoke:
            rows = rows.select(range(SMOKE_ROWS))
            held = {part: rest.select(range(min(SMOKE_ROWS, len(rest)))) for part, rest in held.items()}
        rows = cached_for_training(rows, self.recipe)
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        task = Retrieval(draws=1)
        scores: dict[str, float] = {}
        for part, rest in held.items():
            result = task.score(task.predict(model, rest))
            scores |= {f"{part}/{name}": metric.value for name, metric in result.metrics.items()}
        return scores
