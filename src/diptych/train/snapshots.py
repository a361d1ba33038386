"""Saves the model at several points of a run, for protocols that evaluate its development."""

from __future__ import annotations

from diptych.core.contracts import Hook, Run, Stage


class Snapshots(Hook):
    """A model in `snapshots/` before the first stage and after each one: `00-start`, `01-NAME`, `02-NAME`, ...

    A stage that ended, was stopped there and resumed is written again, with the same bytes.
    """

    name = "snapshots"

    def __init__(self) -> None:
        self.ended = 0

    def on_stage(self, run: Run, stage: Stage) -> None:
        if run.step == 0:
            run.snapshot("00-start")

    def on_stage_end(self, run: Run, stage: Stage) -> None:
        self.ended += 1
        run.snapshot(f"{self.ended:02d}-{stage.name}")

    def state(self) -> dict[str, int]:
        return {"ended": self.ended}

    def load(self, state: dict[str, int]) -> None:
        self.ended = int(state["ended"])
