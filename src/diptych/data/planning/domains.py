"""Planning domains as data: actions with what they need, add and remove (PDDL's STRIPS part and alternatives).

The five are those of SGL's manipulation experiments (Xu et al., 2022, arXiv 2202.12912), predicates and actions by their names, in lower
case as PDDL reads them. In `cut` a predicate and an action have the same name, as released.

>>> DOMAINS["cut"].actions[1].adds
('cut target tool',)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diptych.core.errors import ConfigError
from diptych.data.planning.goals import Goal

Condition = str | tuple[tuple[str, ...], ...]
"""A literal, "free arm", or alternatives, each a tuple of literals that hold together."""


@dataclass(frozen=True, slots=True)
class Action:
    """An action over parameters; literals are a predicate and its parameters with blanks between them.

    needs    all have to hold; a tuple is a list of alternatives
    adds, removes   what holds, and what no longer holds, afterwards
    """

    name: str
    parameters: tuple[str, ...]
    needs: tuple[Condition, ...]
    adds: tuple[str, ...]
    removes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for literal in self.literals():
            if wrong := [name for name in literal.split()[1:] if name not in self.parameters]:
                raise ConfigError(f"action '{self.name}': '{literal}' names {wrong[0]!r} (expected {', '.join(self.parameters)})")

    def literals(self) -> Iterator[str]:
        for need in self.needs:
            yield from (need,) if isinstance(need, str) else (literal for branch in need for literal in branch)
        yield from (*self.adds, *self.removes)


@dataclass(frozen=True)
class Domain:
    """name, actions
    facts    what holds in every problem, beside what is seen
    known    label -> predicates of one object that hold of it where it is seen (affordances, attributes)
    """

    name: str
    actions: tuple[Action, ...]
    facts: tuple[str, ...]
    known: dict[str, tuple[str, ...]]

    def arities(self) -> dict[str, int]:
        """Number of parameters of every predicate."""
        literals = [literal for action in self.actions for literal in action.literals()]
        facts = [f"{predicate} x" for predicates in self.known.values() for predicate in predicates]
        count: dict[str, int] = {}
        for literal in (*literals, *self.facts, *facts):
            name, *arguments = literal.split()
            if count.setdefault(name, len(arguments)) != len(arguments):
                raise ConfigError(f"domain '{self.name}': predicate '{name}' has {count[name]} and {len(arguments)} parameters")
        return count


PICKUP = Action(
    "pickup",
    ("item", "arm"),
    ("graspable item", "free arm"),
    ("carry arm item",),
    ("free arm", "graspable item"),
)
FOOD = ("apple", "bread", "egg", "lettuce", "potato", "tomato")
DISHES = ("bowl", "cup", "mug", "pan", "plate", "pot")
DELIVERED = (
    *(
        "apple",
        "book",
        "bottle",
        "bowl",
        "bread",
        "cellphone",
        "cup",
        "egg",
        "fork",
        "kettle",
        "knife",
        "ladle",
        "lettuce",
        "mug",
    ),
    *("pan", "pen", "pencil", "plate", "pot", "potato", "spatula", "spoon", "tomato", "wine"),
)
PUT_AWAY = Domain(
    "pick_and_place",
    (
        PICKUP,
        Action(
            "place",
            ("item", "arm", "target"),
            ("carry arm item", "containable target"),
            ("graspable item", "free arm", "contain item target"),
            ("carry arm item",),
        ),
    ),
    ("free arm",),
    {**dict.fromkeys(FOOD, ("graspable",)), **dict.fromkeys(("bowl", "pan", "plate", "pot"), ("containable",))},
)
DELIVERY = Domain(
    "delivery",
    (
        PICKUP,
        Action(
            "delivery",
            ("item", "arm", "target"),
            ("carry arm item", "containable target"),
            ("contain item target", "free arm"),
            ("carry arm item",),
        ),
    ),
    ("free arm", "containable hand"),
    dict.fromkeys(DELIVERED, ("graspable",)),
)
CUT = Domain(
    "cut",
    (
        Action("pickup", ("tool", "arm"), ("cuttool tool", "free arm"), ("carry arm tool",), ("free arm",)),
        Action("cut", ("target", "tool", "arm"), ("carry arm tool", "cuttable target"), ("cut target tool",)),
    ),
    ("free arm",),
    {**dict.fromkeys(("tomato", "apple", "bread", "lettuce", "potato"), ("cuttable",)), "knife": ("cuttool",)},
)
CLEAN = Domain(
    "clean",
    (
        PICKUP,
        Action(
            "dropoff",
            ("item", "arm", "target"),
            ("carry arm item", "containable target"),
            ("contains item target", "graspable item", "free arm"),
            ("carry arm item",),
        ),
        Action("toggle", ("item", "place", "switch"), ("contains item place", "toggleable switch"), ("clean item place",)),
    ),
    ("free arm",),
    {**dict.fromkeys(DISHES, ("graspable",)), "sink": ("containable",), "faucet": ("toggleable",)},
)
COOK = Domain(
    "cook",
    (
        PICKUP,
        Action("open", ("door", "arm"), ("openable door", "free arm"), ("opened door",), ("closed door",)),
        Action(
            "dropoff",
            ("item", "arm", "target"),
            (
                "carry arm item",
                (
                    ("slice_containable target", "sliced item"),
                    ("open_containable target",),
                    ("containable target", "opened target"),
                ),
            ),
            ("contains item target", "free arm"),
            ("carry arm item",),
        ),
        Action("close", ("door", "arm"), ("closeable door", "opened door", "free arm"), ("closed door",), ("opened door",)),
        Action(
            "toggle",
            ("item", "place"),
            (
                "contains item place",
                "toggleable place",
                (("containable place", "closed place"), ("slice_containable place",), ("open_containable place",)),
            ),
            ("cook item place",),
        ),
    ),
    ("free arm",),
    {
        **dict.fromkeys(("egg", "lettuce", "potato"), ("graspable",)),
        "bread": ("graspable", "sliced"),
        "toaster": ("toggleable", "slice_containable"),
        "microwave": ("toggleable", "containable", "openable", "closeable", "closed"),
        "pan": ("toggleable", "open_containable"),
    },
)
DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (PUT_AWAY, DELIVERY, CUT, CLEAN, COOK)}
HAND = "hand"


def domain_of(goal: Goal) -> Domain:
    """The domain in which a goal is reached: by its predicate, and for "contain" by whether something is handed over. Raises ConfigError
    for another predicate."""
    by_predicate = {"contain": DELIVERY if goal.object == HAND else PUT_AWAY, "cut": CUT, "clean": CLEAN, "cook": COOK}
    if goal.predicate not in by_predicate:
        raise ConfigError(f"no domain has the predicate '{goal.predicate}' (expected {' | '.join(by_predicate)})")
    return by_predicate[goal.predicate]
