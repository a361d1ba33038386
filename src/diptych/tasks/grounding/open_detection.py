"""Boxes or masks of named classes, found by their names or their descriptions: average precision as COCO and LVIS have it.  Protocol
`open_detection`, version 2.

    ap        mean over overlaps .5, .55, ... .95 and over classes with a true box; ap50 and ap75 at one overlap. ap is the main number
    apr, apc, apf   over rare, common and frequent classes, where the data say so (`extras["frequency"]`: {name: "r" | "c" | "f"})

`rule="coco"` counts the 100 best boxes of each class in an image. `rule="fixed"` (Dave et al., 2021, 2102.01066; LVIS as GLIP and DesCo
report it) counts every box, and of each class the 10,000 best of all images: a limit an image lets a detector gain by keeping quiet about
frequent classes. Boxes around a crowd (the attribute "crowd") are no true boxes, and what is found in one does not count.

What LVIS did not look for does not count: of `extras["absent"]` names are known to be missing in an image and of
`extras["partial"]` not every box is drawn; where a data set has either, other classes of an image are left out of it.

There are no intervals: a draw of images would need all matches again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseBoxes
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.graphs.formats.coco import CROWD
from diptych.data.masks import encode, pixels_of
from diptych.data.media import decode as media
from diptych.data.text.descriptions.description_queries import BEFORE, CLASSES, ClassQueries, spoken_name
from diptych.data.text.descriptions.knowledge import Knowledge, knowledge_of, read_knowledge
from diptych.data.text.tokens.spans import SpanText
from diptych.tasks._scoring.detection.boxes import Boxes, average_precision
from diptych.tasks._scoring.records import facts_of, with_facts

ABSENT, PARTIAL, FREQUENCY = "absent", "partial", "frequency"
PARTS = {"r": "apr", "c": "apc", "f": "apf"}
PER_CLASS = 10_000


@dataclass(frozen=True, slots=True)
class OpenDetection:
    """Average precision over the classes of the data.

    wording    "plain": names as GLIP writes them, "aerosol_can" as "aerosol can" and "bow_(weapon)" as "bow", so that classes with equal
               words get the same boxes; "as_is": unchanged
    queries    "names", or "descriptions": each class by name and description, eight per text (DesCo), which needs a grounding model
    knowledge  file of descriptions; "" uses the file beside the samples
    rule       "coco" or "fixed"
    top        maximum number of boxes per image over all classes; with descriptions, per class
    shapes     "boxes", or "masks" (COCO's "segm"), which both true and predicted regions must have
    """

    name: ClassVar[str] = "open_detection"
    version: ClassVar[int] = 2
    needs: ClassVar[type | UnionType] = Grounder | Detector
    main: ClassVar[str] = "ap"

    queries: Literal["names", "descriptions"] = "names"
    wording: Literal["plain", "as_is"] = "plain"
    knowledge: str = ""
    rule: Literal["coco", "fixed"] = "coco"
    top: int = 300
    shapes: Literal["boxes", "masks"] = "boxes"

    def __post_init__(self) -> None:
        if self.queries not in ("names", "descriptions") or self.rule not in ("coco", "fixed") or self.top < 1:
            raise ConfigError(
                f"queries is {self.queries!r}, rule {self.rule!r}, top {self.top} (expected names | descriptions, coco | fixed, 1 or more)"
            )
        if self.wording not in ("plain", "as_is"):
            raise ConfigError(f"wording is {self.wording!r} (expected plain | as_is)")
        if self.shapes not in ("boxes", "masks") or (self.shapes == "masks" and self.queries == "descriptions"):
            raise ConfigError(
                f"shapes is {self.shapes!r} with queries {self.queries!r} (expected boxes | masks, and masks by names alone)"
            )

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """A row a box, true ones (score null) and those that were found; a row with neither a label nor a box for an image without."""
        samples = [sample for row in range(len(data)) if (sample := data[row]).image is not None]
        names = sorted({region.label for sample in samples for region in sample.regions})
        if not names:
            raise DataError(f"'{data.name}' has no labelled box", field="regions", expected="samples with regions")
        if self.queries == "descriptions" and not isinstance(model, Grounder):
            raise ConfigError(f"{getattr(model, 'name', model)} does not ground texts (expected queries='names')")
        texts = list(_texts(names, self._class_knowledge(samples))) if self.queries == "descriptions" else []
        rows: list[dict[str, Any]] = []
        for number, sample in enumerate(samples):
            codes = _codes(sample) if self.shapes == "masks" else [None] * len(sample.regions)
            rows += [
                _row(number, sample, region.label, region.box, None, CROWD in region.attributes, code)
                for region, code in zip(sample.regions, codes, strict=True)
            ]
            if self.shapes == "masks":
                rows += [
                    _row(number, sample, name, region.box, region.score, mask=_code(region, model))
                    for name, region in self._regions(model, sample, names)
                ]
                continue
            for name, answer in self._ground_classes(model, sample, names, texts):
                scored = zip(answer.box_N4.tolist(), answer.score_N.tolist(), strict=True)
                rows += [_row(number, sample, name, box, score) for box, score in scored]
        facts = {
            "names": names,
            "images": len(samples),
            "absent": {str(n): list(s.extras[ABSENT]) for n, s in enumerate(samples) if ABSENT in s.extras},
            "partial": {str(n): list(s.extras[PARTIAL]) for n, s in enumerate(samples) if s.extras.get(PARTIAL)},
            "frequency": {name: kind for s in samples for name, kind in (s.extras.get(FREQUENCY) or {}).items()},
        }
        return with_facts(pa.Table.from_pylist(rows, schema=_SCHEMA), options=asdict(self), **facts)

    def _class_knowledge(self, samples: Sequence[Sample]) -> Knowledge:
        knowledge = read_knowledge(Path(self.knowledge)) if self.knowledge else knowledge_of(samples)
        if knowledge is None:
            raise DataError("the data describe no class", field="knowledge", expected="a knowledge file")
        return knowledge

    def _ground_classes(
        self, model: Any, sample: Sample, names: Sequence[str], texts: Sequence[SpanText]
    ) -> list[tuple[str, PhraseBoxes]]:
        if texts:
            answers = model.ground([sample.image] * len(texts), [text.query() for text in texts], top=self.top)
            return [
                (str(name), answer)
                for text, row in zip(texts, answers, strict=True)
                for name, answer in zip(text.spans, row, strict=True)
            ]
        return [
            (name, PhraseBoxes(np.array([region.box], np.float32), np.array([region.score], np.float32)))
            for name, region in self._regions(model, sample, names)
        ]

    def _regions(self, model: Any, sample: Sample, names: Sequence[str]) -> list[tuple[str, Region]]:
        """Detections with class names; a thing counts under every name that has the same wording."""
        called: dict[str, list[str]] = {}
        for name in names:
            called.setdefault(spoken_name(name) if self.wording == "plain" else name, []).append(name)
        (graph,) = model.detect([sample.image], objects=list(called), top=self.top)
        return [(name, region) for region in graph.regions for name in called[region.label]]

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        facts = facts_of(records)
        code = {name: number for number, name in enumerate(facts["names"])}
        box_N4 = np.array(records.column("box").to_pylist(), np.float64).reshape(-1, 4)
        score_N = np.array([np.nan if score is None else score for score in records.column("score").to_pylist()], np.float64)
        every = Boxes(
            np.array(records.column("image").to_pylist(), np.int64),
            np.array([code[label] for label in records.column("label").to_pylist()], np.int64),
            box_N4,
            score_N,
            _codes_of(records) if facts["options"].get("shapes") == "masks" else None,
        )
        crowd_N = np.array(records.column("crowd").to_pylist(), bool)
        true, detections = every.of(np.isnan(score_N) & ~crowd_N), every.of(~np.isnan(score_N))
        ap_TK = average_precision(
            true,
            detections,
            classes=len(code),
            per_image=100 if self.rule == "coco" else 0,
            per_class=0 if self.rule == "coco" else PER_CLASS,
            judged=_judged_classes(facts, true, code),
            partial=[(int(image), code[name]) for image, names in facts["partial"].items() for name in names if name in code],
            crowds=every.of(crowd_N),
        )
        metrics = {"ap": Metric(_mean(ap_TK)), "ap50": Metric(_mean(ap_TK[:1])), "ap75": Metric(_mean(ap_TK[5:6]))}
        kinds = np.array([facts["frequency"].get(name, "") for name in facts["names"]])
        metrics |= {part: Metric(_mean(ap_TK[:, kinds == kind])) for kind, part in PARTS.items() if (kinds == kind).any()}
        per_class = {name: float(value) for name, value in zip(facts["names"], np.nanmean(ap_TK, 0).tolist(), strict=True)}
        notes = {"options": facts["options"], "ap_by_class": per_class}
        return Result(self.name, self.version, self.main, metrics, len(true.image_N), facts["images"], notes=notes)


_SCHEMA = pa.schema(
    [
        ("image", pa.int64()),
        ("uid", pa.string()),
        ("label", pa.string()),
        ("box", pa.list_(pa.float64(), 4)),
        ("score", pa.float64()),
        ("crowd", pa.bool_()),
        ("mask", pa.string()),
    ]
)


def _row(
    number: int,
    sample: Sample,
    label: str,
    box: Sequence[float],
    score: float | None,
    crowd: bool = False,
    mask: dict[str, Any] | None = None,
) -> dict[str, Any]:
    sides, code = [float(side) for side in box], None if mask is None else json.dumps(mask)
    return {"image": number, "uid": sample.uid, "label": label, "box": sides, "score": score, "crowd": crowd, "mask": code}


def _codes(sample: Sample) -> list[dict[str, Any]]:
    """Encoded mask of every region. Raises DataError that names the sample."""
    assert sample.image is not None
    height, width = media.decode(sample.image).shape[:2]
    codes = []
    for region in sample.regions:
        if not region.mask:
            came = f"sample '{sample.uid}' has a region '{region.label}' without a mask"
            raise DataError(came, field="regions", expected="a segmentation of every region")
        try:
            codes.append(encode(pixels_of(region.mask, height, width)))
        except DataError as error:
            raise DataError(f"sample '{sample.uid}': {error.problem}", field="regions", expected=error.expected) from None
    return codes


def _code(region: Region, model: Any) -> dict[str, Any]:
    if not isinstance(region.mask, dict):
        name = getattr(model, "name", type(model).__name__)
        raise ConfigError(f"{name} detects boxes without masks (expected shapes='boxes', or a run of denseclip_masks)")
    return region.mask


def _codes_of(records: pa.Table) -> np.ndarray[Any, np.dtype[np.object_]]:
    codes = np.empty(len(records), object)
    codes[:] = [None if code is None else json.loads(code) for code in records.column("mask").to_pylist()]
    return codes


def _texts(names: Sequence[str], knowledge: Knowledge) -> list[SpanText]:
    """Query texts of eight classes each, in order, each with its name and its description."""
    queries = ClassQueries(before=BEFORE)
    return [
        SpanText.joined([BEFORE, *(queries.piece(name, knowledge) for name in names[start : start + CLASSES])])
        for start in range(0, len(names), CLASSES)
    ]


def _judged_classes(facts: dict[str, Any], true: Boxes, code: dict[str, int]) -> set[tuple[int, int]] | None:
    """(image, class) that somebody looked for, there or not; None if the data say nothing of it."""
    if not facts["absent"] and not facts["partial"]:
        return None
    judged = set(zip(true.image_N.tolist(), true.class_N.tolist(), strict=True))
    return judged | {(int(image), code[name]) for image, names in facts["absent"].items() for name in names if name in code}


def _mean(value: np.ndarray[Any, Any]) -> float:
    return float(np.nanmean(value)) if np.isfinite(value).any() else float("nan")
