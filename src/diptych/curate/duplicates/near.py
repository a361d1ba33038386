"""Drop near-duplicate images: resized, recompressed or slightly retouched copies of one that is kept.

The rule is greedy: rows are taken from the largest image down (then by uid), and one is dropped only when an image that is *kept*
is near. So no chain of small steps carries off what is far from everything kept, and the result depends neither on the order of
rows nor on how they were spread. Every drop names the kept image and the distance.

Two measures of near:

`NearDuplicates`            a 64-bit perceptual hash (signs of low frequencies of a 32 x 32 grey thumbnail) finds candidates, a
                            colour thumbnail confirms: the hash alone takes a red disc for a green one. Needs nothing trained.
`NearDuplicateEmbeddings`   cosine in the space of an embedder: also finds crops and redrawings, and what merely means the same.

Cost: one decode (one embedding) a row, then comparisons with what is kept. Rows without an image stay; texts are never looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Embedder, Unit
from diptych.core.errors import ConfigError, DecodeError
from diptych.core.image import ImageSource
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine.costs import estimate_cost
from diptych.data.media.decode import decode

SIDE = 32  # of the grey thumbnail that is hashed
COLOUR_SIDE = 16  # of the colour thumbnail that confirms
QUANTUM = 4.0  # frequencies are rounded to this before their signs are taken, so that a flat image has a stable hash


@dataclass(frozen=True, slots=True)
class ImageHash:
    """Perceptual hash of an image: 64 bits, a colour thumbnail uint8 [16, 16, 3], and its pixel count."""

    bits: int
    colour_HWC: npt.NDArray[np.uint8]
    area: int


def hash_image(image: ImageSource) -> ImageHash:
    """Image hash from a decoded image."""
    from PIL import Image
    from scipy.fft import dctn

    pixels = decode(image)
    picture = Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float32)
    colour = np.asarray(picture.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX))
    low = np.round(dctn(grey, norm="ortho")[:8, :8].ravel() / QUANTUM)
    signs = low > np.median(low[1:])  # without the mean, which is brightness
    return ImageHash(int.from_bytes(np.packbits(signs).tobytes(), "big"), colour, pixels.shape[0] * pixels.shape[1])


@dataclass(frozen=True)
class NearDuplicates:
    """bits    hashes that differ in at most this many of 64 bits make candidates; 0..16
    colour  mean difference of the colour thumbnails, 0..255, up to which a candidate is a duplicate
    """

    slug: ClassVar[str] = "near_duplicates"

    bits: int = 6
    colour: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.bits <= 16:
            raise ConfigError(f"bits is {self.bits} (expected 0..16 of 64)")
        if not 0 <= self.colour <= 255:
            raise ConfigError(f"colour is {self.colour} (expected 0..255)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, hash_image, unit="decode and hash")

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        looks, plain, dropped = _map_images(data, hash_image, self.slug)
        order = sorted(looks, key=lambda row: (-looks[row].area, data.uids[row]))
        kept_bits = HammingIndex(self.bits)

        def nearest(row: int) -> tuple[int, str] | None:
            mine = looks[row]
            best: tuple[float, int, str, int] | None = None
            for other, distance in kept_bits.within(mine.bits):
                difference = float(np.abs(mine.colour_HWC.astype(np.int16) - looks[other].colour_HWC).mean())
                if difference <= self.colour and (best is None or (difference, distance, data.uids[other]) < best[:3]):
                    best = (difference, distance, data.uids[other], other)
            if best is None:
                kept_bits.add(row, mine.bits)
                return None
            return best[3], f"{best[1]} of 64 bits and {best[0]:.1f} of 255 in colour"

        return _walk_rows(data, self.slug, order, nearest, plain, dropped, start)


@dataclass(frozen=True)
class NearDuplicateEmbeddings:
    """cosine  images at least this alike are duplicates"""

    slug: ClassVar[str] = "near_duplicate_embeddings"

    embedder: Embedder = field()
    cosine: float = 0.95

    def __post_init__(self) -> None:
        if not -1 < self.cosine <= 1:
            raise ConfigError(f"cosine is {self.cosine} (expected above -1, at most 1)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        return estimate_cost(data, lambda image: self.embedder.embed_images([image]), unit="embedding (one at a time)")

    def __call__(self, data: Dataset) -> CurationStepResult:
        start = time.perf_counter()
        areas, plain, dropped = _map_images(data, lambda image: int(np.prod(decode(image).shape[:2])), self.slug)
        order = sorted(areas, key=lambda row: (-areas[row], data.uids[row]))
        images = [image for row in order if (image := data[row].image) is not None]
        vector_ND: Unit = self.embedder.embed_images(images) if images else np.zeros((0, 1), np.float32)
        position_of = {row: position for position, row in enumerate(order)}
        kept = np.empty_like(vector_ND)
        kept_rows: list[int] = []

        def nearest(row: int) -> tuple[int, str] | None:
            mine = vector_ND[position_of[row]]
            alike = kept[: len(kept_rows)] @ mine
            if len(alike) and (best := int(alike.argmax())) >= 0 and alike[best] >= self.cosine:
                return kept_rows[best], f"cosine {float(alike[best]):.3f}"
            kept[len(kept_rows)] = mine
            kept_rows.append(row)
            return None

        return _walk_rows(data, self.slug, order, nearest, plain, dropped, start)


class HammingIndex:
    """Exact search for 64-bit codes within a Hamming distance: cut in `distance` + 1 pieces, two near ones share a piece."""

    def __init__(self, distance: int) -> None:
        self.distance = distance
        edges = [64 * i // (distance + 1) for i in range(distance + 2)]
        self._pieces = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._buckets: list[dict[int, list[int]]] = [{} for _ in self._pieces]
        self._bits: dict[int, int] = {}

    def add(self, key: int, bits: int) -> None:
        self._bits[key] = bits
        for (low, mask), bucket in zip(self._pieces, self._buckets, strict=True):
            bucket.setdefault(bits >> low & mask, []).append(key)

    def within(self, bits: int) -> Iterable[tuple[int, int]]:
        """Neighbours within the distance as (key, distance), in order of key."""
        candidates: set[int] = set()
        for (low, mask), bucket in zip(self._pieces, self._buckets, strict=True):
            candidates.update(bucket.get(bits >> low & mask, ()))
        for key in sorted(candidates):
            distance = (self._bits[key] ^ bits).bit_count()
            if distance <= self.distance:
                yield key, distance


def _map_images(data: Dataset, see: Callable[[ImageSource], Any], slug: str) -> tuple[dict[int, Any], list[int], list[Drop]]:
    """Value of `see` by row, the rows without an image, and a named drop for each that cannot be read."""
    seen: dict[int, Any] = {}
    plain: list[int] = []
    dropped: list[Drop] = []
    for row in with_bar(range(len(data)), len(data), "looking at pictures", least=100):
        image = data[row].image
        if image is None:
            plain.append(row)
            continue
        try:
            seen[row] = see(image)
        except (DecodeError, OSError) as error:
            dropped.append(Drop(data.uids[row], slug, f"unreadable: {error}"))
    return seen, plain, dropped


def _walk_rows(
    data: Dataset,
    slug: str,
    order: Sequence[int],
    nearest: Callable[[int], tuple[int, str] | None],
    plain: list[int],
    dropped: list[Drop],
    start: float,
) -> CurationStepResult:
    """Greedy pass in order of rows; `nearest` returns a kept row and its similarity, or keeps the row itself."""
    kept = [data.uids[row] for row in plain]
    original: dict[str, str] = {}
    for row in order:
        answer = nearest(row)
        if answer is None:
            kept.append(data.uids[row])
            continue
        original[data.uids[row]] = data.uids[answer[0]]
        dropped.append(Drop(data.uids[row], slug, f"near {data.uids[answer[0]]}: {answer[1]}"))
    columns = {"duplicate_of": original} if original else {}
    return CurationStepResult(
        tuple(sorted(kept)), tuple(sorted(dropped, key=lambda d: d.uid)), columns, time.perf_counter() - start
    )
