"""Plans by a classical planner: objects and facts of a problem, compiled, solved, mapped back and validated.

Needs the extra `planning` (`unified-planning` with `up-pyperplan`). pyperplan knows neither alternatives nor negations in preconditions,
so both are compiled away first, and the plan's actions are mapped back to those of the domain. Names are plain PDDL names: lower case,
letters, digits, "_" and "-". A predicate may have the name of an action (`cut`), which unified-planning refuses by default.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from diptych.core.errors import ConfigError, DataError, MissingExtra, UnknownName
from diptych.data.planning.domains import Condition, Domain, domain_of
from diptych.data.planning.goals import Goal

NAME = re.compile(r"[a-z][a-z0-9_-]*")
PLANNER = "pyperplan"
Step = tuple[str, ...]
"""An action and its objects: ("dropoff", "egg", "arm", "microwave")."""


@dataclass(frozen=True, slots=True)
class Plan:
    """steps     actions in order; None if nothing is planned
    refusal   why not: an unknown part of the goal, something that is not there, or no way to the goal; "" with a plan
    """

    goal: Goal
    steps: tuple[Step, ...] | None
    refusal: str = ""

    def lines(self) -> list[str]:
        if self.steps is None:
            return [f"no plan for {self.goal}: {self.refusal}"]
        return [f"{number}. {step[0]} {', '.join(step[1:])}" for number, step in enumerate(self.steps, 1)]


def plan_for(
    goal: Goal,
    labels: Iterable[str],
    *,
    facts: Sequence[str] = (),
    domain: Domain | None = None,
    planner: str = PLANNER,
) -> Plan:
    """The plan to a goal among objects that are seen.

    labels   what is seen; what the domain knows of a label holds of it
    facts    further facts, "contains cup sink"
    domain   None: the one of the goal's predicate
    planner  a name of unified-planning's
    A goal with an unknown part is refused without asking the planner. Raises ConfigError for a goal outside of the domain,
    UnknownName for a planner that is not installed, DataError for a name that PDDL does not allow, MissingExtra without the packages.
    """
    if not goal.complete:
        part = next(name for name in ("predicate", "subject", "object") if getattr(goal, name) == "unknown")
        return Plan(goal, None, f"the {part} is unknown")
    domain = domain or domain_of(goal)
    seen = tuple(sorted({symbol(label) for label in labels}))
    return _planned(_Problem(domain, goal, seen, tuple(facts)), planner)


def accepts(plan: Plan, goal: Goal, labels: Iterable[str], *, facts: Sequence[str] = (), domain: Domain | None = None) -> bool:
    """True if a plan can be carried out among these objects and ends in that goal, by unified-planning's validator."""
    if plan.steps is None or not goal.complete:
        return False
    domain = domain or domain_of(goal)
    return _accepted(_Problem(domain, goal, tuple(sorted({symbol(label) for label in labels})), tuple(facts)), plan.steps)


def symbol(label: str) -> str:
    """A label as a PDDL name: "Cell phone" becomes cell_phone. Raises DataError if no name can be formed."""
    name = "_".join(label.strip().lower().split())
    if not NAME.fullmatch(name):
        raise DataError(f"{label!r} is not a name of an object", field="labels", expected="letters, digits, '_' and '-'")
    return name


