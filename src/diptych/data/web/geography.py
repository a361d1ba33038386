"""Maps whose regions have names, from Debian's kgeography-data: every region has a colour of its own, which gives its mask.

A map is one sample with all its regions, a flag another. Letters: H W pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.parsers import expat

import numpy as np
import numpy.typing as npt
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.image import BytesImage
from diptych.core.randomness import keyed_uniforms
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.masks import box_of, encode
from diptych.data.quarantine import QuarantineEntry
from diptych.data.web.debian import files, uids, version_of

MAPS = "usr/share/kgeography"
WORLD = "world"
"""The map of all countries, which the maps of the continents show as well, larger and in other colours: unseen map, seen names."""
HELD_OUT = 0.2
"""Share of the countries whose maps, and of the flags, training does not have."""
LICENCE = "GPL-2.0-or-later"
FEWEST = 4
"""Pixels of a region; what has fewer is no region of that map."""


@dataclass(frozen=True, slots=True)
class Division:
    """A named region of a map: its colour, and its capital and flag if there are any."""

    name: str
    colour: tuple[int, int, int]
    capital: str = ""
    flag: str = ""


def read_geography(debs: list[Path]) -> tuple[list[Sample], list[QuarantineEntry]]:
    """A sample for each map, with a region for every named division that it shows, and one for each flag of a division.

    Splits: "train", "unseen_map" (the world map: names that training has, drawn otherwise) and "unseen_place" (a fifth of the countries
    with all their maps, and a fifth of the flags).
    """
    source = version_of(debs[0])
    pictures: dict[PurePosixPath, bytes] = {}
    cards: dict[PurePosixPath, bytes] = {}
    for path, data in files(debs[0], MAPS):
        if path.suffix == ".png":
            pictures[path] = data
        elif path.suffix == ".kgm":
            cards[path] = data
    samples, bad, flags = [], list[QuarantineEntry](), dict[PurePosixPath, str]()
    for path, uid in zip(sorted(cards), uids(sorted(cards)), strict=True):
        try:
            file, name, kind, divisions = read_map(cards[path])
            regions = regions_of(pixels_of(pictures.get(PurePosixPath(file)), file), divisions)
        except DataError as error:
            bad.append(QuarantineEntry(uid, "regions", error.problem, str(path)))
            continue
        for division in divisions:
            if division.flag:
                flags.setdefault(PurePosixPath("flags") / division.flag, division.name)
        split = "unseen_map" if path.stem == WORLD else held_out(path.stem)
        texts = (Text(f"A map of {name} with its {kind.casefold() or 'regions'}.", "en"), Text(name, "en", "label"))
        image, extras = BytesImage(pictures[PurePosixPath(file)], file), {"category": "map", "split": split}
        samples.append(
            Sample(uid, image, texts, regions, group=country_of(path.stem), licence=LICENCE, source=source, extras=extras)
        )
    drawn = sorted(path for path in flags if path in pictures)
    for path, uid in zip(drawn, uids(drawn), strict=True):
        name = flags[path]
        texts = (Text(f"The flag of {name}.", "en"), Text(name, "en", "label"))
        image, extras = BytesImage(pictures[path], str(path)), {"category": "flag", "split": held_out(name.casefold())}
        samples.append(Sample(uid, image, texts, group=f"flag of {name}", licence=LICENCE, source=source, extras=extras))
    return samples, bad


def country_of(stem: str) -> str:
    """Country that several maps share: "portugal" of "portugal_regions"."""
    return stem.partition("_")[0]


def held_out(stem: str) -> str:
    """Split of a map by its country; continents and the world are training."""
    country = country_of(stem)
    return (
        "unseen_place" if float(keyed_uniforms([country], "geography")[0]) < HELD_OUT and country not in CONTINENTS else "train"
    )


CONTINENTS = frozenset(("africa", "asia", "europe", "ncamerica", "southamerica", "oceania", "caribbean", "world", "waters"))


def read_map(card: bytes) -> tuple[str, str, str, list[Division]]:
    """Picture file, name, what its divisions are called, and the divisions that have a name of their own. Entities are refused."""
    facts: dict[str, str] = {}
    divisions: list[Division] = []
    path, words, here = list[str](), list[str](), dict[str, str]()

    def start(tag: str, _: dict[str, str]) -> None:
        path.append(tag)
        words.clear()

    def end(tag: str) -> None:
        inside, text = "division" in path[:-1], " ".join("".join(words).split())
        words.clear()
        if tag == "division":
            if here.get("name") and here.get("ignore") != "yes":
                divisions.append(Division(here["name"], _colour(here), here.get("capital", ""), here.get("flag", "")))
            here.clear()
        elif text:
            (here if inside else facts).setdefault(tag, text)
        path.pop()

    def refuse(name: str, *_: object) -> None:
        raise DataError(f"the description of the map declares the entity {name!r}")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.EntityDeclHandler = words.append, refuse
    try:
        parser.Parse(card, True)
    except expat.ExpatError as error:
        raise DataError(f"the description of the map is not well-formed: {error}") from error
    return facts.get("mapFile", ""), facts.get("name", ""), facts.get("divisionsName", ""), divisions


def _colour(division: dict[str, str]) -> tuple[int, int, int]:
    values = [division.get(channel, "").removeprefix("-0") or "0" for channel in ("red", "green", "blue")]  # one map says -0
    if not all(value.isdecimal() and int(value) < 256 for value in values):
        raise DataError(f"'{division['name']}' has the colour {values}", field="color", expected="three numbers from 0 to 255")
    red, green, blue = map(int, values)
    return red, green, blue


def pixels_of(data: bytes | None, file: str) -> npt.NDArray[np.int64]:
    """[H, W]: the colour of every pixel as one number."""
    if data is None:
        raise DataError(f"the map's picture {file} is not in the package")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            rgb_HWC = np.asarray(image.convert("RGB")).astype(np.int64)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the map's picture {file} cannot be read: {error}") from error
    code_HW: npt.NDArray[np.int64] = rgb_HWC @ np.array([65536, 256, 1])
    return code_HW


def regions_of(code_HW: npt.NDArray[np.int64], divisions: list[Division]) -> tuple[Region, ...]:
    """Divisions that the picture shows, each with box, mask and its capital as an attribute."""
    regions = []
    for division in divisions:
        red, green, blue = division.colour
        mask_HW = code_HW == 65536 * red + 256 * green + blue
        if mask_HW.sum() >= FEWEST and (box := box_of(mask_HW)) is not None:
            capital = (f"capital {division.capital}",) if division.capital else ()
            regions.append(Region(box, division.name, capital, mask=encode(mask_HW)))
    return tuple(regions)
