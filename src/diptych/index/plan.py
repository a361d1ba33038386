"""Search plans: query parts, filters and the number of hits, as data. Services, commands and Python build the same plan, and every kind
of index answers it (`Index.answer`).

Letters: N texts or images, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np

from diptych.core.contracts import Unit
from diptych.core.disk.paths import is_picture_name
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import FileImage, ImageSource
from diptych.core.inputs import image_of
from diptych.core.media import ArraySource, MediaItem, medium_of
from diptych.core.sample import Text
from diptych.index.filters import Where

Half = Literal["", "dense", "lexical"]
Mode = Literal["exact", "dense", "lexical"]  # what a kind of index may offer beside its usual search


@dataclass(frozen=True, slots=True)
class ByText:
    """Search by text; in an index of graphs by a triplet, "person, riding, horse"."""

    noun: ClassVar[str] = "texts"
    string: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByImage:
    """Search by a picture."""

    noun: ClassVar[str] = "pictures"
    image: ImageSource
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByCloud:
    """Search by a point cloud, with a model that embeds clouds."""

    noun: ClassVar[str] = "clouds"
    cloud: MediaItem
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByExamples:
    """Search by stored items, given by the uids of their samples: their mean. They are not hits themselves."""

    noun: ClassVar[str] = "uids"
    uids: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ByVector:
    """Search by a unit vector [D] of the model's embedding space."""

    noun: ClassVar[str] = "vectors"
    row_D: Unit
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByTerms:
    """Search by weighted terms, in a lexical index."""

    noun: ClassVar[str] = "terms"
    terms: Mapping[str, float]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByTriplet:
    """Search by subject, relation and object, in an index of graphs; "" matches any name."""

    noun: ClassVar[str] = "triplets"
    names: tuple[str, str, str]
    weight: float = 1.0


Part = ByText | ByImage | ByCloud | ByExamples | ByVector | ByTerms | ByTriplet


class Options(TypedDict, total=False):
    """The fields of a plan beside its parts and k."""

    where: Where | None
    distinct: float | None
    half: Half
    exact: bool
    effort: int


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """One search. A negative weight subtracts a part; indexes with one vector per item add and subtract parts, the others answer one
    part.

    k         number of hits, best first
    where     conditions on columns
    distinct  of items more similar than this cosine only the best is kept
    half      of a hybrid index: one of its two rankings, instead of both fused
    exact     exhaustive comparison, instead of walking a graph or ranking a shortlist
    effort    candidates kept during the search, where more than the index's own: slower and closer to exact
    """

    parts: tuple[Part, ...]
    k: int = 10
    where: Where | None = None
    distinct: float | None = None
    half: Half = ""
    exact: bool = False
    effort: int = 0

    def __post_init__(self) -> None:
        if not self.parts:
            raise ConfigError("nothing to search for (expected a text, an image, or uids to be like)")
        for part in self.parts:
            if not np.isfinite(part.weight):
                raise ConfigError(f"the weight of a part is {part.weight} (expected a finite number)")
        if self.k < 1:
            raise ConfigError(f"k is {self.k} (expected 1 or more)")

    @classmethod
    def of(
        cls,
        text: str = "",
        image: ImageSource | None = None,
        like: tuple[str, ...] = (),
        unlike: tuple[str, ...] = (),
        weight: float = 2.0,
        against: float = 0.5,
        *,
        k: int = 10,
        where: Where | None = None,
        distinct: float | None = None,
        mode: Mode | None = None,
        cloud: MediaItem | None = None,
    ) -> SearchPlan:
        """Search plan from any of text, image, point cloud and example uids; at least one is needed.

        weight   of the text beside pictures (ALIGN, 2021, found 2 best for "this picture, but ..."); negative takes it away
        unlike   uids of bad examples: their mean is taken away, `against` times
        """
        if not (text or image is not None or cloud is not None or like):
            raise ConfigError("nothing to search for (expected a text, an image, a cloud, or uids to be like)")
        parts: list[Part] = []
        if image is not None:
            parts.append(ByImage(image))
        if cloud is not None:
            parts.append(ByCloud(cloud))
        if text:
            parts.append(ByText(text, weight))
        if like:
            parts.append(ByExamples(like))
        if unlike:
            parts.append(ByExamples(unlike, -against))
        half: Half = "" if mode is None or mode == "exact" else mode
        return cls(tuple(parts), k, where, distinct, half, exact=mode == "exact")

    @property
    def mode(self) -> Mode | None:
        """Search mode beside the index's usual one."""
        return self.half or ("exact" if self.exact else None)

    @property
    def only(self) -> Part | None:
        """The only part, where nothing has to be added or subtracted."""
        part = self.parts[0]
        many = isinstance(part, ByExamples) and len(part.uids) > 1
        return part if len(self.parts) == 1 and part.weight > 0 and not many else None

    @property
    def texts(self) -> list[str]:
        """Strings that a model has to embed."""
        return [part.string for part in self.parts if isinstance(part, ByText)]

    @property
    def images(self) -> list[ImageSource]:
        """Pictures that a model has to embed."""
        return [part.image for part in self.parts if isinstance(part, ByImage)]

    def embedded(self, text_ND: Unit, image_ND: Unit) -> SearchPlan:
        """The same plan with the embeddings of `texts` and `images` in their places."""
        texts, images = iter(text_ND), iter(image_ND)
        return replace(self, parts=tuple(_as_vector(part, texts, images) for part in self.parts))


def _as_vector(part: Part, texts: Iterator[Unit], images: Iterator[Unit]) -> Part:
    if isinstance(part, ByText | ByImage):
        return ByVector(next(texts if isinstance(part, ByText) else images), part.weight)
    return part


def query_part(query: Any) -> ByText | ByImage | ByCloud:
    """Part of a plan for a query in any form: a point cloud, a text, or else an image; see `Index.search`."""
    if (cloud := cloud_item(query)) is not None:
        return ByCloud(cloud)
    if isinstance(query, Text):
        return ByText(query.string)
    if isinstance(query, str) and not (is_picture_name(query) and Path(query).is_file()):
        return ByText(query)
    return ByImage(picture(query))


def picture(image: Any) -> ImageSource:
    """Image source of a path, bytes, pixels, a PIL image or a sample. Raises DataError for a missing file."""
    source = image_of(image)
    if isinstance(source, FileImage) and not source.path.is_file():
        raise DataError("there is no such file", file=source.path, expected="an image")
    return source


def is_cloud_name(name: str | Path) -> bool:
    """True if a file name ends as that of a point cloud does.

    >>> is_cloud_name("a/chair.PLY"), is_cloud_name("a red bus")
    (True, False)
    """
    return Path(name).suffix.lower().removeprefix(".") in (*medium_of("cloud").suffixes, "npy")


def cloud_item(query: Any) -> MediaItem | None:
    """Point cloud of a query: of a cloud itself, an array [P, 3 + F] of floats, the path of a cloud file, or a string that names one that
    exists. None for any other query. Raises DataError for a missing file.
    """
    if isinstance(query, MediaItem) and query.medium == "cloud":
        return query
    if isinstance(query, np.ndarray) and query.ndim == 2 and query.dtype.kind == "f":
        return MediaItem("cloud", (ArraySource(query),))
    if not isinstance(query, str | Path) or not is_cloud_name(query):
        return None
    path = Path(query)
    if path.is_file():
        return MediaItem("cloud", (FileImage(path),))
    if isinstance(query, str):
        return None
    raise DataError("there is no such file", file=path, expected="a point cloud")
