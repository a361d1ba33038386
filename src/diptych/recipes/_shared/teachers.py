"""A hook for recipes whose model holds a momentum teacher."""

from __future__ import annotations

from typing import Protocol, cast

from diptych.core.contracts import Hook, Run, Stage


class HasTeacher(Protocol):
    """A model that can make its teacher anew from its own weights."""

    def reset_teacher_(self) -> None: ...


class TeacherFromStart(Hook):
    """The teacher is the student as it is at the first step. The copy that is taken when a model is built knows nothing of the weights
    that a run starts from (`--init`)."""

    name = "teacher_from_start"

    def on_stage(self, run: Run, stage: Stage) -> None:
        if run.step == 0:
            cast(HasTeacher, run.model).reset_teacher_()
