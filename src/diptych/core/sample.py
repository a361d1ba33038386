"""One undecoded row of image-text data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from diptych.core.errors import DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem, first_picture
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
    """An image or other media, with texts, regions, relations and provenance.

    image    the picture; of a sample with several (`media["images"]`) and none of its own, the first of them
    media    further media by name: ``sample.media["clip"].decode(frames=8)``. None is read before it is asked for
    uid      stable, unique in its data set, no dots or slashes; every column table is keyed by it
    group    the unit that must not leak between splits and whose members are never each other's negatives
             (patient, identity, article, concept); "" means the sample stands alone
    extras   further values that a recipe needs (labels, scores), by column name
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
    media: dict[str, MediaItem] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.uid:
            raise DataError("a sample needs a uid", field="uid", expected="a non-empty string")
        if not self.media:
            return
        if "image" in self.media:
            raise DataError("the picture called 'image' is a field of its own", field="media", expected="Sample(uid, image=...)")
        if self.image is None:
            object.__setattr__(self, "image", first_picture(self.media))

    @property
    def own_image(self) -> ImageSource | None:
        """The picture, unless it is one of `media`: what is stored and counted beside them."""
        return None if self.media and self.image is first_picture(self.media) else self.image

    @property
    def shown(self) -> MediaItem | None:
        """Media item that represents the sample when it is displayed: its picture, else its first medium, else None."""
        if self.image is not None:
            return MediaItem("image", (self.image,))
        return next(iter(self.media.values()), None)

    @property
    def graph(self) -> SceneGraph:
        return SceneGraph(self.regions, self.relations)

    def positives(self, language: str = "") -> list[Text]:
        """The texts that describe the image, in order; with `language`, those of that language or of an unknown one."""
        texts = [t for t in self.texts if t.origin != "negative"]
        return [t for t in texts if not language or t.language in ("", language)]
