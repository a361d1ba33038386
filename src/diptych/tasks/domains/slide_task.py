"""Tile classification shared by the slide protocols: tiles at one scale, classes from screened prompts, class probabilities by tile.

Letters: N tiles, K classes, S sets of prompts, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.data.media.decode import decode
from diptych.data.slides.barcodes import patient_column, patient_of
from diptych.data.slides.tiling import Tiles, Tiling
from diptych.data.text.prompts.prompt_bank import PATHOLOGY
from diptych.index.embed import UnreadableSample, embed_texts
from diptych.index.slide_tiles import EmbeddedSlide, embedded_slides
from diptych.tasks._scoring.slides.prompt_screening import prompt_sets, screened, screening_scores
from diptych.tasks._scoring.slides.scores import FACTOR, Floats, TileScores, cosines, distinct_tiles, probabilities, smoothed

SIZE = 224
"""Tile size in pixels if the model does not declare its input size."""


@dataclass(frozen=True)
class SlidePrediction:
    """Prediction for a slide: the class probabilities of its tiles.

    pooled_K  class probabilities of the mean tile embedding: a slide-level prediction without tiles
    chosen    number of prompt sets used for its classes
    """

    sample: Sample
    tiles: Tiles
    scores: TileScores
    pooled_K: Floats
    chosen: int


@dataclass(frozen=True, kw_only=True)
class SlideTask:
    """Options of reading slides that every slide protocol shares. Published values are KEEP's (2412.13126).

    size       side of a tile in pixels; 0 uses the input size of the model
    mpp        micrometres per pixel of a tile
    overlap    share of a tile that neighbouring tiles have in common; above 0 a tile is averaged with those above and to the left
    tissue     minimum share of tissue of a tile
    spacing    micrometres per pixel of slides without a resolution; 0 leaves them out
    templates  "pathology" for KEEP's 22, "pathology/held_out" for those not used by `keep --wordings training`, or sentences with one {}
               each
    sets       maximum number of prompt sets (a name for each class, a template), sampled with `seed` if there are more
    best       number of prompt sets to sum: those with the highest screening score, per slide and without labels; 0 sums all
    factor     factor of the cosines before the softmax over classes
    features   folder with one file of features per slide; "" stores none
    barcode    a column of TCGA barcodes, or "uid", whose patients are the unit of the intervals; "" uses the group of each slide
    """

    needs: ClassVar[type] = Embedder

    size: int = 0
    mpp: float = 0.5
    overlap: float = 0.0
    tissue: float = 0.25
    spacing: float = 0.0
    templates: str | tuple[str, ...] = "pathology"
    sets: int = 1000
    best: int = 50
    factor: float = 10.0
    features: str = ""
    barcode: str = ""
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.sets < 1 or self.best < 0 or self.factor <= 0 or self.size < 0:
            raise ConfigError(
                f"sets {self.sets}, best {self.best}, factor {self.factor:g}, size {self.size} "
                "(expected 1 or more, 0 or more, above 0, 0 or more)"
            )
        self.sentences()

    def sentences(self) -> tuple[str, ...]:
        banks = {"pathology": PATHOLOGY, "pathology/held_out": PATHOLOGY.part("held_out")}
        sentences = self.templates
        if isinstance(sentences, str):
            sentences = banks[sentences].templates if sentences in banks else (sentences,)
        if not sentences or any(sentence.count("{}") != 1 for sentence in sentences):
            raise ConfigError(f"templates are {self.templates!r} (expected {' | '.join(banks)}, or sentences with one {{}} each)")
        return sentences

    def tiling(self, model: Any) -> Tiling:
        size = self.size or int(getattr(getattr(model, "preprocess", None), "size", SIZE))
        return Tiling(size, self.mpp, self.overlap, self.tissue, self.spacing)

    def classes_of(self, model: Embedder, names: Mapping[str, Sequence[str]]) -> npt.NDArray[np.float32]:
        """Prompt embeddings of every set for these names of each class: [S, K, D], unit norm."""
        sets = prompt_sets(names, self.sentences(), at_most=self.sets, seed=self.seed)
        each = sorted({sentence for one in sets for sentence in one})
        row_of = dict(zip(each, embed_texts(model, each, each), strict=True))
        return np.stack([[row_of[sentence] for sentence in one] for one in sets])

    def read(
        self, model: Embedder, data: Dataset, names: Mapping[str, Sequence[str]]
    ) -> Iterator[SlidePrediction | UnreadableSample]:
        """Class probabilities of each slide's tiles, or the reason why the slide could not be read."""
        class_SKD = self.classes_of(model, names)
        folder = Path(self.features) if self.features else None
        for slide in embedded_slides(model, data, self.tiling(model), folder=folder, batch_size=self.batch_size):
            yield self._score_slide(slide, class_SKD) if isinstance(slide, EmbeddedSlide) else slide

    def slides(
        self, model: Embedder, data: Dataset, names: Mapping[str, Sequence[str]]
    ) -> tuple[list[SlidePrediction], list[dict[str, str]]]:
        """Readable slides, and the unreadable ones. Raises DataError with the first reason if no slide can be read."""
        self.groups_of(data)
        read: list[SlidePrediction] = []
        unreadable: list[dict[str, str]] = []
        for one in self.read(model, data, names):
            if isinstance(one, SlidePrediction):
                read.append(one)
            else:
                unreadable.append(asdict(one))
        if not read:
            why = f": {unreadable[0]['reason']}" if unreadable else ""
            raise DataError(f"'{data.name}' has no slide that can be read{why}", field="slide", expected="samples with a slide")
        return read, unreadable

    def group_of(self, sample: Sample) -> str:
        """Group of a sample for intervals: the patient of the barcode, or the sample's group."""
        return patient_of(self._barcode(sample)) if self.barcode else sample.group or sample.uid

    def groups_of(self, data: Dataset) -> list[str]:
        """Groups of all slides for intervals. Raises DataError with the row of a barcode that names no patient."""
        if not self.barcode:
            return list(data.groups)
        return patient_column(self.barcode, [self._barcode(data[row]) for row in range(len(data))], file=data.name)

    def _barcode(self, sample: Sample) -> str:
        return sample.uid if self.barcode == "uid" else str(sample.extras.get(self.barcode, ""))

    def _score_slide(self, slide: EmbeddedSlide, class_SKD: npt.NDArray[np.float32]) -> SlidePrediction:
        vector_ND, tiles = slide.features.vector_ND, slide.features.tiles
        stride = tiles.stride if self.overlap else 0
        scores, pooled_K = tile_scores(
            vector_ND, tiles.place_N2, class_SKD, best=self.best, factor=self.factor, smoothed_by=stride
        )
        return SlidePrediction(slide.sample, tiles, scores, pooled_K, min(self.best or len(class_SKD), len(class_SKD)))

    def options(self) -> dict[str, Any]:
        """Fields that are plain values, for the records."""
        return {name: value for name, value in asdict(self).items() if name != "validation"}


