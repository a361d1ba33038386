"""Records of a social scene: captions of people and objects, with age and gender of people, as text for the storyteller.

People are given by boxes. A detection that overlaps a person's box enough is that person, and its box and mask are used; other
detections are objects. Each is described by asking a captioner about its crop, in which pixels outside the mask are black.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from diptych.core.contracts import Generator
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.scene_graph import Box, Region
from diptych.data.masks import pixels_of
from diptych.data.media.cropped import crop_of
from diptych.data.media.decode import decode

CAPTION = "A photo of"
SCENE = "Question: What scene is depicted in this picture? Answer:"
AGE = "Question: How old is this person in the picture? Answer:"
Repeated = Literal["drop", "keep"]
GENDER = "Question: What gender is this person in the picture? Answer:"


@dataclass(frozen=True, slots=True)
class DescribedObject:
    """A person or object with its symbol ("P1", "O2"), box in image pixels, and description."""

    symbol: str
    box: Box
    caption: str
    age: str = ""
    gender: str = ""
    mask: Any = None

    def record(self, scale: tuple[float, float]) -> str:
        """Text for the storyteller: box as [x, y, width, height], its corners cut to whole pixels of the scaled image.

        scale  factors of x and y
        """
        x0, y0, x1, y1 = (int(value * factor) for value, factor in zip(self.box, scale * 2, strict=True))
        words = f"{{<symbol>:[{self.symbol}] , <coordinate>:[{x0}, {y0}, {x1 - x0}, {y1 - y0}] , <caption>:[{self.caption}]"
        if self.symbol.startswith("P"):
            words += f" , <age>:[{self.age}] , <gender>:[{self.gender}]"
        return words + "}"


@dataclass(frozen=True, slots=True)
class SceneRecords:
    """Descriptions of a picture, its people and its things.

    width, height  of the picture with its longer side at `side` pixels
    scale          factors of x and y from the picture's pixels to those
    """

    caption: str
    scene: str
    described: tuple[DescribedObject, ...]
    width: int
    height: int
    scale: tuple[float, float]

    @property
    def text(self) -> str:
        """All records, people first, each with "; " behind it."""
        return "".join(f"{one.record(self.scale)}; " for one in self.described)


def scaled_size(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height with the longer side at `side`, the other cut to whole pixels.

    >>> scaled_size(1023, 682, 384), scaled_size(300, 300, 384)
    ((384, 256), (384, 384))
    """
    ratio = width / height
    return (side, int(side / ratio)) if width > height else (int(side * ratio), side)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - both)


def matched_people(
    people: Sequence[Box], regions: Sequence[Region], least: float, *, repeated: Repeated = "drop"
) -> tuple[list[DescribedObject], list[Region]]:
    """People with the boxes and masks of the regions that overlap theirs by more than `least`, and the other regions.

    Each region is assigned to at most one person, in order of people.

    repeated  further regions that overlap a person that much: "drop", or "keep" them among the others, as released
    """
    left, persons = list(regions), list[DescribedObject]()
    for number, box in enumerate(people, start=1):
        shares = [overlap(box, region.box) for region in left]
        best = int(np.argmax(shares)) if shares else -1
        if best >= 0 and shares[best] > least:
            region = left.pop(best)
            persons.append(DescribedObject(f"P{number}", region.box, "", mask=region.mask))
        else:
            persons.append(DescribedObject(f"P{number}", box, ""))
    if repeated == "keep":
        return persons, left
    return persons, [region for region in left if all(overlap(person.box, region.box) <= least for person in persons)]


def describe_scene(
    image: ImageSource,
    people: Sequence[Box],
    regions: Sequence[Region],
    captioner: Generator,
    *,
    least: float,
    side: int,
    tokens: int,
    repeated: Repeated = "drop",
) -> SceneRecords:
    """Ask the captioner about the picture, each person and each thing."""
    pixels_HWC = decode(image, exact=True)
    height, width = pixels_HWC.shape[:2]
    persons, things = matched_people(people, regions, least, repeated=repeated)
    objects = [DescribedObject(f"O{row}", region.box, "", mask=region.mask) for row, region in enumerate(things, start=1)]
    crops = [_crop(pixels_HWC, one, image.name) for one in (*persons, *objects)]
    asked: list[tuple[ImageSource, str]] = [(image, CAPTION), (image, SCENE), *((crop, CAPTION) for crop in crops)]
    asked += [(crop, prompt) for prompt in (AGE, GENDER) for crop in crops[: len(persons)]]
    replies = captioner.generate([one for one, _ in asked], [prompt for _, prompt in asked], max_tokens=tokens)
    words = [" ".join(reply.split()) for reply in replies]
    captions, rest = words[2 : 2 + len(crops)], words[2 + len(crops) :]
    ages, genders = rest[: len(persons)], rest[len(persons) :]
    described = [
        replace(one, caption=caption, age=age, gender=gender)
        for one, caption, age, gender in zip(persons, captions, ages, genders, strict=False)
    ]
    described += [replace(one, caption=caption) for one, caption in zip(objects, captions[len(persons) :], strict=True)]
    wide, high = scaled_size(width, height, side)
    return SceneRecords(words[0], words[1], tuple(described), wide, high, (wide / width, high / height))


def _crop(pixels_HWC: Any, one: DescribedObject, name: str) -> ImageSource:
    shown = pixels_HWC
    if one.mask is not None:
        mask_HW = pixels_of(one.mask, *pixels_HWC.shape[:2])
        shown = pixels_HWC * mask_HW[..., None]
    return ArrayImage(crop_of(shown, one.box), f"{name} at {one.symbol}")
