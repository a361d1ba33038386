"""Tasks with sprites for an agent, as `gymnasium` environments: reach the target, push it into the corner, find the odd one out.

The agent is a red circle that moves by 0.05 up, left, down or right for 100 steps at most. Touching what is asked for gives 1, anything
else 0; both end the episode. After OCR-RL (Yoon et al., 2023, 2302.04419), whose tasks are built on Spriteworld.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from diptych.core.errors import ConfigError, MissingExtra
from diptych.worlds.sprites.drawing import COLOURS, SHAPES, Sprite, draw
from diptych.worlds.sprites.layout import AGENT, SpriteSettings, Task, goal, scene

try:
    import gymnasium
except ImportError:
    raise MissingExtra("gymnasium", "rl", needed_for="an environment of sprites") from None

MOVES = ((0.0, 1.0), (-1.0, 0.0), (0.0, -1.0), (1.0, 0.0))
"""Up, left, down, right."""
NEAR = 1e-6
Reward = Literal["sparse", "normal", "dense"]


@dataclass(frozen=True, kw_only=True)
class SpriteTask:
    """A task.

    task       target, push or odd_one_out
    size       side of the picture in pixels
    step       length of a move; steps, moves of an episode at most
    reward     "sparse"; "normal": 0.1 for touching a wrong object; "dense": 0.01 for coming nearer (of push: for moving the target), -0.01
               otherwise (of push: 0)
    observation  the "image" [size, size, 3], or the "state" [objects + 1, 5]: colour, shape, scale, x, y, the agent last
    settings   what may stand in a scene
    """

    task: Task = "target"
    size: int = 64
    step: float = 0.05
    steps: int = 100
    reward: Reward = "sparse"
    observation: Literal["image", "state"] = "image"
    settings: SpriteSettings = field(default_factory=SpriteSettings)

    def __post_init__(self) -> None:
        if self.task not in ("target", "push", "odd_one_out") or self.steps < 1:
            raise ConfigError(f"task is {self.task!r}, steps {self.steps} (expected target | push | odd_one_out, and 1 or more)")

    @classmethod
    def published(cls, task: Task, *, comparing: Literal["objects", "properties"] = "objects", **changes: Any) -> SpriteTask:
        """A task with the objects of OCR-RL: four of 4 colours and 3 shapes to reach, three squares to push, four of 2 colours and 2 shapes
        of which one is odd."""
        settings = {
            "target": SpriteSettings(),
            "push": SpriteSettings(objects=3, shapes=("square",), wall=0.15),
            "odd_one_out": SpriteSettings(colours=("blue", "green"), shapes=("square", "triangle"), comparing=comparing),
        }
        if task not in settings:
            raise ConfigError(f"task is {task!r} (expected {' | '.join(settings)})")
        return cls(task=task, settings=settings[task], **changes)


class SpriteEnvironment(gymnasium.Env):  # type: ignore[misc]
    """One of the tasks. `info["is_success"]` says whether an episode that ends has touched what was asked for."""

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, task: SpriteTask, render_mode: str | None = "rgb_array") -> None:
        self.task, self.render_mode = task, render_mode
        self.action_space = gymnasium.spaces.Discrete(4)
        if task.observation == "image":
            self.observation_space = gymnasium.spaces.Box(0, 255, (task.size, task.size, 3), np.uint8)
        else:
            rows = task.settings.objects + 1 + (task.task == "push")
            self.observation_space = gymnasium.spaces.Box(0, 255, (rows, 5), np.float32)
        self.sprites: list[Sprite] = []
        self.agent, self.chosen, self.moves = AGENT, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        made = scene(self.np_random, self.task.task, self.task.settings)
        self.sprites, self.chosen, self.agent, self.moves = list(made.sprites), made.chosen, AGENT, 0
        return self._observed(), {"is_success": False}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        move = MOVES[int(action)]
        before = self.sprites[self.chosen]
        distance = _apart(before, self.agent)
        if self.task.task == "push":
            self._push(move)
        else:
            self.agent = _walled(_moved(self.agent, move, self.task.step))
        self.moves += 1
        reward = self._dense(before, distance) if self.task.reward == "dense" else 0.0
        touched = self._touched()
        if touched is not None:
            reward = 1.0 if touched == self.chosen else 0.1 if self.task.reward == "normal" else 0.0
        ends = touched is not None
        return self._observed(), reward, ends, not ends and self.moves >= self.task.steps, {"is_success": touched == self.chosen}

    def _dense(self, before: Sprite, distance: float) -> float:
        if self.task.task == "push":
            return 0.01 if self.sprites[self.chosen] != before else 0.0
        return 0.01 if _apart(self.sprites[self.chosen], self.agent) < distance else -0.01

    def _touched(self) -> int | None:
        """The first object that the agent touches; of push, that touches the goal."""
        if self.task.task == "push":
            corner = goal(self.sprites[self.chosen])
            return next((n for n, one in enumerate(self.sprites) if _overlap(one, corner)), None)
        return next((n for n, one in enumerate(self.sprites) if _apart(one, self.agent) < AGENT.scale), None)

    def _push(self, move: tuple[float, float]) -> None:
        """The agent moves with the objects before it, as far as the slowest can go. One at the edge, or before another, stops it."""
        wanted = _moved(self.agent, move, self.task.step)
        way = [self.task.step]
        for number, sprite in enumerate(self.sprites):
            if not _overlap(sprite, wanted):
                continue
            pushed = _moved(sprite, move, self.task.step)
            others = [one for n, one in enumerate(self.sprites) if n != number]
            if _at_edge(sprite, move) or any(_overlap(pushed, one) for one in others):
                way.append(0.0)
                break
            pushed = _walled(pushed)
            way.append(abs(pushed.x - sprite.x) + abs(pushed.y - sprite.y))
            self.sprites[number] = pushed
        self.agent = _walled(_moved(self.agent, move, min(way)))

    def _observed(self) -> Any:
        if self.task.observation == "image":
            return self.render()
        colours, shapes = list(COLOURS), list(SHAPES)
        rows = [
            [colours.index(one.colour), shapes.index(one.shape), (one.scale > AGENT.scale), one.x, one.y] for one in self._drawn()
        ]
        return np.asarray(rows, np.float32)

    def _drawn(self) -> list[Sprite]:
        corner = [goal(self.sprites[self.chosen])] if self.task.task == "push" else []
        return [*self.sprites, *corner, self.agent]

    def render(self) -> Any:
        """[size, size, 3] of the present state."""
        return draw(self._drawn(), self.task.size)


def _moved(sprite: Sprite, move: tuple[float, float], length: float) -> Sprite:
    return replace(sprite, x=sprite.x + move[0] * length, y=sprite.y + move[1] * length)


def _walled(sprite: Sprite) -> Sprite:
    half = sprite.scale / 2
    return replace(sprite, x=float(np.clip(sprite.x, half, 1 - half)), y=float(np.clip(sprite.y, half, 1 - half)))


def _at_edge(sprite: Sprite, move: tuple[float, float]) -> bool:
    return (sprite.x if move[0] else sprite.y) in (sprite.scale / 2, 1 - sprite.scale / 2)


def _apart(one: Sprite, other: Sprite) -> float:
    return float(np.hypot(one.x - other.x, one.y - other.y))


def _overlap(one: Sprite, other: Sprite) -> bool:
    return _apart(one, other) + NEAR < one.scale / 2 + other.scale / 2
