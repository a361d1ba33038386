"""Names for what a detector found without them: a region is called like the known crops that it looks most like.

A detector has to learn what two hundred kinds of things look like from boxes in whole pictures, and where things are small it finds them
long before it can name them. Crops of the training regions know the names at once; what they cost is that a thing of which no crop is
known cannot be named.

Letters: N crops, D numbers of a vector, B regions, K names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import softmax

from diptych.core.contracts import Dataset, Detector
from diptych.core.errors import DataError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, SceneGraph
from diptych.data.media.cropped import crop_of
from diptych.data.media.decode import decode

MARGIN = 0.1
"""Of a box's sides, that a crop shows around it."""
AT_ONCE = 1024
"""Crops that are held and embedded together."""
Floats = npt.NDArray[np.float32]
Look = Callable[[Sequence[ImageSource]], npt.NDArray[Any]]
"""What turns pictures into vectors, [N, D]: `embed_images` of a model, `encode_images` of a packaged encoder, `thumbnails`."""


def thumbnails(images: Sequence[ImageSource], *, side: int = 16) -> Floats:
    """Pixels of every picture at `side` by `side`, [N, 3 side side], less their mean: what needs no model."""
    shown = [Image.fromarray(decode(image)).resize((side, side), Image.Resampling.BILINEAR) for image in images]
    flat_ND: Floats = np.stack([np.asarray(picture, np.float32).ravel() for picture in shown])
    flat_ND -= flat_ND.mean(axis=1, keepdims=True)
    return flat_ND


@dataclass(frozen=True)
class KnownCrops:
    """Crops by their vectors of norm 1, vector_ND, and what each shows."""

    vector_ND: Floats
    names: tuple[str, ...]

    @classmethod
    def of(cls, rows: Dataset | Sequence[Sample], look: Look) -> KnownCrops:
        """The regions of a data set. Raises DataError where there is none."""
        vectors: list[Floats] = []
        names: list[str] = []
        waiting: list[ImageSource] = []
        for row in range(len(rows)):
            sample = rows[row]
            if sample.image is not None and sample.regions:
                waiting += _crops(sample.image, sample.regions)
                names += [region.label for region in sample.regions]
            if len(waiting) >= AT_ONCE:
                vectors.append(_unit(look(waiting)))
                waiting = []
        if waiting:
            vectors.append(_unit(look(waiting)))
        if not vectors:
            raise DataError(
                "no sample has a region", field="regions", expected="pictures with boxes and labels, to name others after"
            )
        return cls(np.concatenate(vectors), tuple(names))

    def nearest(self, vector_BD: Floats, names: Sequence[str]) -> Floats:
        """cosine_BK: how like the most similar crop of each name a region is; -1 for names of which no crop is known."""
        place = {name: k for k, name in enumerate(names)}
        row_N = np.array([place.get(name, -1) for name in self.names])
        asked_N = np.flatnonzero(row_N >= 0)
        cosine_BK = np.full((len(vector_BD), len(names)), -1.0, np.float32)
        if len(vector_BD):
            cosine_NB = self.vector_ND[asked_N] @ vector_BD.T
            np.maximum.at(cosine_BK.T, row_N[asked_N], cosine_NB)
        return cosine_BK


@dataclass(frozen=True)
class NamedAfter:
    """A detector that finds things of one name, and calls each like the known crops that it looks most like.

    detector   is asked for things called `kind` and for the relations
    known      crops with their names; only names among them are given
    look       the function that made their vectors
    kind       what the detector calls everything
    sharpness  of the softmax over cosines that says how sure a name is: CLIP's 100

    A region's score is the detector's times how sure its name is, a relation's confidence its own times that of both its regions.
    """

    detector: Detector
    known: KnownCrops
    look: Look
    kind: str = "thing"
    sharpness: float = 100.0

    @property
    def name(self) -> str:
        return f"{getattr(self.detector, 'name', 'a detector')}, named after crops"

    @property
    def objects(self) -> tuple[str, ...]:
        """What it can call a thing."""
        return tuple(dict.fromkeys(self.known.names))

    @property
    def relations(self) -> tuple[str, ...]:
        """What the detector looks for where nobody says what for."""
        return tuple(getattr(self.detector, "relations", ()))

    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        objects: Sequence[str],
        relations: Sequence[str] = (),
        top: int = 100,
        threshold: float = 0.0,
        batch_size: int = 16,
    ) -> list[SceneGraph]:
        """As `core.contracts.Detector`. Raises DataError where no crop of any of the names is known."""
        known = frozenset(self.known.names)
        names = [name for name in dict.fromkeys(objects) if name in known]
        if not names:
            some = ", ".join(sorted(known)[:5])
            raise DataError(f"no crop of {', '.join(list(objects)[:5])} is known", expected=f"names of crops: {some}, ...")
        found = self.detector.detect(images, objects=(self.kind,), relations=relations, top=top, batch_size=batch_size)
        named = (self._named(image, graph, names, bool(relations)) for image, graph in zip(images, found, strict=True))
        return [graph.strongest(top=top, min_score=threshold) for graph in named]

    def _named(self, image: ImageSource, graph: SceneGraph, names: Sequence[str], related: bool) -> SceneGraph:
        if not graph.regions:
            return graph
        cosine_BK = self.known.nearest(_unit(self.look(_crops(image, graph.regions))), names)
        chance_BK = softmax(self.sharpness * cosine_BK.astype(np.float64), axis=1)
        best_B = chance_BK.argmax(1)
        sure_B = chance_BK[np.arange(len(best_B)), best_B]
        regions = [
            replace(region, label=names[best], score=region.score * float(sure))
            for region, best, sure in zip(graph.regions, best_B, sure_B, strict=True)
        ]
        if not related:
            regions.sort(key=lambda region: -region.score)
        relations = [replace(r, confidence=r.confidence * float(sure_B[r.subject] * sure_B[r.object])) for r in graph.relations]
        return replace(graph, regions=tuple(regions), relations=tuple(relations))


def _crops(image: ImageSource, regions: Sequence[Region]) -> list[ImageSource]:
    pixels_HWC = decode(image, exact=True)
    return [ArrayImage(crop_of(pixels_HWC, region.box, margin=MARGIN)) for region in regions]


def _unit(vector_ND: npt.NDArray[Any]) -> Floats:
    """Rows of norm 1; a row of zeros stays."""
    length_N1 = np.linalg.norm(vector_ND, axis=1, keepdims=True)
    return (vector_ND / np.where(length_N1 > 0, length_N1, 1)).astype(np.float32)
