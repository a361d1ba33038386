"""Furnished rooms: a coloured cloud with the class and object of every point, pictures with depth and poses, boxes, spatial relations with
their viewpoint, descriptions with object ids, and questions. Metres, z is up.

>>> data = rooms(1, seed=0)
>>> data[0].media["cloud"].decode().shape, len(data[0].media["frames"].parts), data[0].extras["descriptions"][0]["viewpoint"]
((2048, 6), 2, 'door')
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from diptych.core.config import to_plain
from diptych.core.errors import ConfigError
from diptych.core.media import ArraySource, MediaItem
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.media.decode import encode_png
from diptych.worlds.rendered import RenderedDataset, rows_of, uid_of
from diptych.worlds.rooms.language import descriptions, questions, spatial_relations
from diptych.worlds.rooms.layout import NAME, Room, cameras, room
from diptych.worlds.rooms.rendering import render_frame

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class RoomWorld:
    """The configuration. points  of a cloud; frames  pictures with depth, the first from the door; size  their pixels per side; least, most
    things in a room; described  descriptions of each thing at most; asked  questions of a room at most"""

    seed: int = 0
    points: int = 2048
    frames: int = 2
    size: int = 64
    least: int = 5
    most: int = 9
    described: int = 2
    asked: int = 6

    def __post_init__(self) -> None:
        if not 64 <= self.points <= 20_000 or not 1 <= self.frames <= 8 or not 16 <= self.size <= 512:
            raise ConfigError(
                f"{self.points} points, {self.frames} frames of {self.size} pixels (expected 64..20000, 1..8, 16..512)"
            )
        if not 1 <= self.least <= self.most <= 20 or min(self.described, self.asked) < 0:
            raise ConfigError(
                f"{self.least} to {self.most} things, {self.described} descriptions, {self.asked} questions "
                "(expected 1..20, least up to most, and 0 or more)"
            )

    @property
    def identity(self) -> Any:
        return to_plain(self)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "val", "test")

    def group(self, split: str, index: int) -> str:
        return f"{split}-{index}"

    def room(self, split: str, index: int) -> Room:
        """Things and dense points of a row."""
        return room(self.seed, split, index, self.least, self.most)

    def sample(self, split: str, index: int) -> Sample:
        """`cloud` with colours of 0..255 and `point_labels` [P, 2] (number of the class in `layout.CLASSES`, id of the object or -1);
        `frames`, `depths` (a band each, metres) and the extra `cameras`. Extras `objects` (id, label, colour, size, box of centre and
        extents), `relations`, `descriptions` and `questions`. Texts are the descriptions."""
        made, uid = self.room(split, index), uid_of(NAME, self.seed, split, index)
        views, rng = cameras(made, self.frames, self.size), keyed_rng(NAME, "words", self.seed, split, index)
        relations = spatial_relations(made.objects, views[0])
        described = descriptions(made.objects, relations, rng, self.described)
        cloud_P6 = np.concatenate([made.xyz_N3, made.colour_N3], 1)[: self.points].astype(np.float32)
        label_P2 = np.stack([made.label_N, made.object_N], 1)[: self.points].astype(np.int32)
        frames = tuple(RoomFrame(self, split, index, number) for number in range(self.frames))
        extras = {
            "split": split,
            "objects": [{**asdict(thing), "box": list(thing.box)} for thing in made.objects],
            "relations": [asdict(relation) for relation in relations],
            "descriptions": described,
            "questions": questions(made.objects, rng, self.asked),
            "cameras": [camera.to_json() for camera in views],
        }
        return Sample(
            uid,
            image=frames[0],
            texts=tuple(Text(row["description"], "en", "caption") for row in described),
            group=self.group(split, index),
            licence="CC0-1.0",
            source=f"world:{NAME}",
            extras=extras,
            media={
                "cloud": MediaItem("cloud", (ArraySource(cloud_P6, uid),)),
                "point_labels": MediaItem("raster", (ArraySource(label_P2, f"{uid}-labels"),)),
                "frames": MediaItem("images", frames),
                "depths": MediaItem("raster", (ArraySource(_depths(self, split, index), f"{uid}-depths"),)),
            },
        )


@dataclass(frozen=True, slots=True)
class RoomFrame:
    """One picture of a room, rendered when it is read."""

    world: RoomWorld
    split: str
    index: int
    number: int

    @property
    def name(self) -> str:
        return f"{uid_of(NAME, self.world.seed, self.split, self.index)}-frame-{self.number}"

    def read(self) -> bytes:
        return _rendered(self.world, self.split, self.index)[0][self.number]


@lru_cache(maxsize=512)
def _rendered(world: RoomWorld, split: str, index: int) -> tuple[list[bytes], Any]:
    """Pictures as PNG and depths [H, W, frames] of a room; the last ones are kept."""
    made = world.room(split, index)
    shown = [
        render_frame(made.xyz_N3, made.normal_N3, made.colour_N3, camera, world.size, splat=max(1, world.size // 48))
        for camera in cameras(made, world.frames, world.size)
    ]
    return [encode_png(picture) for picture, _ in shown], np.stack([depth for _, depth in shown], -1)


def _depths(world: RoomWorld, split: str, index: int) -> Any:
    return _rendered(world, split, index)[1]


def rooms(
    n: int = 500,
    *,
    seed: int = 0,
    split: Split = "train",
    points: int = 2048,
    frames: int = 2,
    size: int = 64,
    least: int = 5,
    most: int = 9,
    described: int = 2,
    asked: int = 6,
) -> RenderedDataset:
    """The first `n` rooms of one split."""
    world = RoomWorld(seed, points, frames, size, least, most, described, asked)
    return RenderedDataset(NAME, world, rows_of(world, split, n))