class _Problem:
    """A domain with objects, facts and a goal; equal ones hash alike."""

    def __init__(self, domain: Domain, goal: Goal, seen: tuple[str, ...], facts: tuple[str, ...]) -> None:
        given = (*domain.facts, *facts)
        self.domain, self.goal = domain, goal
        # Things of which the domain knows nothing can take part in no action.
        useful = [name for name in seen if name in domain.known or name in (goal.subject, goal.object)]
        self.objects = tuple(sorted({*useful, *(name for fact in given for name in fact.split()[1:])}))
        self.known = tuple(f"{predicate} {name}" for name in self.objects for predicate in domain.known.get(name, ()))
        self.facts = (*self.known, *given)
        arities = domain.arities()
        for literal in (*facts, f"{goal.predicate} {goal.subject} {goal.object}"):
            name, *arguments = literal.split()
            if arities.get(name) != len(arguments):
                raise ConfigError(
                    f"'{literal}' is not a fact of the domain '{domain.name}' "
                    f"(expected a predicate of {', '.join(arities)} with its objects)"
                )

    @property
    def key(self) -> tuple[object, ...]:
        return self.domain.name, id(self.domain), str(self.goal), self.objects, self.facts

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Problem) and self.key == other.key

    @property
    def absent(self) -> str:
        """An object of the goal that is not there; "" if both are."""
        return next((name for name in (self.goal.subject, self.goal.object) if name not in self.objects), "")

    def built(self) -> Any:
        """As a problem of unified-planning."""
        up = _library().shortcuts
        kind = up.UserType("thing")
        problem = up.Problem(self.domain.name)
        fluents = {
            name: up.Fluent(name, up.BoolType(), **{f"x{number}": kind for number in range(count)})
            for name, count in self.domain.arities().items()
        }
        for fluent in fluents.values():
            problem.add_fluent(fluent, default_initial_value=False)
        objects = {name: up.Object(name, kind) for name in self.objects}
        problem.add_objects(objects.values())

        def literal(text: str, names: dict[str, Any]) -> Any:
            predicate, *arguments = text.split()
            return fluents[predicate](*(names[name] for name in arguments))

        def condition(need: Condition, names: dict[str, Any]) -> Any:
            if isinstance(need, str):
                return literal(need, names)
            return up.Or([up.And([literal(text, names) for text in branch]) for branch in need])

        for action in self.domain.actions:
            made = up.InstantaneousAction(action.name, **dict.fromkeys(action.parameters, kind))
            names = {name: made.parameter(name) for name in action.parameters}
            for need in action.needs:
                made.add_precondition(condition(need, names))
            for text in action.adds:
                made.add_effect(literal(text, names), True)
            for text in action.removes:
                made.add_effect(literal(text, names), False)
            problem.add_action(made)
        for fact in self.facts:
            problem.set_initial_value(literal(fact, objects), True)
        problem.add_goal(literal(f"{self.goal.predicate} {self.goal.subject} {self.goal.object}", objects))
        return problem


@lru_cache(maxsize=4096)
def _planned(problem: _Problem, planner: str) -> Plan:
    goal = problem.goal
    if problem.absent:
        return Plan(goal, None, f"there is no {problem.absent}")
    up = _library()
    with _shared_names_allowed():
        factory = up.environment.get_environment().factory
        if planner not in factory.engines:
            raise UnknownName("planner", planner, factory.engines)
        whole = problem.built()
        results, compiled = [], whole
        kinds = up.engines.CompilationKind
        for kind in (kinds.DISJUNCTIVE_CONDITIONS_REMOVING, kinds.NEGATIVE_CONDITIONS_REMOVING):
            with up.shortcuts.Compiler(problem_kind=compiled.kind, compilation_kind=kind) as compiler:
                results.append(compiler.compile(compiled, kind))
            compiled = results[-1].problem
        with up.shortcuts.OneshotPlanner(name=planner) as engine:
            solution = engine.solve(compiled).plan
    if solution is None:
        return Plan(goal, None, "no sequence of actions leads to it")
    for result in reversed(results):
        solution = solution.replace_action_instances(result.map_back_action_instance)
    steps = tuple((one.action.name, *(str(name) for name in one.actual_parameters)) for one in solution.actions)
    return Plan(goal, steps)


@lru_cache(maxsize=4096)
def _accepted(problem: _Problem, steps: tuple[Step, ...]) -> bool:
    if problem.absent:
        return False
    up = _library()
    with _shared_names_allowed():
        whole = problem.built()
        instances = []
        for name, *arguments in steps:
            if not whole.has_action(name) or not all(argument in problem.objects for argument in arguments):
                return False
            action = whole.action(name)
            if len(action.parameters) != len(arguments):
                return False
            objects = tuple(up.shortcuts.ObjectExp(whole.object(argument)) for argument in arguments)
            instances.append(up.plans.ActionInstance(action, objects))
        plan = up.plans.SequentialPlan(instances)
        with up.shortcuts.PlanValidator(problem_kind=whole.kind, plan_kind=plan.kind) as validator:
            return bool(validator.validate(whole, plan))


def _library() -> Any:
    try:
        import unified_planning
        import unified_planning.engines
        import unified_planning.environment
        import unified_planning.plans
        import unified_planning.shortcuts
    except ImportError as error:
        raise MissingExtra("unified-planning", "planning", needed_for="planning") from error
    return unified_planning


@contextmanager
def _shared_names_allowed() -> Iterator[None]:
    """Lets a predicate and an action share a name, without the library's warning and credits; its settings come back."""
    environment: Any = _library().environment.get_environment()
    before, credits = environment.error_used_name, environment.credits_stream
    environment.error_used_name, environment.credits_stream = False, None
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Name .* already defined", category=UserWarning)
            yield
    finally:
        environment.error_used_name, environment.credits_stream = before, credits
