"""One row of image-text data, before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region, Relation, SceneGraph

Origin = Literal["alt", "caption", "label", "tags", "rewrite", "synthetic", "negative"]
ORIGINS: tuple[str, ...] = get_args(Origin)


@dataclass(frozen=True, slots=True)
class Text:
    """A string about an image: its language (BCP 47, or "" when unknown) and where it came from.

    `origin` "negative" marks a text that is deliberately wrong; it is never drawn as a positive.
    """

    string: str
    language: str = ""
    origin: Origin = "caption"

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise DataError(f"unknown origin {self.origin!r}", field="origin", expected=" | ".join(ORIGINS))


@dataclass(frozen=True, slots=True)
class Sample:
    """An image, its texts, and what is known about it.

    uid      stable, unique in its data set, no dots or slashes; every column table is keyed by it
    group    the unit that must not leak between splits and whose members are never each other's negatives
             (patient, identity, article, concept); "" means the sample stands alone
    extras   whatever else a recipe needs (labels, points, frames), by column name
    """

    uid: str
    image: ImageSource | None = None
    texts: tuple[Text, ...] = ()
    regions: tuple[Region, ...] = ()
    relations: tuple[Relation, ...] = ()
    group: str = ""
    licence: str = ""
    source: str = ""
    extras: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.uid:
            raise DataError("a sample needs a uid", field="uid", expected="a non-empty string")

    @property
    def graph(self) -> SceneGraph:
        return SceneGraph(self.regions, self.relations)

    def positives(self, language: str = "") -> list[Text]:
        """The texts that describe the image, in order; with `language`, those of that language or of an unknown one."""
        texts = [t for t in self.texts if t.origin != "negative"]
        return [t for t in texts if not language or t.language in ("", language)]
