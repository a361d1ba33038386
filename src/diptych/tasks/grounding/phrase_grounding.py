"""Phrase grounding: recall of caption phrases among the first boxes.  Protocol `phrase_grounding`, version 1.

Flickr30k Entities: one row a phrase that has boxes, read within its caption. Found at K where one of the first K boxes has an IoU of at
least .5 with the target. Several boxes of a phrase count in one of two ways, which differ by several points:

    any     the target is any of them (MDETR, GLIP, DesCo)
    merged  the target is the box around all of them

    r@1 r@5 r@10   share of phrases found; r@1 is the main number. `r@all` is the upper bound: of all boxes that the model gave
    r@1/KIND       of the phrases of a coarse category (people, clothing, ...), r@5, r@10 and r@all likewise; a phrase of several
                   counts in each

Boxes with equal scores stand in the order in which the model gave them; `share_tied` says how many phrases that concerns at K = 1. The unit
of the intervals is the group (the picture). A phrase without a box in the data is left out; one for which the model gives none counts 0.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.box_iou import box_iou
from diptych.core.contracts import Dataset, Detector, Grounder
from diptych.core.errors import ConfigError, DataError
from diptych.core.grounding import PhraseQuery
from diptych.core.result import Result
from diptych.data.text.captions.phrases import sentences_of
from diptych.tasks._scoring.means import Means
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks.grounding.box_queries import boxes_of

KS = (1, 5, 10)
OVERLAP = 0.5
NEVER = 2**31 - 1


@dataclass(frozen=True, slots=True)
class PhraseGrounding:
    """Recall of phrases among the first boxes. boxes  how several true boxes count: "any" or "merged"; top  boxes that are asked for

    boxes   rule for several true boxes: "any", or "merged" to one box that encloses them all
    top     maximum number of predicted boxes per phrase
    """

    name: ClassVar[str] = "phrase_grounding"
    version: ClassVar[int] = 1
    needs: ClassVar[type | UnionType] = Grounder | Detector
    main: ClassVar[str] = "r@1"

    boxes: Literal["any", "merged"] = "any"
    top: int = 100
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.boxes not in ("any", "merged") or self.top < max(KS):
            raise ConfigError(f"boxes is {self.boxes!r}, top {self.top} (expected any | merged, and {max(KS)} or more)")

    def predict(self, model: Grounder | Detector, data: Dataset) -> pa.Table:
        """Returns one row per phrase: rank is the place of the first box that lies on it, from 0; NEVER where none does."""
        rows: list[dict[str, Any]] = []
        without = 0
        for row, group in enumerate(data.groups):
            sample = data[row]
            if sample.image is None:
                continue
            for sentence in sentences_of(sample):
                shown = [phrase for phrase in sentence.phrases if phrase.regions]
                without += len(sentence.phrases) - len(shown)
                if not shown:
                    continue
                query = PhraseQuery(sentence.text, tuple(phrase.spans for phrase in shown))
                (answers,) = boxes_of(model, [sample.image], [query], top=self.top)
                for phrase, words, answer in zip(shown, query.words(), answers, strict=True):
                    target_M4 = np.array([sample.regions[index].box for index in phrase.regions])
                    if self.boxes == "merged":
                        target_M4 = np.concatenate([target_M4[:, :2].min(0), target_M4[:, 2:].max(0)])[None]
                    on_N = (box_iou(answer.box_N4, target_M4) >= OVERLAP).any(1)
                    rank = int(on_N.argmax()) if on_N.any() else NEVER
                    tied = len(answer.score_N) > 1 and bool(answer.score_N[0] == answer.score_N[1])
                    rows.append(
                        {"uid": sample.uid, "group": group, "phrase": words, "kind": phrase.kind, "rank": rank, "tied": tied}
                    )
        if not rows:
            raise DataError(
                f"'{data.name}' has no phrase with a region",
                field="grounding",
                expected='samples with extras["grounding"], phrases of which have regions',
            )
        return with_facts(pa.Table.from_pylist(rows), options=asdict(self), ties="index", phrases_without_box=without)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        groups, rank_N = records.column("group").to_pylist(), array(records, "rank")
        kinds = [set(kind.split("/")) - {""} for kind in records.column("kind").to_pylist()]
        means = Means(groups, draws=self.draws, seed=self.seed)
        limits = {**{f"r@{k}": k for k in KS}, "r@all": NEVER}
        columns = {name: means.add(rank_N < limit) for name, limit in limits.items()}
        for kind in sorted(set().union(*kinds)):
            of_kind_N = np.array([kind in own for own in kinds])
            for name, limit in limits.items():
                columns[f"{name}/{kind}"] = means.add(np.where(of_kind_N, rank_N < limit, np.nan))
        metrics = {name: means.metric(column) for name, column in columns.items()}
        notes = {**facts_of(records), "share_tied": float(array(records, "tied").mean())}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """[N, 1]"""
        k = metric.removeprefix("r@")
        if not k.isdigit() and k != "all":
            return None
        limit = NEVER if k == "all" else int(k)
        return (array(records, "rank") < limit).astype(np.float64)[:, None]
