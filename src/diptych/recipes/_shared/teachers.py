"""Momentum teachers of recipes whose model keeps one beside it, as the companion "teacher"."""

from __future__ import annotations

import math
from typing import Protocol, cast

from torch import nn

from diptych.core.contracts import Hook, Run, Stage
from diptych.models.layers.frozen_modules import FrozenModules


class HasTeacher(Protocol):
    """A model with companions, whose teacher, where there is one, is a copy of its image side."""

    companions: FrozenModules

    def image_side(self) -> nn.Module: ...


def follow_(model: HasTeacher, start: float, progress: float) -> None:
    """The teacher: an exponential moving average of the image side, heads included. Its momentum goes from `start` to 1 as a cosine."""
    if "teacher" in model.companions:
        momentum = 1 - (1 - start) * 0.5 * (1 + math.cos(math.pi * progress))
        model.companions.average_("teacher", model.image_side(), momentum)


def reset_(model: HasTeacher) -> None:
    """The teacher becomes the image side as it is now."""
    if "teacher" in model.companions:
        model.companions.copy_("teacher", model.image_side())


class TeacherFromStart(Hook):
    """The teacher is the student as it is at the first step. The copy that is taken when a model is built knows nothing of the weights
    that a run starts from (`--init`)."""

    name = "teacher_from_start"

    def on_stage(self, run: Run, stage: Stage) -> None:
        if run.step == 0:
            reset_(cast(HasTeacher, run.model))