def tile_scores(
    vector_ND: npt.NDArray[np.float32],
    place_N2: npt.NDArray[np.int64],
    class_SKD: npt.NDArray[np.float32],
    *,
    best: int = 50,
    factor: float = FACTOR,
    smoothed_by: int = 0,
) -> tuple[TileScores, Floats]:
    """Class probabilities for each tile of a slide, and [K] for the mean of its tiles (KEEP, 2412.13126).

    vector_ND    tile embeddings, of any norm
    place_N2     (x, y) of each tile, level-0 pixels; of tiles at the same position the first counts
    class_SKD    class embeddings under each prompt set, unit norm
    best         number of prompt sets to average: those that separate the tiles best; 0 averages all
    factor       factor of the cosines before the softmax
    smoothed_by  stride of overlapping tiles, whose scores are averaged with their neighbours'; 0 turns smoothing off

    Raises ShapeError.
    """
    kept = min(best or len(class_SKD), len(class_SKD))
    score_S = screening_scores(vector_ND, class_SKD) if kept < len(class_SKD) else np.zeros(len(class_SKD))
    class_KD = screened(class_SKD, score_S, kept)
    scores = distinct_tiles(place_N2, probabilities(cosines(vector_ND, class_KD), factor))
    pooled_K = probabilities(cosines(vector_ND.mean(0, keepdims=True), class_KD), factor)[0]
    return smoothed(scores, smoothed_by) if smoothed_by else scores, pooled_K


def names_by_label(kinds: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Class names by label, from "LABEL=NAME|NAME" each, or a label that is its own name.

    >>> names_by_label(("ccrcc=clear cell carcinoma|clear cell cancer", "oncocytoma"))
    {'ccrcc': ('clear cell carcinoma', 'clear cell cancer'), 'oncocytoma': ('oncocytoma',)}
    """
    names_of: dict[str, tuple[str, ...]] = {}
    for kind in kinds:
        label, _, listed = kind.partition("=")
        names = tuple(name.strip() for name in listed.split("|") if name.strip()) or (label.strip(),)
        if not label.strip() or label.strip() in names_of:
            raise ConfigError(f"kinds has {kind!r} (expected LABEL=NAME|NAME, each label once)")
        names_of[label.strip()] = names
    return names_of


def mask_of(sample: Sample) -> npt.NDArray[np.bool_]:
    """Ground-truth mask of a slide, from its medium "mask": an image, or a slide whose smallest level is read. True where it is
    not black. bool [H, W]"""
    item = sample.media.get("mask")
    if item is None:
        raise DataError(
            f"slide '{sample.uid}' has no mask", field="mask", expected="a picture or a slide that is not black on tumour"
        )
    if item.medium != "slide":
        pixels_HWC = decode(item.parts[0], exact=True)
    else:
        slide = item.decode()
        level = max(range(len(slide.levels)), key=lambda number: slide.levels[number])
        width, height = (int(side / slide.levels[level]) for side in slide.size)
        pixels_HWC = slide.region(0, 0, width, height, level=level)
    mask_HW: npt.NDArray[np.bool_] = pixels_HWC.max(2) > 0
    return mask_HW
