"""OmniLabel: detection by free-form descriptions and by plain names, including negative descriptions (Schulter et al., 2023,
2304.11463).
Protocol `omnilabel`, version 1.

Every description is queried on the images that list it, and all (image, description) pairs are ranked together as a single class,
so scores must be calibrated across texts. Average precision is COCO's (100 boxes per pair, crowds left out), over

    categ        plain names
    descr        free descriptions, those that mean nothing in their picture too; descr-pos: only those that mean something
    descr-s, -m, -l   descriptions of up to 3, 4 to 8, and more than 8 words (between blanks)

    ap           2 c d / (c + d + 1e-5) of AP over categ and descr, as released; main
    ap-...       over each of these;  ap50-..., ap75-... at one overlap, ar-... the recall that is reached, for descr and categ

A part without true boxes is NaN (the release writes -1). The release differs in one point: an annotation with id 0 never counts
as detected. There are no intervals: resampling images would require recomputing all ranks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.graphs.formats.coco import CROWD
from diptych.data.text.captions.phrases import sentences_of
from diptych.tasks._scoring.detection.boxes import Boxes, precision_and_recall
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.grounding.box_queries import boxes_of

CATEGORY, DESCRIPTION = "category", "description"
"""Kinds of phrases that are evaluated."""
PER_PAIR = 100
SHORT, MEDIUM = 3, 8
"""Maximum number of words of a short and of a medium description."""
SMALL = 1e-5
"""Added to the denominator of the harmonic mean, as released."""


@dataclass(frozen=True, slots=True)
class OmniLabel:
    """Average precision over free descriptions and names (`extras["grounding"]`, as the reader of `omnilabel` gives it).

    together   number of descriptions per text for a grounding model; 1: each description alone (DesCo is reported with 20)
    """

    name: ClassVar[str] = "omnilabel"
    version: ClassVar[int] = 1
    needs: ClassVar[type | UnionType] = Grounder | Detector
    main: ClassVar[str] = "ap"

    together: int = 1

    def __post_init__(self) -> None:
        if self.together < 1:
            raise ConfigError(f"together is {self.together} (expected one description in a text, or more)")

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per box of each (image, description) pair: true boxes (score null) and detected ones."""
        rows: list[dict[str, Any]] = []
        pairs = pictures = 0
        for row in with_bar(range(len(data)), len(data), "looking for descriptions", least=4):
            sample = data[row]
            described = _descriptions(sample)
            if sample.image is None or not described:
                continue
            pictures += 1
            groups = [described[start : start + self.together] for start in range(0, len(described), self.together)]
            queries = [PhraseQuery.of([text for text, _, _ in group]) for group in groups]
            answers = [
                answer for boxes in boxes_of(model, [sample.image] * len(queries), queries, top=PER_PAIR) for answer in boxes
            ]
            for (text, kind, regions), answer in zip(described, answers, strict=True):
                pair = {"uid": sample.uid, "pair": pairs, "text": text, "kind": kind}
                for region in (sample.regions[index] for index in regions):
                    rows.append({**pair, "box": list(region.box), "score": None, "crowd": CROWD in region.attributes})
                scored = zip(answer.box_N4.tolist(), answer.score_N.tolist(), strict=True)
                rows += [{**pair, "box": box, "score": score, "crowd": False} for box, score in scored]
                pairs += 1
        if not pairs:
            raise DataError(
                f"'{data.name}' has no description that is looked for",
                field="grounding",
                expected='samples with extras["grounding"], sentences of one phrase of the kind "category" or "description"',
            )
        return with_facts(pa.Table.from_pylist(rows, schema=_SCHEMA), options=asdict(self), pairs=pairs, pictures=pictures)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        facts = facts_of(records)
        pair_N = np.array(records.column("pair").to_pylist(), np.int64)
        every = Boxes(
            pair_N,
            np.zeros(len(pair_N), np.int64),
            np.array(records.column("box").to_pylist(), np.float64).reshape(-1, 4),
            np.array([np.nan if score is None else score for score in records.column("score").to_pylist()], np.float64),
        )
        crowd_N, true_N = np.array(records.column("crowd").to_pylist(), bool), np.isnan(every.score_N)
        metrics: dict[str, Metric] = {}
        for part, in_N in self._parts(records, pair_N, true_N).items():
            ap_T, recall_T = precision_and_recall(
                every.of(in_N & true_N & ~crowd_N),
                every.of(in_N & ~true_N),
                per_image=PER_PAIR,
                crowds=every.of(in_N & true_N & crowd_N),
            )
            metrics[f"ap-{part}"] = Metric(float(ap_T.mean()))
            if part in ("categ", "descr"):
                metrics |= {f"ap50-{part}": Metric(float(ap_T[0])), f"ap75-{part}": Metric(float(ap_T[5]))}
                metrics[f"ar-{part}"] = Metric(float(recall_T.mean()))
        names, free = metrics["ap-categ"].value, metrics["ap-descr"].value
        metrics = {"ap": Metric(2 * names * free / (names + free + SMALL)), **metrics}
        notes = {"options": facts["options"]}
        return Result(self.name, self.version, self.main, metrics, facts["pairs"], facts["pictures"], notes=notes)

    @staticmethod
    def _parts(
        records: pa.Table, pair_N: npt.NDArray[np.int64], true_N: npt.NDArray[np.bool_]
    ) -> dict[str, npt.NDArray[np.bool_]]:
        """Row masks by part; a description is positive in an image if it has a true box there."""
        free_N = np.array([kind == DESCRIPTION for kind in records.column("kind").to_pylist()], bool)
        words_N = np.array([len(text.split()) for text in records.column("text").to_pylist()], np.int64)
        return {
            "categ": ~free_N,
            "descr": free_N,
            "descr-pos": free_N & np.isin(pair_N, pair_N[true_N]),
            "descr-s": free_N & (words_N <= SHORT),
            "descr-m": free_N & (words_N > SHORT) & (words_N <= MEDIUM),
            "descr-l": free_N & (words_N > MEDIUM),
        }


_SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("pair", pa.int64()),
        ("text", pa.string()),
        ("kind", pa.string()),
        ("box", pa.list_(pa.float64(), 4)),
        ("score", pa.float64()),
        ("crowd", pa.bool_()),
    ]
)


def _descriptions(sample: Sample) -> list[tuple[str, str, tuple[int, ...]]]:
    """Text, kind and regions of each description queried on an image."""
    phrases = [(s.text, s.phrases[0]) for s in sentences_of(sample) if len(s.phrases) == 1]
    return [(text, p.kind, p.regions) for text, p in phrases if p.kind in (CATEGORY, DESCRIPTION)]
