"""Sprites of a scene and their positions: at random, with one that is to be found, or with an odd one out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diptych.core.errors import ConfigError, UnknownName
from diptych.worlds.sprites.drawing import COLOURS, SHAPES, Sprite

Task = Literal["random", "target", "push", "odd_one_out"]
AGENT = Sprite("circle", "red", 0.15, 0.5, 0.5)
TRIES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SpriteSettings:
    """Sprites that may stand in a scene.

    objects     how many, the agent left out
    colours, shapes, scales  that occur
    target      colour, shape and scale of what is to be reached or pushed
    comparing   of an odd one out: "objects", all else equal ("-oc" of OCR-RL), or "properties", the others in pairs or more of anything
    apart       free space between two sprites, and to the agent; wall, to the edge
    overlap     sprites may hide each other, their middles this far apart at least; 0: they may not
    """

    objects: int = 4
    colours: tuple[str, ...] = ("blue", "green", "yellow", "red")
    shapes: tuple[str, ...] = ("square", "triangle", "star_4")
    scales: tuple[float, ...] = (0.15,)
    target: tuple[str, str, float] = ("blue", "square", 0.15)
    comparing: Literal["objects", "properties"] = "objects"
    apart: float = 0.08
    wall: float = 0.08
    overlap: float = 0.0

    def __post_init__(self) -> None:
        for colour in (*self.colours, self.target[0]):
            if colour not in COLOURS:
                raise UnknownName("colour", colour, COLOURS)
        for shape in (*self.shapes, self.target[1]):
            if shape not in SHAPES:
                raise UnknownName("shape", shape, SHAPES)
        if not 1 <= self.objects <= 12 or not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"objects {self.objects}, scales {self.scales} (expected 1 to 12, and one above 0 or more)")


@dataclass(frozen=True, slots=True)
class SpriteScene:
    """Sprites in order, the agent left out, and the place of the one that counts: the target, or the odd one."""

    sprites: tuple[Sprite, ...]
    chosen: int


def scene(rng: np.random.Generator, task: Task, settings: SpriteSettings, *, agent: bool = True) -> SpriteScene:
    """A scene of a task. With an agent the middle of the picture is left free."""
    chosen, sprites = 0, [Sprite("square", "blue", settings.scales[0], 0.0, 0.0)] * settings.objects
    if task == "odd_one_out":
        chosen = int(rng.integers(settings.objects))
        sprites = _odd_one_out(rng, settings, chosen)
    elif task in ("target", "push"):
        chosen = int(rng.integers(settings.objects)) if task == "target" else 0
        sprites = [_target(settings) if n == chosen else _other(rng, settings) for n in range(settings.objects)]
    elif task == "random":
        sprites = [_any(rng, settings) for _ in range(settings.objects)]
    else:
        raise UnknownName("task of sprites", task, ("random", "target", "push", "odd_one_out"))
    fixed = [AGENT] if agent else []
    if task == "push":
        fixed.append(goal(sprites[0]))
    return SpriteScene(tuple(placed(rng, sprites, settings, fixed)), chosen)


def goal(target: Sprite) -> Sprite:
    """Where the target is to be pushed: the bottom left corner."""
    return replace(target, x=target.scale / 2, y=target.scale / 2)


def placed(
    rng: np.random.Generator, sprites: Sequence[Sprite], settings: SpriteSettings, fixed: Sequence[Sprite]
) -> list[Sprite]:
    """The sprites at random places, none too near to another, to a fixed one or to the edge."""
    for _ in range(100):
        done: list[Sprite] = []
        for sprite in sprites:
            least = sprite.scale / 2 + settings.wall
            for _ in range(TRIES // 100):
                x, y = rng.uniform(least, 1 - least, 2)
                if all(np.hypot(x - o.x, y - o.y) >= _distance(sprite, o, settings) for o in (*fixed, *done)):
                    done.append(replace(sprite, x=float(x), y=float(y)))
                    break
            else:
                break
        if len(done) == len(sprites):
            return done
    raise ConfigError(
        f"{len(sprites)} sprites of {settings.scales} do not fit (expected fewer, smaller ones, or less space between them)"
    )


def _distance(one: Sprite, other: Sprite, settings: SpriteSettings) -> float:
    return settings.overlap or one.scale / 2 + other.scale / 2 + settings.apart


def _target(settings: SpriteSettings) -> Sprite:
    colour, shape, scale = settings.target
    return Sprite(shape, colour, scale, 0.0, 0.0)


def _any(rng: np.random.Generator, settings: SpriteSettings) -> Sprite:
    return Sprite(
        settings.shapes[int(rng.integers(len(settings.shapes)))],
        settings.colours[int(rng.integers(len(settings.colours)))],
        settings.scales[int(rng.integers(len(settings.scales)))],
        0.0,
        0.0,
    )


def _other(rng: np.random.Generator, settings: SpriteSettings) -> Sprite:
    """Any sprite but the target."""
    for _ in range(TRIES):
        sprite = _any(rng, settings)
        if sprite != _target(settings):
            return sprite
    raise ConfigError("every sprite would be the target (expected another colour, shape or scale)")


def _odd_one_out(rng: np.random.Generator, settings: SpriteSettings, chosen: int) -> list[Sprite]:
    """One sprite has a colour, shape or scale of its own; no other has."""
    if settings.objects < 3:
        raise ConfigError(f"objects is {settings.objects} (expected 3 or more: of two, neither is the odd one)")
    values = {"colour": settings.colours, "shape": settings.shapes, "scale": settings.scales}
    kinds = [kind for kind, some in values.items() if len(some) > 1]
    if not kinds:
        raise ConfigError("no property has two values (expected two colours, shapes or scales)")
    odd = kinds[int(rng.integers(len(kinds)))]
    columns: dict[str, list[object]] = {}
    for kind, some in values.items():
        if kind == odd:
            own = some[int(rng.integers(len(some)))]
            others = _shared(rng, [value for value in some if value != own], settings.objects - 1)
            columns[kind] = [*others[:chosen], own, *others[chosen:]]
        elif settings.comparing == "objects":
            columns[kind] = [some[int(rng.integers(len(some)))]] * settings.objects
        else:
            columns[kind] = _shared(rng, list(some), settings.objects)
    return [
        Sprite(str(shape), str(colour), float(scale), 0.0, 0.0)  # type: ignore[arg-type]
        for shape, colour, scale in zip(columns["shape"], columns["colour"], columns["scale"], strict=True)
    ]


def _shared(rng: np.random.Generator, values: Sequence[object], count: int) -> list[object]:
    """This many values in a random order, each that occurs at least twice."""
    made: list[object] = []
    while len(made) < count:
        value = values[int(rng.integers(len(values)))]
        left = count - len(made)
        number = int(rng.integers(2, left + 1)) if left > 1 else 1
        made += [value if left > 1 else made[-1]] * number
        if count - len(made) == 1:
            made.append(value)
    return [made[int(n)] for n in rng.permutation(count)]
