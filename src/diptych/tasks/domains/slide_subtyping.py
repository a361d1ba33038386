"""Zero-shot tumour subtyping of slides.  Protocol `slide_subtyping`, version 1.

Each tile votes for the class with its largest probability, normal tissue among them; the kind with most votes wins, and "normal" cannot
(KEEP, 2024, arXiv 2412.13126). Of equally many votes the first kind. A slide of which no tile votes for any kind is counted in the notes.
Main metric: `balanced_acc`, the mean over kinds of the share of their slides that is right. `balanced_acc_pooled` takes the mean of a
slide's tile vectors. Intervals resample patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.data.labels import label_of
from diptych.tasks._scoring.intervals import codes, percentiles, resampled_class_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks._scoring.slides.scores import subtype_shares
from diptych.tasks.domains.slide_task import SlideTask, names_by_label

NORMAL = "normal"


@dataclass(frozen=True, kw_only=True)
class SlideSubtyping(SlideTask):
    """Zero-shot tumour subtyping of slides: balanced accuracy over subtypes.

    label   the column with a slide's subtype, otherwise its text of origin "label"; slides of other subtypes are left out and counted
    kinds   subtypes as "LABEL=NAME|NAME", or labels that are their own names
    normal  names of tissue without a tumour, an additional class that cannot be predicted for a slide
    """

    name: ClassVar[str] = "slide_subtyping"
    version: ClassVar[int] = 1
    main: ClassVar[str] = "balanced_acc"

    label: str = "label"
    kinds: tuple[str, ...] = ()
    normal: tuple[str, ...] = ("normal tissue", "non-cancerous tissue", "benign tissue")
    overlap: float = 0.5

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per slide of one of the kinds."""
        kinds = names_by_label(self.kinds)
        if len(kinds) < 2 or NORMAL in kinds:
            raise ConfigError(f"kinds is {self.kinds} (expected two or more of LABEL=NAME|NAME, none of them '{NORMAL}')")
        labels = [*kinds]
        kind_of = {data[row].uid: label_of(data[row], self.label, "") for row in range(len(data))}
        kept = [row for row, kind in enumerate(kind_of.values()) if kind in kinds]
        if not kept:
            raise DataError(f"'{data.name}' has no slide of these kinds", field=self.label, expected=" | ".join(labels))
        read, unreadable = self.slides(model, data.select(kept), {**kinds, NORMAL: self.normal})
        rows = []
        for one in read:
            share_K = subtype_shares(one.scores)
            rows.append(
                {
                    "uid": one.sample.uid,
                    "group": self.group_of(one.sample),
                    "label": kind_of[one.sample.uid],
                    "predicted": labels[int(share_K[:-1].argmax())],
                    "pooled": labels[int(one.pooled_K[:-1].argmax())],
                    "shares": share_K.tolist(),
                    "tiles": len(one.scores.place_N2),
                }
            )
        facts = {"kinds": labels, "slides_of_others": len(data) - len(kept), "prompt_sets": read[0].chosen}
        return with_facts(pa.Table.from_pylist(rows), options=self.options(), unreadable=unreadable, **facts)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no slide", expected="one row or more")
        labels, groups = records.column("label").to_pylist(), records.column("group").to_pylist()
        kinds = [kind for kind in facts_of(records)["kinds"] if kind in labels]
        kind_N = np.array([kinds.index(label) for label in labels])
        metrics = {}
        for name, column in (("balanced_acc", "predicted"), ("balanced_acc_pooled", "pooled")):
            right_N = np.array([a == b for a, b in zip(labels, records.column(column).to_pylist(), strict=True)], float)
            value = float(np.mean([right_N[kind_N == kind].mean() for kind in range(len(kinds))]))
            drawn = resampled_class_means(right_N, kind_N, groups, draws=self.draws, seed=self.seed)
            metrics[name] = Metric(value, *percentiles(drawn), chance=1 / len(facts_of(records)["kinds"]))
        without = sum(max(shares[:-1]) == 0 for shares in records.column("shares").to_pylist())
        notes = {**facts_of(records), "slides_without_a_vote": without, "interval": "95 % percentile, draws of patients"}
        return Result(self.name, self.version, self.main, metrics, len(records), codes(groups)[1], notes=notes)
