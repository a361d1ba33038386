"""Sprites: areas, masks, layouts, and the tasks of an agent."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, UnknownName
from diptych.core.randomness import keyed_rng
from diptych.worlds.sprites.drawing import SHAPES, Sprite, draw, masks, vertices, visible_masks
from diptych.worlds.sprites.layout import AGENT, SpriteSettings, goal, scene
from diptych.worlds.sprites.world import QUARTERS, sprites


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_every_shape_has_the_same_area(shape: str) -> None:
    x, y = (vertices(Sprite(shape, "red", 0.4, 0.5, 0.5)) - 0.5).T
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(0.16)


def test_up_is_up_and_later_sprites_are_in_front() -> None:
    low, high = Sprite("square", "blue", 0.3, 0.2, 0.2), Sprite("square", "green", 0.3, 0.8, 0.8)
    pixels = draw([low, high], 32)
    assert pixels[25, 6].tolist() == [0, 0, 255]
    assert pixels[6, 25].tolist() == [0, 128, 0]
    behind = Sprite("square", "blue", 0.3, 0.5, 0.5)
    seen = visible_masks([behind, replace(behind, colour="red", x=0.6)], 32)
    assert not (seen[0] & seen[1]).any()
    assert seen[1].sum() == masks([replace(behind, x=0.6)], 32)[0].sum()
    assert seen[0].sum() < masks([behind], 32)[0].sum()


@pytest.mark.parametrize("comparing", ["objects", "properties"])
def test_one_sprite_is_odd_and_only_one(comparing: str) -> None:
    settings = SpriteSettings(colours=("blue", "green"), shapes=("square", "triangle"), comparing=comparing)  # type: ignore[arg-type]
    for index in range(60):
        made = scene(keyed_rng("odd", index), "odd_one_out", settings)
        odd = []
        for kind in ("colour", "shape"):
            counts = Counter(getattr(one, kind) for one in made.sprites)
            odd += [n for n, one in enumerate(made.sprites) if counts[getattr(one, kind)] == 1]
            if comparing == "objects":
                assert len(counts) <= 2
        assert odd == [made.chosen]
        gaps = [np.hypot(a.x - b.x, a.y - b.y) for a in (*made.sprites, AGENT) for b in made.sprites if a is not b]
        assert min(gaps) >= 0.15 + 0.08


def test_world_has_masks_labels_and_the_same_pixels() -> None:
    data = sprites(8, size=32, task="odd_one_out", objects=4, colours=2, shapes=2, overlap=0.0, scales=(0.15,))
    first = data[3]
    assert first.extras["label"] in QUARTERS
    assert len(first.regions) == 4
    again = sprites(8, size=32, task="odd_one_out", objects=4, colours=2, shapes=2, overlap=0.0, scales=(0.15,))[3]
    assert np.array_equal(first.image.pixels_HWC, again.image.pixels_HWC)  # type: ignore[union-attr]
    x0, y0, x1, y1 = first.regions[0].box
    assert 0 <= x0 < x1 <= 32
    assert 0 <= y0 < y1 <= 32


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown colour 'blu'; did you mean 'blue'"):
        SpriteSettings(colours=("blu",))
    with pytest.raises(ConfigError, match="do not fit"):
        scene(keyed_rng(0), "random", SpriteSettings(objects=12, scales=(0.4,)))
    with pytest.raises(ConfigError, match="two colours, shapes or scales"):
        scene(keyed_rng(0), "odd_one_out", SpriteSettings(colours=("red",), shapes=("square",)))


# ---------------------------------------------------------------- tasks


@pytest.fixture
def environments() -> Any:
    pytest.importorskip("gymnasium")
    from diptych.worlds.sprites import environments

    return environments


def walk(environment: Any, target: Sprite) -> tuple[float, bool, bool, int]:
    """Goes to a place, first sideways; what the last step gave, and how many there were."""
    for step in range(1, 200):
        dx, dy = target.x - environment.agent.x, target.y - environment.agent.y
        action = (3 if dx > 0 else 1) if abs(dx) > abs(dy) else (0 if dy > 0 else 2)
        _, reward, ended, cut, info = environment.step(action)
        if ended or cut:
            return reward, info["is_success"], cut, step
    raise AssertionError("no end")


@pytest.mark.parametrize("task", ["target", "odd_one_out"])
def test_touching_what_is_asked_for_is_rewarded(task: Any, environments: Any) -> None:
    environment = environments.SpriteEnvironment(environments.SpriteTask.published(task, size=16))
    for seed in range(6):
        observation, _ = environment.reset(seed=seed)
        assert environment.observation_space.contains(observation)
        chosen = environment.sprites[environment.chosen]
        reward, success, cut, _ = walk(environment, chosen)
        assert (reward == 1.0) == success
        assert not cut
        environment.reset(seed=seed)
        wrong = environment.sprites[(environment.chosen + 1) % 4]
        assert walk(environment, wrong)[0] in (0.0, 1.0)


def test_the_target_is_pushed_into_the_corner(environments: Any) -> None:
    environment = environments.SpriteEnvironment(environments.SpriteTask.published("push", size=16))
    environment.reset(seed=0)
    target = Sprite("square", "blue", 0.15, 0.5, 0.075)
    environment.sprites = [target, replace(target, colour="red", x=0.9, y=0.9), replace(target, colour="green", x=0.1, y=0.9)]
    environment.agent = replace(AGENT, x=0.75, y=0.075)
    for _ in range(20):
        _, reward, ended, _, info = environment.step(1)
        if ended:
            break
    assert (reward, info["is_success"]) == (1.0, True)
    assert environment.sprites[0].x - goal(target).x < 0.15
    assert environment.agent.x - environment.sprites[0].x >= 0.15 - 0.05 - 1e-9
    environment.reset(seed=0)
    environment.sprites = [target, replace(target, colour="red", x=0.5, y=0.225), replace(target, colour="green", x=0.1, y=0.9)]
    environment.agent = replace(AGENT, x=0.5, y=0.4)
    environment.step(2)
    environment.step(2)
    assert environment.sprites[1].y == pytest.approx(0.225), "the edge and the target stand behind it"


def test_an_episode_ends_by_its_time_limit_and_states_are_seen(environments: Any) -> None:
    task = replace(environments.SpriteTask.published("target"), steps=4, observation="state", reward="dense")
    environment = environments.SpriteEnvironment(task)
    state, _ = environment.reset(seed=1)
    assert state.shape == (5, 5)
    assert state[-1, 3:].tolist() == [0.5, 0.5]
    rewards = [environment.step(move)[1:4] for move in (0, 2, 0, 2)]
    assert [cut for _, _, cut in rewards] == [False, False, False, True]
    assert {round(reward, 2) for reward, _, _ in rewards} <= {0.01, -0.01}
    with pytest.raises(ConfigError, match=r"expected target \| push"):
        environments.SpriteTask(task="random")
