"""Preference-optimisation engine: gradient steps on preferred and rejected answers against frozen reference models (DPO and
similar methods).

The log-probabilities of the reference come with the pairs, computed once before a phase (`scored_samples` in the recipe's `Stage.make`),
or from a frozen companion that is asked in every step, at the cost of a second model in memory and a second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from diptych.core.contracts import Batch, Draw, Draws, Engine, StepOutput, Trainer
from diptych.core.errors import DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.core.terminal.signals import check_stop
from diptych.train.engines.companions import FrozenModels
from diptych.train.engines.requirements import preferring


class Preference(Engine):
    """A step asks every companion about the batch first; their answers travel in the batch, as rows. Then backward and update are those
    of `Supervised`, gradient caching included, and `losses` needs no model but the one that is trained. A phase without companions
    trains on what the batch holds."""

    descends: ClassVar[bool] = True
    once: ClassVar[bool] = False
    companions: FrozenModels

    def begin(self, run: Trainer, model: nn.Module) -> None:
        self.companions = FrozenModels(preferring(run.recipe).companions(model), model, run.recipe)

    def step(self, run: Trainer, batch: Batch) -> StepOutput:
        if len(self.companions):
            answers = {name: run.features_of(companion, batch) for name, companion in self.companions.items()}
            batch = preferring(run.recipe).judged(batch, answers)
        outcome = run.backward(batch)
        run.update(outcome)
        return outcome

    def state(self) -> dict[str, Any]:
        return self.companions.state()

    def load(self, state: dict[str, Any]) -> None:
        self.companions.load(state)


@torch.no_grad()
def scored_samples(run: Trainer, samples: Sequence[Sample], *, size: int) -> Iterator[tuple[Sequence[Sample], Batch, Any]]:
    """Samples in order, `size` at a time, with the batch that the recipe of the current phase builds from them, and its features by the
    model as it is, in evaluation mode and without gradient. The caller puts the model back into training mode.

    Draws are keyed by the sample alone, so that a recipe that augments is scored on one view of each. A sample that cannot be loaded
    is left out of the run, and of what is yielded.
    """
    recipe, model = run.recipe, run.model.eval()
    starts = range(0, len(samples), size)
    for start in with_bar(starts, len(starts), "reference log-probabilities"):
        check_stop()
        some, draws = list[Sample](), list[Draw]()
        for sample in samples[start : start + size]:
            rng = keyed_rng("reference", sample.uid)
            try:
                media = dict(recipe.load(sample, rng))
            except DataError as error:
                run.leave_out({sample.uid: str(error)})
                continue
            some.append(sample)
            draws.append(Draw(sample, rng, media.pop("image", None), media))
        if not some:
            continue
        batch = run.on_device(recipe.batch(Draws(tuple(draws), keyed_rng("reference", start))))
        yield some, batch, run.features_of(model, batch)
