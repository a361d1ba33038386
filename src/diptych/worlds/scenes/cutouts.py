"""Cut-outs with an alpha channel that are pasted into scenes: the packaged emoji, or any of your own."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError, ShapeError

NOUN = re.compile(r"(?:an?|the)?\s*([a-z][a-z'-]*(?: [a-z][a-z'-]*){0,2})[.!]?", re.IGNORECASE)
THEMES = ("animals-nature", "food-drink", "travel-places", "objects")  # emoji groups that name things one can place


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A noun and its picture, uint8 [H, W, 4] RGBA, cropped to what is opaque."""

    label: str
    pixels_HWC: npt.NDArray[np.uint8]
    licence: str = ""

    def __post_init__(self) -> None:
        if self.pixels_HWC.ndim != 3 or self.pixels_HWC.shape[2] != 4 or self.pixels_HWC.dtype != np.uint8:
            shape, kind = list(self.pixels_HWC.shape), self.pixels_HWC.dtype
            raise ShapeError(f"cut-out {self.label!r} is {kind} {shape} (expected uint8 [H, W, 4] RGBA)")

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.pixels_HWC.tobytes()).hexdigest()[:16]


def cutout(label: str, rgba_HWC: npt.NDArray[np.uint8], licence: str = "") -> Cutout:
    """Crop a picture to its opaque part."""
    opaque = rgba_HWC[..., 3] > 127
    if not opaque.any():
        raise DataError(f"cut-out {label!r} is transparent throughout", expected="pixels with alpha above 127")
    rows, columns = np.flatnonzero(opaque.any(1)), np.flatnonzero(opaque.any(0))
    return Cutout(label, np.ascontiguousarray(rgba_HWC[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]), licence)


@cache
def emoji_cutouts(*, style: str = "noto", limit: int = 200) -> tuple[Cutout, ...]:
    """Emoji of one style that show a thing (animals, food, vehicles, objects), by label; at most `limit`, evenly taken."""
    from diptych.data.media.decode import decode_rgba
    from diptych.data.read import read

    pool = read("emoji")
    styles, themes = pool.column("style"), pool.column("group_name")
    rows = [row for row in range(len(pool)) if styles[row] == style and themes[row] in THEMES]
    if not rows:
        raise DataError(f"no emoji of style {style!r} in {', '.join(THEMES)}", expected="a style of the emoji data")
    cutout_by_label: dict[str, Cutout] = {}
    for row in rows[:: max(1, len(rows) // limit)][:limit]:
        sample = pool[row]
        if sample.image is not None:
            label = sample.positives("en")[0].string.lower()
            cutout_by_label.setdefault(label, cutout(label, decode_rgba(sample.image), sample.licence))
    return tuple(cutout_by_label[label] for label in sorted(cutout_by_label))


def pool_cutouts(pool: Dataset, *, limit: int = 200) -> tuple[Cutout, ...]:
    """The pictures of a data set that have transparent surroundings and a noun for a text ("a frog.": at most three words), by
    label; at most `limit`, evenly taken. The fetched stamps are such a set."""
    from diptych.data.media.decode import decode_rgba

    named: dict[str, int] = {}
    for row in range(len(pool)):
        texts = pool[row].positives("en")
        if texts and (noun := NOUN.fullmatch(texts[0].string.strip())):
            named.setdefault(noun[1].lower(), row)
    cutouts = []
    for label in sorted(named)[:: max(1, len(named) // limit)]:
        sample = pool[named[label]]
        if sample.image is not None and (rgba_HWC := decode_rgba(sample.image))[..., 3].min() == 0:
            cutouts.append(cutout(label, rgba_HWC, sample.licence))
    if not cutouts:
        raise DataError(
            f"'{pool.name}' has no picture to cut out",
            expected="pictures with transparent surroundings and texts such as 'a frog'",
        )
    return tuple(cutouts[:limit])
