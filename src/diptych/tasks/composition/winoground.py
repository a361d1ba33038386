"""Winoground: two images and two captions with the same words. Protocol `winoground`, version 1.

Letters: N examples, s[i, c] the score of image i with caption c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.data.probes.case import stored_cases
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.top_k import beats
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.composition.caption_scoring import CHOOSER, CaptionScoring, Compare

SCORES = ("text", "image", "group")
CHANCE = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}


@dataclass(frozen=True)
class Winoground:
    """Winoground (Thrush et al., 2022, arXiv 2204.03162).

    text   each picture prefers its own caption: s[0, 0] > s[0, 1] and s[1, 1] > s[1, 0]
    image  each caption prefers its own picture: s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1]
    group  both

    and each of them by the examples' collapsed tag, "group/Object". A tie is not greater, as published (`ties="pessimistic"`, the default).
    CLIP benchmark takes the first of tied ones, which is right for caption and image 0 and wrong for 1: `ties="index"`;
    "expected" breaks each tie at random, independently.

    An image-blind model gives both images the same scores and has a text score of 0, so no blind row is reported.

    Examples are read from `examples.jsonl` (`data.probes.winoground`); an example without both of its images is left out and
    counted.
    `world:mirrored` has scenes with their mirror images.

    compare, prompt, question   as in `aro`
    """

    name: ClassVar[str] = "winoground"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = CHOOSER
    main: ClassVar[str] = "group"

    ties: rk.Ties = "pessimistic"
    compare: Compare = "auto"
    prompt: str = ""
    question: str = CaptionScoring.question
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns two rows per example, one per image, with the scores of both captions."""
        asking = CaptionScoring(self.compare, self.prompt, self.question, keep_equal=True, batch_size=self.batch_size)
        missing = "Winoground's examples.jsonl, or world:mirrored"
        return asking.records(model, data, stored_cases, missing=missing, options=asdict(self))

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no example", expected="two rows per example")
        examples, alone = examples_of(records)
        if not examples:
            raise DataError("no example has both of its pictures", expected="two rows a group, with the same two captions")
        value_N3 = np.array([scored(example.score_22, self.ties) for example in examples])
        kinds = [example.kind for example in examples]
        groups = [example.group for example in examples]
        metrics = {}
        for kind in ("", *sorted(set(kinds))):
            here = np.array([not kind or each == kind for each in kinds])
            for column in (2, 0, 1):
                name = f"{SCORES[column]}/{kind}" if kind else SCORES[column]
                metrics[name] = self._metric(np.where(here, value_N3[:, column], np.nan), groups, CHANCE[SCORES[column]])
        tied = [len(np.unique(example.score_22)) < 4 for example in examples]
        notes = {
            **facts_of(records),
            "ties": self.ties,
            "share_with_a_tie": float(np.mean(tied)),
            "examples_without_both_pictures": alone,
            "interval": f"95 % percentile, {self.draws} draws of examples, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(examples), len(examples), notes=notes)

    def _metric(self, value_N: Floats, groups: Sequence[str], chance: float) -> Metric:
        drawn_R = resampled_means(value_N[:, None], groups, draws=self.draws, seed=self.seed)[:, 0]
        return Metric(float(np.nanmean(value_N)), *percentiles(drawn_R), chance=chance, items=int((~np.isnan(value_N)).sum()))

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """Values [N, 1] of a metric by example."""
        head, _, kind = metric.partition("/")
        if head not in SCORES:
            return None
        ties = facts_of(records).get("options", {}).get("ties", "pessimistic")
        examples, _ = examples_of(records)
        values = [scored(e.score_22, ties)[SCORES.index(head)] if kind in ("", e.kind) else np.nan for e in examples]
        return np.array(values)[:, None]


@dataclass(frozen=True, slots=True)
class Example:
    """One Winoground example. score_22: pictures [rows] with captions [columns]."""

    group: str
    kind: str
    score_22: Floats


def examples_of(records: pa.Table) -> tuple[list[Example], int]:
    """Examples with both images, in order, and the number of examples with only one."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in records.select(["group", "kind", "options", "roles", "scores"]).to_pylist():
        rows.setdefault(row["group"], []).append(row)
    examples = []
    for group, pair in rows.items():
        if len(pair) == 2 and pair[0]["options"] == pair[1]["options"] and len(pair[0]["options"]) == 2:
            pair.sort(key=lambda row: row["roles"].index("true"))
            if [row["roles"].index("true") for row in pair] == [0, 1]:
                examples.append(Example(group, pair[0]["kind"], np.array([row["scores"] for row in pair], np.float64)))
    return examples, len(rows) - len(examples)


def scored(score_22: Floats, ties: rk.Ties = "pessimistic") -> tuple[float, float, float]:
    """(text, image, group) correctness of one example.

    >>> scored(np.array([[0.9, 0.1], [0.9, 0.95]]))
    (1.0, 0.0, 0.0)
    """
    s = score_22
    text = beats(s[0, 0], s[0, 1], ties, first=True) * beats(s[1, 1], s[1, 0], ties, first=False)
    image = beats(s[0, 0], s[1, 0], ties, first=True) * beats(s[1, 1], s[0, 1], ties, first=False)
    return text, image, text * image
