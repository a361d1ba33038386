"""Zero-shot tumour detection on slides.  Protocol `slide_detection`, version 1.

The score of a slide is the share of its tiles whose probability of tumour is above one half (KEEP, 2024, arXiv 2412.13126). Main metric:
`auroc` over slides. `sensitivity@95` is the share of tumour slides above the threshold that keeps 95 % of the others at or below it; it is
chosen on the very slides, so it describes the curve and is no operating point. `auroc_pooled` is what the mean of a slide's tile vectors
gives. Intervals resample patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.chest_metrics import auroc
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks._scoring.slides.scores import detection_score, sensitivity_at
from diptych.tasks.domains.slide_task import SlideTask


@dataclass(frozen=True, kw_only=True)
class SlideDetection(SlideTask):
    """Zero-shot tumour detection on slides: AUROC of the share of tumour tiles.

    label     the column with the slide label: 1 or true for a tumour, 0 or false for none
    normal    class names of tissue without a tumour
    tumour    class names of tissue with a tumour
    threshold  probability above which a tile counts as tumour
    """

    name: ClassVar[str] = "slide_detection"
    version: ClassVar[int] = 1
    main: ClassVar[str] = "auroc"

    label: str = "tumour"
    normal: tuple[str, ...] = ("normal tissue", "non-cancerous tissue", "benign tissue")
    tumour: tuple[str, ...] = ("tumour tissue", "tumor tissue", "cancerous tissue")
    threshold: float = 0.5

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per slide."""
        read, unreadable = self.slides(model, data, {"normal": self.normal, "tumour": self.tumour})
        rows = [
            {
                "uid": one.sample.uid,
                "group": self.group_of(one.sample),
                "tumour": tumour_label(one.sample.extras.get(self.label), one.sample.uid, self.label),
                "share": detection_score(one.scores, 1, self.threshold),
                "pooled": float(one.pooled_K[1]),
                "tiles": len(one.scores.place_N2),
            }
            for one in read
        ]
        return with_facts(pa.Table.from_pylist(rows), options=self.options(), unreadable=unreadable, prompt_sets=read[0].chosen)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no slide", expected="one row or more")
        truth_N, groups = array(records, "tumour").astype(bool), records.column("group").to_pylist()
        if truth_N.all() or not truth_N.any():
            raise DataError("all slides are of one kind", field=self.label, expected="slides with a tumour and slides without")
        code_N, count = codes(groups)
        weight_RC = np.concatenate([*group_weights(count, self.draws, self.seed, len(truth_N))])
        metrics = {}
        for name, column in (("auroc", "share"), ("auroc_pooled", "pooled")):
            score_N = array(records, column)
            drawn = np.array([auroc(score_N, truth_N, weight_C[code_N]) for weight_C in weight_RC])
            metrics[name] = Metric(auroc(score_N, truth_N), *percentiles(drawn), chance=0.5)
        metrics["sensitivity@95"] = Metric(sensitivity_at(array(records, "share"), truth_N, 0.95))
        notes = {**facts_of(records), "slides_with_tumour": int(truth_N.sum()), "interval": "95 % percentile, draws of patients"}
        return Result(self.name, self.version, self.main, metrics, len(records), count, notes=notes)


def tumour_label(value: Any, uid: str, field: str) -> bool:
    """Tumour label of a slide as a bool. Raises DataError for a value that is neither."""
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "tumour", "tumor"):
        return True
    if text in ("0", "false", "no", "normal"):
        return False
    raise DataError(f"slide '{uid}' has {value!r}", field=field, expected="1 or 0, true or false, tumour or normal")
