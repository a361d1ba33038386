"""Zero-shot tumour segmentation of slides.  Protocol `slide_segmentation`, version 1.

A tile is tumour where its probability, averaged with the tiles above and to the left, is above a threshold. That threshold is chosen on
validation slides: the one that separates their tiles best (largest sensitivity minus false positive rate, tiles of all slides together).
Main metric: `dice`, the mean over test slides with tumour of 2 |A and B| / (|A| + |B|) in the pixels of the mask. `auroc` is the mean over
the same slides of the AUROC over tiles, a tile being tumour where more than half of it is.

KEEP (2024, arXiv 2412.13126) scored each slide at the threshold that is best for that slide, which cannot be chosen without the
answer: `oracle_threshold` adds that number, under its name. Its code finds the threshold among "this probability or more" and then takes
the tiles above it, which loses the tiles at it; here the threshold lies halfway to the next smaller probability. Intervals resample
patients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.chest_metrics import auroc
from diptych.tasks._scoring.intervals import codes, percentiles, resampled_means
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks._scoring.slides.scores import cut_below, dice, tile_truth, youden_threshold
from diptych.tasks.domains.slide_task import SlidePrediction, SlideTask, mask_of

TUMOUR = 1


@dataclass(frozen=True, kw_only=True)
class SlideSegmentation(SlideTask):
    """Dice of the tumour map at a threshold from validation slides.

    threshold   a fixed threshold; 0 chooses it on the validation slides
    validation  data on which the threshold is chosen; by default the split "val"
    oracle_threshold  also report `dice_oracle_threshold`, with the best threshold for each slide: an upper bound, not a result
    normal, tumour   names of the two classes; a class is the mean of its names
    """

    name: ClassVar[str] = "slide_segmentation"
    version: ClassVar[int] = 1
    main: ClassVar[str] = "dice"

    normal: tuple[str, ...] = ("normal tissue", "non-cancerous tissue", "benign tissue")
    tumour: tuple[str, ...] = ("tumour tissue", "tumor tissue", "cancerous tissue")
    overlap: float = 0.5
    threshold: float = 0.0
    oracle_threshold: bool = False
    validation: Any = field(default=None, compare=False, repr=False)

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per slide with tumour."""
        names = {"normal": self.normal, "tumour": self.tumour}
        threshold, source = self.threshold, "fixed"
        if not threshold:
            threshold, source = self._choose_threshold(model, names, data)
        read, unreadable = self.slides(model, data, names)
        rows, without = [], 0
        for one in read:
            mask_HW = mask_of(one.sample)
            if not mask_HW.any():
                without += 1
                continue
            rows.append(self._row(one, mask_HW, threshold))
        if not rows:
            raise DataError(f"no slide of '{data.name}' has tumour in its mask", field="mask", expected="one slide or more")
        facts = {"threshold": threshold, "threshold_from": source, "slides_without_tumour": without}
        return with_facts(pa.Table.from_pylist(rows), options=self.options(), unreadable=unreadable, **facts)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no slide", expected="one row or more")
        names = [name for name in ("dice", "auroc", "dice_oracle_threshold") if name in records.column_names]
        value_NM = np.stack([array(records, name).astype(float) for name in names], 1)
        groups = records.column("group").to_pylist()
        drawn = resampled_means(value_NM, groups, draws=self.draws, seed=self.seed)
        chance = {"auroc": 0.5}
        metrics = {
            name: Metric(float(np.nanmean(value_NM[:, m])), *percentiles(drawn[:, m]), chance=chance.get(name, float("nan")))
            for m, name in enumerate(names)
        }
        notes = {**facts_of(records), "interval": "95 % percentile, draws of patients"}
        return Result(self.name, self.version, self.main, metrics, len(records), codes(groups)[1], notes=notes)

    def _choose_threshold(self, model: Embedder, names: dict[str, tuple[str, ...]], data: Dataset) -> tuple[float, str]:
        if self.validation is None:
            raise ConfigError(
                "the threshold is chosen on validation slides: data with a split 'val', validation=, or --threshold"
            )
        if shared := {*self.groups_of(self.validation)} & {*self.groups_of(data)}:
            raise DataError(
                f"patient '{min(shared)}' has slides in both", field="group", expected="other patients to choose the threshold on"
            )
        read, _ = self.slides(model, self.validation, names)
        truths = [tile_truth(mask_of(one.sample), one.scores.place_N2, one.tiles.extent, one.tiles.shape) for one in read]
        tumour_N = np.concatenate([one.scores.score_NK[:, TUMOUR] for one in read])
        threshold = cut_below(youden_threshold(tumour_N, np.concatenate(truths)), tumour_N)
        return threshold, f"{len(read)} slides of '{self.validation.name}'"

    def _row(self, one: SlidePrediction, mask_HW: Any, threshold: float) -> dict[str, Any]:
        tumour_N, place_N2 = one.scores.score_NK[:, TUMOUR], one.scores.place_N2
        extent, shape = one.tiles.extent, one.tiles.shape
        truth_N = tile_truth(mask_HW, place_N2, extent, shape)
        row = {
            "uid": one.sample.uid,
            "group": self.group_of(one.sample),
            "dice": dice(tumour_N, mask_HW, place_N2, extent, shape, threshold),
            "auroc": auroc(tumour_N, truth_N),
            "tiles": len(place_N2),
        }
        if self.oracle_threshold:
            both_kinds = truth_N.any() and not truth_N.all()
            best = cut_below(youden_threshold(tumour_N, truth_N), tumour_N) if both_kinds else threshold
            row["dice_oracle_threshold"] = dice(tumour_N, mask_HW, place_N2, extent, shape, best)
        return row
