"""From an instruction and a picture to actions: a goal network says what is wanted, a planner how to get there (SGL, 2202.12912)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from diptych.core.contracts import Detector, GoalPredictor, Role
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.data.planning.domains import DOMAINS
from diptych.data.planning.goals import Goal
from diptych.data.planning.planner import PLANNER, Plan, plan_for


@dataclass(frozen=True)
class Instruction:
    """image  the scene
    text   what is wanted: "cook the egg", "I would like slices of apple"
    seen   names of things that are there, with commas between them, where no detector says so
    """

    image: ImageSource
    text: str
    seen: str = ""


@dataclass(frozen=True)
class InstructionPlan:
    """goal   what is wanted
    labels what is seen
    plan   actions, or why there are none
    """

    goal: Goal
    labels: tuple[str, ...]
    plan: Plan

    def lines(self) -> list[str]:
        return [f"goal: {self.goal}", *self.plan.lines()]

    def to_json(self) -> dict[str, Any]:
        return {
            "goal": asdict(self.goal),
            "labels": list(self.labels),
            "steps": None if self.plan.steps is None else [list(step) for step in self.plan.steps],
            "refusal": self.plan.refusal,
        }


@dataclass(frozen=True)
class Instructions:
    """Goal, then plan. A goal with an unknown part, or with something that is not seen, is refused in words.

    model      what predicts the goal
    detector   what says which things are there, by the names that the planning domains know
    min_score  things below it are not seen
    planner    by unified-planning's name
    """

    slug: ClassVar[str] = "instructions"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("model", GoalPredictor, "a goal network, such as a run of sgl"),
        Role("detector", Detector, "what says which things are to be seen", optional=True),
    )
    request: ClassVar[type] = Instruction

    model: GoalPredictor
    detector: Detector | None = None
    min_score: float = 0.5
    planner: str = PLANNER

    def run(self, request: Instruction) -> InstructionPlan:
        labels = tuple(dict.fromkeys(name.strip() for name in request.seen.split(",") if name.strip()))
        if not labels:
            labels = self._seen(request.image)
        (parts,) = self.model.predict_goals([request.image], [request.text])
        goal = Goal(*parts)
        return InstructionPlan(goal, labels, plan_for(goal, labels, planner=self.planner))

    def _seen(self, image: ImageSource) -> tuple[str, ...]:
        if self.detector is None:
            raise ConfigError("the visible objects are missing (expected a detector, or seen='egg, pan')")
        names = sorted({name for domain in DOMAINS.values() for name in domain.known})
        (graph,) = self.detector.detect([image], objects=names, relations=(), top=100)
        return tuple(dict.fromkeys(region.label for region in graph.regions if region.score >= self.min_score))
