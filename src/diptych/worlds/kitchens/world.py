"""Kitchens of emoji cut-outs with an instruction or an intent, and the symbolic goal that both together mean: `world:kitchens`.

The goal is `extras["goal"]`: a predicate (contain, cut, clean, cook), a subject and an object. What the picture does not show is
"unknown". Some sentences leave the tool open ("cook the egg"): then the picture shows exactly one that would do, so that only
both inputs together decide. Regions are labelled with their affordances and attributes, and relations say which tool works on what.

>>> sample = kitchens(2, seed=0)[0]
>>> sorted(sample.extras["goal"])
['named', 'object', 'predicate', 'subject']
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation
from diptych.data.planning.domains import DISHES, FOOD, HAND
from diptych.data.planning.goals import FIELD, UNKNOWN, Goal
from diptych.worlds.kitchens.sentences import sentence
from diptych.worlds.kitchens.things import (
    CONTAINERS,
    COOKABLE,
    CUTTABLE,
    EMOJI,
    HANDED,
    abilities,
    cook_tools,
    cutouts,
    interaction,
)
from diptych.worlds.rendered import RenderedDataset, SceneRandom, generator, rows_of, uid_of

NAME = "kitchens"
Split = Literal["train", "val", "test"]
GRID = 3
TASKS = ("put away", "deliver", "cut", "clean", "cook")
OPEN_TASKS = ("put away", "cook")
"""Tasks in which several tools would do."""
STYLES = ("noto", "fluent", "openmoji", "twemoji")


@dataclass(frozen=True, slots=True)
class KitchenScene:
    """goal    what is wanted, with what is absent as "unknown"; named: as the sentence says it, "" for a tool that it leaves open
    shown   the things in the picture
    """

    goal: Goal
    named: Goal
    text: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class KitchenWorld:
    """size     pixels of a side
    unnamed  share of sentences that leave the tool open
    missing  share of pictures without something that the goal needs
    intents   share of sentences that say what is wanted and not what to do
    most     things in a picture, at most
    styles   of emoji
    """

    seed: int = 0
    size: int = 64
    unnamed: float = 0.2
    missing: float = 0.2
    intents: float = 0.3
    most: int = 6
    styles: tuple[str, ...] = ("noto",)

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("unnamed", "missing", "intents")}
        if wrong := [f"{name} is {value}" for name, value in shares.items() if not 0 <= value <= 1]:
            raise ConfigError(f"{wrong[0]} (expected a share between 0 and 1)")
        if not 32 <= self.size <= 512 or not 4 <= self.most <= GRID**2:
            raise ConfigError(f"size is {self.size} and most {self.most} (expected 32 to 512 pixels, and 4 to {GRID**2} things)")
        if not self.styles or set(self.styles) - set(STYLES):
            raise ConfigError(f"styles is {self.styles} (expected some of {', '.join(STYLES)})")

    @property
    def identity(self) -> Any:
        return {"world": NAME, **to_plain(self)}

    @property
    def splits(self) -> tuple[str, ...]:
        return get_args(Split)

    def group(self, split: str, index: int) -> str:
        return uid_of(NAME, self.seed, split, index)

    def sample(self, split: str, index: int) -> Sample:
        dice = SceneRandom.of_scene(NAME, self.seed, split, index)
        scene = self.scene(dice)
        pixels_HWC, regions = self._drawn(scene.shown, dice)
        relations = tuple(
            Relation(a, predicate, b)
            for a, one in enumerate(regions)
            for b, other in enumerate(regions)
            if (predicate := interaction(one.label, other.label))
        )
        uid = uid_of(NAME, self.seed, split, index)
        return Sample(
            uid,
            ArrayImage(pixels_HWC, uid),
            (Text(scene.text, "en"),),
            regions=regions,
            relations=relations,
            licence="Apache-2.0" if self.styles == ("noto",) else "",
            source=f"world:{NAME}",
            extras={"split": split, FIELD: {**asdict(scene.goal), "named": asdict(scene.named)}},
        )

    def scene(self, dice: SceneRandom) -> KitchenScene:
        """A goal, its sentence and the things that are there."""
        open_ended = dice.uniform() < self.unnamed
        task = dice.pick(OPEN_TASKS if open_ended else TASKS)
        goal, rivals = _wanted(task, dice)
        intent = dice.uniform() < self.intents
        text, named = sentence(goal, dice, intent=intent, tool_named=not open_ended)
        open_ended = not named.object
        needed = [name for name in (goal.subject, goal.object) if name != HAND]
        absent: tuple[str, ...] = ()
        if dice.uniform() < self.missing:
            absent = tuple(needed) if len(needed) > 1 and dice.uniform() < 0.2 else (dice.pick(needed),)
        shown = [name for name in needed if name not in absent]
        if "sink" in shown:
            shown.append("faucet")
        # A tool that is left open has to be the only one that would do; one that is absent must not come back as another thing.
        barred = {*needed, *(rivals if open_ended else ()), "faucet", *(("sink",) if task == "clean" else ())}
        others = dice.shuffled([name for name in EMOJI if name not in barred])
        shown += others[: max(0, dice.between(4, self.most) - len(shown))]
        if "sink" in shown and "faucet" not in shown:  # in the place of another thing that nobody asked for
            shown[-1 if shown[-1] != "sink" else -2] = "faucet"
        present = (goal.predicate, *(UNKNOWN if name in absent else name for name in (goal.subject, goal.object)))
        return KitchenScene(Goal(*present), named, text, tuple(dice.shuffled(shown)))

    def _drawn(self, shown: tuple[str, ...], dice: SceneRandom) -> tuple[npt.NDArray[np.uint8], tuple[Region, ...]]:
        size, cell = self.size, self.size / GRID
        tone = dice.uniform(190, 250)
        noise_HWC = generator(dice.seed()).normal(tone, 4, (size, size, 3))
        picture = Image.fromarray(np.clip(noise_HWC, 0, 255).astype(np.uint8)).convert("RGBA")
        regions = []
        for name, slot in zip(shown, dice.shuffled(range(GRID**2)), strict=False):
            side = round(cell * dice.uniform(0.75, 0.95))
            thing = _resized(name, dice.pick(self.styles), side)
            x = round(slot % GRID * cell + dice.uniform(0, cell - thing.width))
            y = round(slot // GRID * cell + dice.uniform(0, cell - thing.height))
            picture.alpha_composite(thing, (x, y))
            regions.append(Region((x, y, x + thing.width, y + thing.height), name, abilities(name)))
        return np.asarray(picture.convert("RGB"), np.uint8).copy(), tuple(regions)


def _wanted(task: str, dice: SceneRandom) -> tuple[Goal, tuple[str, ...]]:
    """A goal of a task, and all tools that would do for it."""
    if task == "put away":
        return Goal("contain", dice.pick(FOOD), dice.pick(CONTAINERS)), CONTAINERS
    if task == "deliver":
        return Goal("contain", dice.pick(HANDED), HAND), ()
    if task == "cut":
        return Goal("cut", dice.pick(CUTTABLE), "knife"), ("knife",)
    if task == "clean":
        return Goal("clean", dice.pick(DISHES), "sink"), ("sink",)
    food = dice.pick(COOKABLE)
    tools = cook_tools(food)
    return Goal("cook", food, dice.pick(tools)), tools


@lru_cache(maxsize=1024)
def _resized(name: str, style: str, side: int) -> Image.Image:
    """A thing whose longer side has this many pixels."""
    picture = Image.fromarray(cutouts(style)[name].pixels_HWC)
    scale = side / max(picture.size)
    wide, high = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((wide, high), Image.Resampling.LANCZOS)


def kitchens(
    n: int = 4000,
    *,
    seed: int = 0,
    split: Split = "train",
    size: int = 64,
    unnamed: float = 0.2,
    missing: float = 0.2,
    intents: float = 0.3,
    most: int = 6,
    styles: tuple[str, ...] = ("noto",),
) -> RenderedDataset:
    """The first `n` kitchens of one split."""
    world = KitchenWorld(seed, size, unnamed, missing, intents, most, tuple(styles))
    return RenderedDataset(NAME, world, rows_of(world, split, n))
