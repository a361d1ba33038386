"""What can be asked beyond one text or one picture: both together, more like these and less like those, nothing twice.

Letters: D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import FileImage, ImageSource
from diptych.index.store import Scored, Terms, Vector


@dataclass(frozen=True, slots=True)
class Query:
    """Parts of a query in a space shared by texts and images. Any of them may be left out, not all.

    text    what is to be in it, `weight` times as strong as the pictures; a negative weight takes it away (ALIGN, 2021, found 2
            best for "this picture, but ...")
    image   a picture it is to be like
    like    uids of items that are good examples: their mean
    unlike  uids of items that are bad examples: their mean is taken away, `against` times
    """

    text: str = ""
    image: ImageSource | None = None
    like: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()
    weight: float = 2.0
    against: float = 0.5

    def __post_init__(self) -> None:
        if not (self.text or self.image is not None or self.like):
            raise ConfigError("nothing to search for (expected a text, an image, or uids to be like)")
        if not (np.isfinite(self.weight) and np.isfinite(self.against)):
            raise ConfigError(f"weight is {self.weight} and against is {self.against} (expected finite numbers)")


def combine(parts: Sequence[tuple[Unit, float]]) -> Unit:
    """norm(sum of weight * norm(v)) over (v [D], weight). Raises ConfigError when the parts cancel out."""
    total_D = np.sum([weight * vector_D / max(float(np.linalg.norm(vector_D)), 1e-12) for vector_D, weight in parts], axis=0)
    length = float(np.linalg.norm(total_D))
    if length < 1e-6:
        raise ConfigError("the parts of the query cancel out: nothing is left to search for")
    unit: Unit = (total_D / length).astype(np.float32)
    return unit


def first_of_its_kind(
    rank: Callable[[int], list[Scored]], space: str, k: int, threshold: float, *, deepest: int = 0
) -> list[Scored]:
    """The k best items of which no two are more alike than `threshold` (cosine in `space`).

    Going down the ranking, an item stays unless it is too like one that stayed before it. So the answer does not depend on how far
    one looks, and the answer for k is the beginning of the answer for k + 1. `rank(limit)` gives the ranking with vectors.

    deepest  look at no more items than so many, and answer fewer than k when those hold no more; 0 looks to the end
    """
    if not -1 <= threshold <= 1:
        raise ConfigError(f"distinct is {threshold} (expected a cosine, such as 0.94)")
    limit = min(4 * k, deepest or 4 * k)
    while True:
        found = rank(limit)
        kept = _apart([item.vectors[space] for item in found], k, threshold)
        if len(kept) == k or len(found) < limit or limit == deepest:
            break
        limit = min(4 * limit, deepest or 4 * limit)
    return [found[place] for place in kept]


def _apart(vectors: Sequence[Vector], k: int, threshold: float) -> list[int]:
    """Places of at most k vectors, each the first that is not too like one before it."""
    kept: list[int] = []
    dense = not any(isinstance(vector, Terms) for vector in vectors)
    unit_ND = unit_rows(np.stack([np.asarray(vector) for vector in vectors])) if dense and vectors else None
    for place, vector in enumerate(vectors):
        if unit_ND is not None:
            near = float((unit_ND[kept] @ unit_ND[place]).max(initial=-1.0))
        else:
            near = max((cosine(vector, vectors[other]) for other in kept), default=-1.0)
        if not kept or near <= threshold:
            kept.append(place)
            if len(kept) == k:
                break
    return kept


def unit_rows(x_ND: Unit) -> Unit:
    """The same directions at length 1; rows of nothing but zeros stay."""
    unit: Unit = x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), np.float32(1e-12))
    return unit


def cosine(a: Vector, b: Vector) -> float:
    """Of two sparse vectors."""
    if not (isinstance(a, Terms) and isinstance(b, Terms)):
        raise TypeError("sparse vectors are compared with sparse vectors")
    _, at, bt = np.intersect1d(a.indices, b.indices, assume_unique=True, return_indices=True)
    return float(a.values[at] @ b.values[bt]) / max(float(np.linalg.norm(a.values) * np.linalg.norm(b.values)), 1e-12)


def picture(image: ImageSource | Path | str) -> ImageSource:
    """A path as an image source. Raises DataError when there is no such file."""
    source = FileImage(Path(image)) if isinstance(image, str | Path) else image
    if isinstance(source, FileImage) and not source.path.is_file():
        raise DataError("there is no such file", file=source.path, expected="an image")
    return source
