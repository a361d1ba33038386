"""Point clouds in the protocols of images.  Protocols `point_classification` and `point_retrieval`, version 1.

Metrics, ties, groups and intervals are those of `zero_shot` and `retrieval`, with clouds where those have images. ULIP's published figures
(2212.05171) are of the templates "clouds", and of the checkpoint that was best on the test set after each epoch: a chosen figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import Dataset, PointEmbedder, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.media import MediaItem
from diptych.core.result import Result
from diptych.core.sample import Sample, Text
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.pairs.classification import class_item_values, score_classes
from diptych.tasks.pairs.clips_as_images import ClipsAsImages, ClipSource
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.tasks.pairs.zero_shot import ZeroShot


@dataclass(frozen=True, slots=True)
class PointClassification:
    """Zero-shot acc@1, acc@5 and mean per-class recall of point clouds.

    label      the column with the class; classes: names, if not those of the data
    medium     name of the cloud among a sample's media
    templates  of class names; "clouds" are the 64 of ULIP
    """

    name: ClassVar[str] = "point_classification"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = PointEmbedder
    main: ClassVar[str] = "acc@1"

    label: str = "label"
    language: str = "en"
    classes: tuple[str, ...] = ()
    medium: str = "cloud"
    templates: str = "clouds"
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0

    def predict(self, model: PointEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per cloud."""
        task = ZeroShot(label=self.label, language=self.language, classes=self.classes, templates=self.templates, ties=self.ties)
        records = task.predict(CloudEmbedderAdapter(model), ClipsAsImages(data, self.medium))
        return with_facts(records, options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        return score_classes(records, self)

    item_values = staticmethod(class_item_values)


@dataclass(frozen=True, slots=True)
class PointRetrieval:
    """Recall at K both ways, mean reciprocal rank, median rank; i2t: texts (or pictures) by cloud, t2i: clouds by text (or picture).

    other     side that clouds are compared with: "texts", or "images", the picture of each sample
    medium    name of the cloud among a sample's media
    language, origins, texts_per_image, relevant, ks  see `retrieval`
    """

    name: ClassVar[str] = "point_retrieval"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = PointEmbedder
    main: ClassVar[str] = "r@1"

    other: Literal["texts", "images"] = "texts"
    medium: str = "cloud"
    language: str = "en"
    origins: tuple[str, ...] = ()
    texts_per_image: int = 0
    relevant: Literal["auto", "group", "uid"] = "auto"
    ks: tuple[int, ...] = (1, 5, 10)
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.other not in ("texts", "images"):
            raise ConfigError(f"other is {self.other!r} (expected texts | images)")

    @property
    def _task(self) -> Retrieval:
        plain = {name: value for name, value in asdict(self).items() if name not in ("medium", "other")}
        if self.other == "images":
            plain |= {"language": "", "origins": (), "texts_per_image": 0}
        return Retrieval(**plain)

    def predict(self, model: PointEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per query, texts or pictures first."""
        clouds = ClipsAsImages(data, self.medium)
        if self.other == "texts":
            records = self._task.predict(CloudEmbedderAdapter(model), clouds)
        else:
            records = self._task.predict(CloudsAndPictures(model, data), PicturesAsTexts(data, self.medium))
        return with_facts(records, options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        return replace(self._task.score(records), task=self.name, version=self.version)


class CloudEmbedderAdapter:
    """A `PointEmbedder` as an embedder of images whose sources hold clouds. Raises ConfigError for a model without texts."""

    def __init__(self, model: Any) -> None:
        if not hasattr(model, "embed_texts"):
            raise ConfigError(f"'{model.name}' embeds clouds and no texts (expected a model of both)")
        self.model, self.name, self.fingerprint = model, model.name, f"{model.fingerprint}-clouds"
        self.tokenizer, self.text_length = getattr(model, "tokenizer", None), getattr(model, "text_length", None)

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> Unit:
        unit: Unit = self.model.embed_points([_cloud(image).decode() for image in images])
        return unit

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        unit: Unit = self.model.embed_texts(texts, batch_size=batch_size)
        return unit


class CloudsAndPictures(CloudEmbedderAdapter):
    """The same with pictures of a data set in the place of texts, which are their uids."""

    def __init__(self, model: Any, data: Dataset) -> None:
        super().__init__(model)
        if not hasattr(model, "embed_images"):
            raise ConfigError(f"'{model.name}' embeds clouds and no images (expected a model of both)")
        self.tokenizer, self.text_length = None, None
        self.data, self.row_of = data, {uid: row for row, uid in enumerate(data.uids)}

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        pictures = []
        for uid in texts:
            image = self.data[self.row_of[uid]].image
            if image is None:
                raise DataError(f"sample '{uid}' has no picture", field="image", expected="a picture in every row")
            pictures.append(image)
        unit: Unit = self.model.embed_images(pictures, batch_size=batch_size)
        return unit


class PicturesAsTexts(ClipsAsImages):
    """Data set view with point clouds as images and row uids as texts, by which a model looks up the row's picture."""

    def __getitem__(self, row: int) -> Sample:
        return replace(super().__getitem__(row), texts=(Text(self.data.uids[row]),))


def _cloud(image: ImageSource) -> MediaItem:
    if not isinstance(image, ClipSource):
        raise ConfigError(f"{image.name} is not a cloud")
    return image.clip
