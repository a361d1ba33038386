"""Short stories with a question whose answer takes one to three facts, in the manner of bAbI (Weston et al., 2015, 1502.05698):
`world:stories`.

    place    where is mary: the last move of hers
    carried  where is the apple: who took it last, and where that person is, or where it was dropped
    before   where was the apple before the garden: where it was taken through

>>> story = stories(3, seed=0)[0].extras["problem"]
>>> story["facts"][0].split()[1] in ("moved", "took", "dropped")
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.data.problems.problem import FIELD
from diptych.worlds.rendered import RenderedDataset, SceneRandom, rows_of, uid_of

NAME = "stories"
Split = Literal["train", "val", "test"]
PERSONS = ("mary", "john", "sandra", "daniel")
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
TASKS = ("place", "carried", "before")
FEWEST, MOST = 4, 12
"""Facts of a story."""


class _State:
    """Who is where, and where each thing was, in order."""

    def __init__(self) -> None:
        self.at: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.path: dict[str, list[str]] = {}

    def move(self, person: str, room: str) -> None:
        self.at[person] = room
        for thing, holder in self.holder.items():
            if holder == person:
                self.path[thing].append(room)


@dataclass(frozen=True)
class StoryWorld:
    """Stories that go on until their question has an answer."""

    seed: int = 0
    tasks: tuple[str, ...] = TASKS
    facts: int = MOST

    @property
    def splits(self) -> tuple[str, ...]:
        return get_args(Split)

    @property
    def identity(self) -> Any:
        return {"world": NAME, "seed": self.seed, "tasks": self.tasks, "facts": self.facts}

    def group(self, split: str, index: int) -> str:
        return uid_of(NAME, self.seed, split, index)

    def sample(self, split: str, index: int) -> Sample:
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        task = str(dice.pick(self.tasks))
        while True:
            facts, state = _told(dice, dice.between(min(FEWEST, self.facts), self.facts))
            if asked := _ASK[task](dice, state):
                break
        question, answer = asked
        problem = {"kind": "story", "facts": facts, "question": question, "answer": answer, "task": task}
        uid = uid_of(NAME, self.seed, split, index)
        return Sample(uid, licence="CC0-1.0", source=f"world:{NAME}", extras={"split": split, FIELD: problem})


def _told(dice: SceneRandom, count: int) -> tuple[list[str], _State]:
    state, facts = _State(), list[str]()
    while len(facts) < count:
        person = str(dice.pick(PERSONS))
        held = [thing for thing, holder in state.holder.items() if holder == person]
        lying = [
            thing
            for thing in THINGS
            if thing not in state.holder and state.path.get(thing, [""])[-1] in ("", state.at.get(person))
        ]
        act = dice.pick(("move", "move", "take", "drop"))
        if act == "take" and lying and person in state.at:
            thing = str(dice.pick(lying))
            state.holder[thing] = person
            state.path.setdefault(thing, [state.at[person]])
            facts.append(f"{person} took the {thing}")
        elif act == "drop" and held:
            thing = str(dice.pick(held))
            del state.holder[thing]
            facts.append(f"{person} dropped the {thing}")
        elif act == "move":
            room = str(dice.pick([room for room in PLACES if room != state.at.get(person)]))
            state.move(person, room)
            facts.append(f"{person} moved to the {room}")
    return facts, state


def _place(dice: SceneRandom, state: _State) -> tuple[str, str] | None:
    person = str(dice.pick(PERSONS))
    return (f"where is {person}", state.at[person]) if person in state.at else None


def _carried(dice: SceneRandom, state: _State) -> tuple[str, str] | None:
    thing = str(dice.pick(THINGS))
    return (f"where is the {thing}", state.path[thing][-1]) if thing in state.path else None


def _before(dice: SceneRandom, state: _State) -> tuple[str, str] | None:
    """Asked of the thing's last place, where it has been once."""
    thing = str(dice.pick(THINGS))
    path = state.path.get(thing, [])
    if len(path) < 2 or path.count(path[-1]) > 1:
        return None
    return f"where was the {thing} before the {path[-1]}", path[-2]


_ASK: dict[str, Callable[[SceneRandom, _State], tuple[str, str] | None]] = {
    "place": _place,
    "carried": _carried,
    "before": _before,
}


def stories(
    n: int = 2000, *, seed: int = 0, split: Split = "train", tasks: tuple[str, ...] = TASKS, facts: int = MOST
) -> RenderedDataset:
    """The first `n` stories of one split, of up to `facts` facts."""
    if not tasks or not set(tasks) <= set(TASKS) or facts < FEWEST:
        raise ConfigError(f"tasks are {', '.join(tasks)}, facts {facts} (expected some of {', '.join(TASKS)}; {FEWEST} or more)")
    world = StoryWorld(seed, tasks, facts)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
