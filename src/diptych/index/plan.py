"""A search as data: what hits are to be like, which items may be hits, how many are wanted. Services, commands and Python build the
same plan, and every kind of index answers it (`Index.answer`).

Letters: N texts or images, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypedDict

import numpy as np

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import FileImage, ImageSource
from diptych.core.inputs import image_of
from diptych.index.filters import Where

Half = Literal["", "dense", "lexical"]
Mode = Literal["exact", "dense", "lexical"]  # what a kind of index may offer beside its usual search


@dataclass(frozen=True, slots=True)
class ByText:
    """What is to be in an item, in words; of an index of graphs a triplet, "person, riding, horse"."""

    noun: ClassVar[str] = "texts"
    string: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByImage:
    """A picture that items are to be like."""

    noun: ClassVar[str] = "pictures"
    image: ImageSource
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByExamples:
    """Items that are there, by the uids of their samples: their mean. They are no hits themselves."""

    noun: ClassVar[str] = "uids"
    uids: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class ByVector:
    """A unit vector [D] of the model's embedding space."""

    noun: ClassVar[str] = "vectors"
    row_D: Unit
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByTerms:
    """Weighted terms of a lexical index."""

    noun: ClassVar[str] = "terms"
    terms: Mapping[str, float]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ByTriplet:
    """Subject, relation and object of an index of graphs; "" leaves a name open."""

    noun: ClassVar[str] = "triplets"
    names: tuple[str, str, str]
    weight: float = 1.0


Part = ByText | ByImage | ByExamples | ByVector | ByTerms | ByTriplet


class Options(TypedDict, total=False):
    """The fields of a plan beside its parts and k."""

    where: Where | None
    distinct: float | None
    half: Half
    exact: bool
    effort: int


@dataclass(frozen=True, slots=True)
class SearchPlan:
    """One search. A negative weight takes away what a part stands for; indexes with one vector an item add and subtract parts, the
    others answer one part.

    k         how many hits, best first
    where     conditions on columns
    distinct  of items more alike than this cosine only the best
    half      of a hybrid index: one of its two rankings, instead of both fused
    exact     compare with everything, instead of walking a graph or ranking a shortlist
    effort    candidates that are kept on the way, where more than the index's own: slower and closer to exact
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
    ) -> SearchPlan:
        """What people ask for together; any of text, image and like may be left out, not all.

        weight   of the text beside pictures (ALIGN, 2021, found 2 best for "this picture, but ..."); negative takes it away
        unlike   uids of bad examples: their mean is taken away, `against` times
        """
        if not (text or image is not None or like):
            raise ConfigError("nothing to search for (expected a text, an image, or uids to be like)")
        parts: list[Part] = []
        if image is not None:
            parts.append(ByImage(image))
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
        """What is asked of the index beside its usual search."""
        return self.half or ("exact" if self.exact else None)

    @property
    def only(self) -> Part | None:
        """The one thing that is asked for, where nothing has to be added or subtracted."""
        part = self.parts[0]
        many = isinstance(part, ByExamples) and len(part.uids) > 1
        return part if len(self.parts) == 1 and part.weight > 0 and not many else None

    @property
    def texts(self) -> list[str]:
        """The strings that a model has to embed."""
        return [part.string for part in self.parts if isinstance(part, ByText)]

    @property
    def images(self) -> list[ImageSource]:
        """The pictures that a model has to embed."""
        return [part.image for part in self.parts if isinstance(part, ByImage)]

    def embedded(self, text_ND: Unit, image_ND: Unit) -> SearchPlan:
        """The same plan with the embeddings of `texts` and `images` in their places."""
        texts, images = iter(text_ND), iter(image_ND)
        return replace(self, parts=tuple(_as_vector(part, texts, images) for part in self.parts))


def _as_vector(part: Part, texts: Iterator[Unit], images: Iterator[Unit]) -> Part:
    if isinstance(part, ByText | ByImage):
        return ByVector(next(texts if isinstance(part, ByText) else images), part.weight)
    return part


def picture(image: Any) -> ImageSource:
    """A path, bytes, pixels, an image of PIL or a sample as an image source. Raises DataError when there is no such file."""
    source = image_of(image)
    if isinstance(source, FileImage) and not source.path.is_file():
        raise DataError("there is no such file", file=source.path, expected="an image")
    return source
