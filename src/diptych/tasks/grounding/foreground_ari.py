"""Segmentation into objects without classes: adjusted Rand index over the pixels of objects."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Segmenter
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.data.masks import decode
from diptych.tasks._scoring.detection.adjusted_rand import adjusted_rand
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import with_facts


@dataclass(frozen=True)
class ForegroundARI:
    """FG-ARI: agreement between the segments that a model predicts and the true objects, ignoring labels. Background pixels do
    not count. 1 for equal partitions, about 0 for random ones.

    bound      minimum share of a picture's FG-ARI at which its objects count as bound (`bound_share`)
    draws, seed of the intervals
    """

    name: ClassVar[str] = "foreground_ari"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Segmenter
    main: ClassVar[str] = "fg_ari"

    bound: float = 0.7
    draws: int = 500
    seed: int = 0

    def predict(self, model: Segmenter, data: Dataset) -> pa.Table:
        samples = [data[row] for row in range(len(data))]
        for row, sample in enumerate(samples):
            if sample.image is None or not any(region.mask for region in sample.regions):
                raise DataError(
                    f"sample '{sample.uid}' has no masks", file=data.name, row=row, expected="an image and a mask of an object"
                )
        maps = model.segment([sample.image for sample in samples if sample.image is not None], ())
        scores = []
        for sample, map_HW in zip(samples, maps, strict=True):
            true_KHW = np.stack([decode(region.mask) for region in sample.regions if region.mask])
            foreground_HW = true_KHW.any(0)
            scores.append(adjusted_rand(true_KHW.argmax(0)[foreground_HW], map_HW[foreground_HW]))
        columns = {
            "uid": [sample.uid for sample in samples],
            "group": [sample.group or sample.uid for sample in samples],
            "fg_ari": scores,
            "parts": [len(np.unique(map_HW)) for map_HW in maps],
        }
        return with_facts(pa.table(columns), options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        ari_N = np.asarray(records.column("fg_ari").to_pylist(), np.float64)
        columns = {"fg_ari": ari_N, "bound_share": (ari_N >= self.bound).astype(np.float64)}
        columns["parts"] = np.asarray(records.column("parts").to_pylist(), np.float64)
        groups = records.column("group").to_pylist()
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(
                float(value_N.mean()), *percentiles(drawn_RM[:, n]), chance=0.0 if name == "fg_ari" else float("nan"),
                unit="points" if name == "parts" else "share",
            )
            for n, (name, value_N) in enumerate(columns.items())
        }  # fmt: skip
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)))
