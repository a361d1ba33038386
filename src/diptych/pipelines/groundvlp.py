"""GroundVLP: zero-shot grounding from the attention map of an image-text matcher and the boxes of a detector.

Letters: L tokens, R C rows and columns of a grid, H W pixels of the picture, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from diptych.core.contracts import Detector, Embedder, MatchMap, MatchMapper, Role
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.grounding import PhraseBoxes, PhraseQuery
from diptych.core.image import ImageSource
from diptych.core.scene_graph import Region
from diptych.data.media.decode import Pixels, decode
from diptych.data.text.english.phrases import NOUNS, noun_phrases
from diptych.data.text.english.tagger import tag
from diptych.data.text.english.words import singulars
from diptych.data.text.tokens.spans import tokens_of
from diptych.data.vocabularies import vocabulary
from diptych.report.heat import heat_picture

MEANINGFUL = ("NOUN", "VERB", "ADJ", "PROPN", "NUM")
"""Parts of speech of content words."""
Weighing = Literal["weighted", "sum", "mean"]
EXPONENTS: dict[str, float] = {"weighted": 0.5, "sum": 0.0, "mean": 1.0}


@dataclass(frozen=True, slots=True, eq=False)
class GroundingResult:
    """Grounding of a referring expression: candidate regions, their grades and the heat map.

    regions   the candidates, with the detector's scores; 1 where it was asked for everything
    grades    of each; best is the place of the highest, None if there is no candidate
    agent     the noun that the text is about, "" for none; category what the detector was asked for, "" for everything
    heat_HW   where the words of the text were looked for, at the picture's size; below 0 at edges, where the grid was smoothed
    score     log-odds that picture and text fit
    """

    text: str
    image: ImageSource
    regions: tuple[Region, ...]
    grades: tuple[float, ...]
    best: int | None
    agent: str
    category: str
    words: tuple[str, ...]
    heat_HW: npt.NDArray[np.float32]
    score: float

    def lines(self) -> list[str]:
        query = f"the detector was asked for {self.category!r}" if self.category else "the detector was asked for everything"
        lines = [
            f"looked for: {', '.join(self.words) or 'the whole text'}; {query}; picture and text fit with log-odds {self.score:.2f}"
        ]
        order = sorted(range(len(self.regions)), key=lambda index: -self.grades[index])
        for index in order[:5]:
            region = self.regions[index]
            box = ", ".join(f"{end:.0f}" for end in region.box)
            lines.append(f"  {self.grades[index]:9.4g}  {region.label or 'region'} {region.score:.2f} at {box}")
        return lines if order else [*lines, "no candidate was found"]

    def to_json(self) -> dict[str, Any]:
        rows = [
            {"box": list(region.box), "label": region.label, "score": region.score, "grade": grade}
            for region, grade in zip(self.regions, self.grades, strict=True)
        ]
        out = {"text": self.text, "agent": self.agent, "category": self.category, "words": list(self.words), "match": self.score}
        return {**out, "best": self.best, "candidates": rows}

    def picture(self) -> Pixels:
        """Heat map over the picture, and the candidates with the best one strong."""
        return heat_picture(decode(self.image, exact=True), self.heat_HW, self.text, self.regions, self.best)


@dataclass(frozen=True)
class ReferringExpression:
    """image     the picture
    text      what is referred to, such as "the red cup left of the plate"
    category  the name that the detector is asked for; "" takes it from the text
    """

    image: ImageSource
    text: str
    category: str = ""


@dataclass(frozen=True)
class GroundVLP:
    """GroundVLP: Harnessing Zero-shot Visual Grounding from Vision-Language Pre-training and Open-Vocabulary Object Detection (Shen et al.,
    2023, arXiv 2312.15043).

    The text and the image go into an image-text matching model. At one cross-attention layer, attention times the positive part
    of the gradient of the match score gives a map for each token; the maps of the content words and of the begin token are
    averaged. A detector proposes boxes of the category that the text is about, and the box with the highest

        score * sum of the map inside it / area ** 0.5

    wins: the sum favours large boxes, the mean small ones.

    Differences from the release: the noun that the text is about is the last one of its first noun phrase, found by our tagger
    instead of a constituency parser that has to be downloaded; the release takes the last singular noun of the first innermost
    phrase that has one. For "two women next to a bench" this gives women, the release bench. The noun is mapped to a category by
    an embedder's texts (published: CLIP's), or by its name without an embedder. For a text without a noun the detector returns
    all categories (released: the category nearest to "[UNK]"). Tokens of words are located by character offsets; the release
    counts pieces and is off by one for tokenizers with an end token. If no box has a grade above 0 the highest still wins
    (released: a box of no area).

    `ground` is also implemented, so phrase grounding protocols can evaluate it: each phrase is read by itself.

    template   what the text is put into
    layer      of the match model; None takes its own choice
    rows       "main": words that can be seen; "all": every token
    weighing   "weighted" (exponent 0.5), "sum", "mean", or an exponent of the area by `exponent`
    exponent   of the area, where it is 0 or more; below, that of `weighing`
    names      categories of the detector; empty takes COCO's 80
    least_given, least_predicted   score that a box is above whose category was given, or taken from the text
    halve      halve that until a box is found, as the demo of the release; else everything is asked for
    model      scores a picture and a text, and says where in the picture the words lie
    detector   proposes boxes with categories
    embedder   its texts say which category a noun is; None goes by the categories' names
    """

    slug: ClassVar[str] = "groundvlp"
    roles: ClassVar[tuple[Role, ...]] = (
        Role("model", MatchMapper, "a model that reads picture and text together (FIBER, hf: folders of BLIP for retrieval)"),
        Role("detector", Detector, "what proposes boxes"),
        Role("embedder", Embedder, "whose texts say which category a noun is", optional=True),
    )
    request: ClassVar[type] = ReferringExpression

    model: MatchMapper
    detector: Detector
    embedder: Embedder | None = None
    template: str = "there is a {}"
    layer: int | None = None
    rows: Literal["main", "all"] = "main"
    weighing: Weighing = "weighted"
    exponent: float = -1.0
    names: tuple[str, ...] = field(default=())
    least_given: float = 0.15
    least_predicted: float = 0.3
    halve: bool = False

    def __post_init__(self) -> None:
        if self.template.count("{}") != 1:
            raise ConfigError(f"template is {self.template!r} (expected one {{}} for the text)")
        if self.weighing not in EXPONENTS or self.rows not in ("main", "all"):
            raise ConfigError(
                f"weighing is {self.weighing!r}, rows {self.rows!r} (expected {' | '.join(EXPONENTS)}, and main | all)"
            )
        if min(self.least_given, self.least_predicted) < 0:
            raise ConfigError(
                f"least_given is {self.least_given} and least_predicted {self.least_predicted} (expected 0 or more)"
            )

    @property
    def name(self) -> str:
        return self.slug

    def run(self, request: ReferringExpression) -> GroundingResult:
        """Grounding of a text. Raises DataError for a text without a word."""
        if not request.text.strip():
            raise DataError("the text is empty", field="text", expected="what is referred to")
        text = self.template.format(request.text)
        (match_map,) = self.model.map_match(request.image, [text], layer=self.layer)
        height, width = decode(request.image, exact=True).shape[:2]
        start = self.template.index("{}")
        words = main_words(request.text) if self.rows == "main" else []
        spans = [(start + word.start, start + word.stop) for word in words]
        heat_HW = upsampled(token_mean(match_map, spans), match_map.box, height, width)
        agent = "" if request.category else head_noun(request.text)
        category = request.category or self.category_of(agent)
        regions = self.candidates(request.image, category, self.least_given if request.category else self.least_predicted)
        power = self.exponent if self.exponent >= 0 else EXPONENTS[self.weighing]
        grades = [box_grade(heat_HW, region.box, region.score, exponent=power) for region in regions]
        return GroundingResult(
            request.text,
            request.image,
            tuple(regions),
            tuple(grades),
            int(np.argmax(grades)) if grades else None,
            agent,
            category,
            tuple(word.text for word in words),
            heat_HW,
            match_map.score,
        )

    def ground(
        self, images: Sequence[ImageSource], queries: Sequence[PhraseQuery], *, top: int = 100, batch_size: int = 16
    ) -> list[list[PhraseBoxes]]:
        """Boxes for the phrases of each query, best first; the text around a phrase is ignored."""
        if len(images) != len(queries):
            raise DataError(f"{len(images)} images and {len(queries)} queries", field="queries", expected="one an image")
        return [
            [self._grounded(image, words, top) for words in query.words()] for image, query in zip(images, queries, strict=True)
        ]

    def _grounded(self, image: ImageSource, words: str, top: int) -> PhraseBoxes:
        answer = self.run(ReferringExpression(image, words))
        order = sorted(range(len(answer.regions)), key=lambda index: -answer.grades[index])[:top]
        boxes = np.array([answer.regions[index].box for index in order], np.float32).reshape(-1, 4)
        return PhraseBoxes(boxes, np.array([answer.grades[index] for index in order], np.float32))

    def categories(self) -> tuple[str, ...]:
        """Categories that the detector may be queried with."""
        return self.names or tuple(vocabulary("coco").objects)

    def category_of(self, agent: str) -> str:
        """Category of a noun; "" for an empty noun, and, without an embedder, for a noun that is not a category name."""
        names = self.categories()
        if not agent:
            return ""
        if self.embedder is not None:
            unit_ND = self.embedder.embed_texts([f"a photo of {name}" for name in (agent, *names)])
            return names[int(np.argmax(unit_ND[1:] @ unit_ND[0]))]
        lower = agent.lower()
        forms = (lower, *(singulars(lower) if lower.endswith("s") else ()))
        return next((name for form in forms for name in names if name.lower() == form), "")

    def candidates(self, image: ImageSource, category: str, least: float) -> list[Region]:
        """Detected boxes of a category above a score; if there are none, all detected boxes, with score 1."""
        if category:
            regions = _of(self.detector, image, (category,))
            while True:
                hits = [region for region in regions if region.label == category and region.score > least]
                if hits or not self.halve or least < 1e-3:
                    break
                least /= 2
            if hits:
                return hits
        return [Region(region.box, region.label) for region in _of(self.detector, image, self.categories())]


def _of(detector: Detector, image: ImageSource, names: Sequence[str]) -> tuple[Region, ...]:
    return detector.detect([image], objects=list(names))[0].regions


@lru_cache(maxsize=4096)
def main_words(text: str) -> tuple[Any, ...]:
    """Content words of a text: nouns, verbs, adjectives, names, numbers.

    >>> [word.text for word in main_words("the red cup left of the plate")]
    ['red', 'cup', 'plate']
    """
    return tuple(word for word in tag(text) if word.tag in MEANINGFUL)


def head_noun(text: str) -> str:
    """Head noun of a text: the last one of its first noun phrase, else the last of the text; "" for none.

    >>> head_noun("a red and white table with two wooden chairs"), head_noun("left")
    ('table', '')
    """
    words = tag(text)
    phrases = noun_phrases(words)
    if phrases:
        return phrases[0].head.text
    return next((word.text for word in reversed(words) if word.tag in NOUNS), "")


def token_mean(match_map: MatchMap, spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.float32]:
    """Mean map [R, C] over the tokens of these character spans and the begin token; over all tokens if no token overlaps them."""
    inside_L = tokens_of(spans, match_map.offset_L2)
    if not inside_L.any():
        whole: npt.NDArray[np.float32] = match_map.weight_LHW.mean(axis=0)
        return whole
    if match_map.offset_L2[0, 1] == match_map.offset_L2[0, 0]:
        inside_L[0] = True
    some: npt.NDArray[np.float32] = match_map.weight_LHW[inside_L].mean(axis=0)
    return some


def upsampled(
    grid_RC: npt.NDArray[np.float32], box: tuple[float, float, float, float], height: int, width: int
) -> npt.NDArray[np.float32]:
    """Resizes the grid (bicubic) to the part of the image that it covers; 0 elsewhere. [H, W]"""
    x0, x1 = round(box[0] * width), round(box[2] * width)
    y0, y1 = round(box[1] * height), round(box[3] * height)
    if x1 <= x0 or y1 <= y0:
        raise ShapeError(f"the grid covers {box} of a picture of {width} x {height} pixels (expected an area)")
    plane = torch.from_numpy(np.ascontiguousarray(grid_RC, dtype=np.float32))[None, None]
    large = F.interpolate(plane, size=(y1 - y0, x1 - x0), mode="bicubic", align_corners=False)[0, 0].numpy()
    heat_HW = np.zeros((height, width), np.float32)
    top, left, bottom, right = max(y0, 0), max(x0, 0), min(y1, height), min(x1, width)
    heat_HW[top:bottom, left:right] = large[top - y0 : bottom - y0, left - x0 : right - x0]
    return heat_HW


def box_grade(
    heat_HW: npt.NDArray[Any], box: tuple[float, float, float, float], score: float = 1.0, *, exponent: float = 0.5
) -> float:
    """Grade of a box: score * sum of the map inside the box / area ** exponent; box pixels are truncated to integers, the area is
    not."""
    x0, y0, x1, y1 = box
    inside = heat_HW[max(int(y0), 0) : max(int(y1), 0), max(int(x0), 0) : max(int(x1), 0)]
    return float(score * inside.sum(dtype=np.float64) / ((x1 - x0) * (y1 - y0)) ** exponent)
