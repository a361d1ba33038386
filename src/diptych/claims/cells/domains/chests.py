"""Rendered chest X-rays: a linear probe of factors that reports mention, or never do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diptych.claims.cell import Cell, Scores
from diptych.claims.training import opened, untrained
from diptych.tasks.pairs.linear_probe import LinearProbe
from diptych.worlds.chests.world import ChestWorld
from diptych.worlds.rendered import RenderedDataset, rows_of

TESTED, PROBED = 500, 1000


@dataclass(frozen=True)
class ProbedChests:
    """Trains on chests with reports, or without reading them, then a linear probe on frozen vectors: spacing of the ribs and a
    device, which no report mentions, and whether there is a lesion.

    count   pictures to train on; the probe has the first of them
    learns  False asks the model as it is before the first step
    """

    recipe: Any
    count: int
    learns: bool = True

    def __call__(self, cell: Cell) -> Scores:
        world = ChestWorld(cell.seed, size=48, most=1, pictured="impression")
        rows = RenderedDataset("chests", world, rows_of(world, "train", self.count))
        model = (opened if self.learns else untrained)(self.recipe, rows, cell)
        train = rows[:PROBED].to_pool()
        test = RenderedDataset("chests", world, rows_of(world, "test", TESTED)).to_pool()
        return {name: _probed(model, train, test, name) for name in ("ribs", "lesion", "device")}


def _probed(model: Any, train: Any, test: Any, name: str) -> float:
    """Accuracy of the probe of one factor."""
    labelled = [pool.with_columns({"factor": [_factor(sample.extras, name) for sample in pool]}) for pool in (train, test)]
    probe = LinearProbe(label="factor", train=labelled[0], draws=1)
    return probe.score(probe.predict(model, labelled[1])).metrics["acc@1"].value


def _factor(extras: dict[str, Any], name: str) -> str:
    if name == "lesion":
        return "present" if extras["present"] else "absent"
    return str(extras[name])
