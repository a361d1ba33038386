"""Pairs of scenes with a text that only both together answer: `world:scene_pairs`, in the three styles of MC-Bench.

referring   "the red circle": what has that name, in whichever picture it is
comparison  "things whose colour is in the other picture too", "circles of the picture that has more circles", "things whose shape is not in
            the other picture"
reasoning   "things that have a partner of the same shape in the other picture, a group for each shape"

In a negative pair nothing is meant. The truth is computed from what was drawn.

>>> pair = scene_pairs(3)[2]
>>> pair.extras["multi_context"]["style"], len(pair.media["images"].parts)
('comparison', 2)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.read.multi_context import FIELD
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.scenes.layout import COLOURS, SHAPES
from diptych.worlds.scenes.world import SceneWorld, Split

NAME = "scene_pairs"
STYLES = (("referring", 0.17), ("comparison", 0.41), ("reasoning", 0.42))
"""As often as in MC-Bench."""
NEGATIVE = 0.3
TRIES = 200  # pairs that are drawn until one is as wanted

Scene = Sequence[Region]
Groups = tuple[list[int], list[int]]
"""Of each picture the group of each of its things, 0 for one that is not meant."""


def colour_of(region: Region) -> str:
    return next(word for word in region.attributes if word in COLOURS)


def named(pair: tuple[Scene, Scene], colour: str, shape: str) -> Groups:
    """Mask of the things of that colour ("" for any) and shape, per picture."""
    one, other = ([int(r.label == shape and colour in ("", colour_of(r))) for r in scene] for scene in pair)
    return one, other


def sharing(pair: tuple[Scene, Scene], kind: Callable[[Region], str], *, shared: bool) -> Groups:
    """Mask of the things whose kind the other picture has, or has not."""
    kinds = [{kind(r) for r in scene} for scene in pair]
    one, other = ([int((kind(r) in kinds[1 - side]) == shared) for r in scene] for side, scene in enumerate(pair))
    return one, other


def more(pair: tuple[Scene, Scene], shape: str) -> Groups:
    """Mask of the things of a shape, in the picture that has more of them."""
    counts = [sum(r.label == shape for r in scene) for scene in pair]
    one, other = ([int(r.label == shape and counts[side] > counts[1 - side]) for r in scene] for side, scene in enumerate(pair))
    return one, other


def partners(pair: tuple[Scene, Scene]) -> Groups:
    """A group for each shape that both pictures have, by the order of the alphabet."""
    both = sorted({r.label for r in pair[0]} & {r.label for r in pair[1]})
    one, other = ([both.index(r.label) + 1 if r.label in both else 0 for r in scene] for scene in pair)
    return one, other


@dataclass(frozen=True)
class TwoScenes(SceneWorld):
    """A world of scenes, two at a time. Subclasses define the question about them."""

    named: ClassVar[str]

    @property
    def identity(self) -> Any:
        return {**super().identity, "world": self.named}

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def group(self, split: str, index: int) -> str:
        return f"{self.named}-{self.seed}-{split}-{index}"

    def tries(self, split: str, index: int) -> Iterator[list[Sample]]:
        """Candidate pairs of scenes; the first that fits becomes the sample."""
        for attempt in range(TRIES):
            yield [SceneWorld.sample(self, split, 2 * (TRIES * index + attempt) + side) for side in (0, 1)]


@dataclass(frozen=True)
class ScenePairWorld(TwoScenes):
    """Pairs of scenes with a text that only both together answer."""

    named: ClassVar[str] = NAME

    def sample(self, split: str, index: int) -> Sample:
        rng = keyed_rng(NAME, self.seed, split, index)
        style = str(rng.choice([name for name, _ in STYLES], p=[share for _, share in STYLES]))
        positive = bool(rng.random() >= NEGATIVE)
        for scenes in self.tries(split, index):
            pair = (scenes[0].regions, scenes[1].regions)
            text, groups = _statement_of(pair, style, rng)
            if any(map(any, groups)) == positive:
                return self._made(split, index, scenes, text, style, groups)
        raise AssertionError(f"none of {TRIES} pairs is {'a positive' if positive else 'a negative'} one of {style}")

    def _made(self, split: str, index: int, scenes: Sequence[Sample], text: str, style: str, groups: Groups) -> Sample:
        uid = uid_of(NAME, self.seed, split, index)
        pictures: list[ImageSource] = [scene.image for scene in scenes if scene.image is not None]
        images = []
        for side, scene in enumerate(scenes):
            meant = [(region, group) for region, group in zip(scene.regions, groups[side], strict=True) if group]
            images.append(
                {
                    "id": 2 * index + side,
                    "width": self.size,
                    "height": self.size,
                    "boxes": [list(region.box) for region, _ in meant],
                    "groups": [group for _, group in meant],
                    "crowd": [False for _ in meant],
                }
            )
        numbers = sorted({1, *(group for side in groups for group in side if group)})
        question_fields = {
            "text": text,
            "style": style,
            "positive": any(map(any, groups)),
            "categories": {str(number): f"group {number}" for number in numbers},
            "images": images,
        }
        return Sample(
            uid,
            media={"images": MediaItem("images", tuple(pictures))},
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras={
                "split": split,
                FIELD: question_fields,
                "scenes": [[_plain(region) for region in scene.regions] for scene in scenes],
            },
        )


def _plain(region: Region) -> dict[str, Any]:
    return {"box": list(region.box), "shape": region.label, "colour": colour_of(region)}


def _statement_of(pair: tuple[Scene, Scene], style: str, rng: Any) -> tuple[str, Groups]:
    """Text of that style about these scenes, and the groups of things that it refers to."""
    things = [*pair[0], *pair[1]]
    if style == "referring":
        thing = things[int(rng.integers(len(things)))]
        colour = colour_of(thing) if rng.random() < 0.6 else str(rng.choice(COLOURS))
        return f"the {colour} {thing.label}", named(pair, colour, thing.label)
    if style == "reasoning":
        return "things that have a partner of the same shape in the other picture, a group for each shape", partners(pair)
    which = int(rng.integers(3))
    if which == 0:
        return "things whose colour is in the other picture too", sharing(pair, colour_of, shared=True)
    if which == 1:
        return "things whose shape is not in the other picture", sharing(pair, lambda r: r.label, shared=False)
    shape = str(rng.choice(sorted({r.label for r in things}) if rng.random() < 0.6 else SHAPES))
    return f"{shape}s of the picture that has more {shape}s", more(pair, shape)


def scene_pairs(n: int = 200, *, seed: int = 0, split: Split = "test", size: int = 64, max_objects: int = 4) -> RenderedDataset:
    """The first `n` pairs of one split."""
    world = ScenePairWorld(seed=seed, size=size, max_objects=max_objects, lengths=("short",), paraphrases=0, negatives=False)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
