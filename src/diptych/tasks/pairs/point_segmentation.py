"""Classes of the points of rooms: mean intersection over union.  Protocol `point_segmentation`, version 1.

Metrics, ignored labels and intervals are those of `segmentation`, with points where that has pixels: counts are summed over all clouds
before the IoU of a class is taken.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, PointSegmenter
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Result
from diptych.core.terminal.progress import with_bar
from diptych.data.points.room_clouds import point_labels
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.pairs.classification import class_list_hash
from diptych.tasks.pairs.segmentation import Segmentation, pixel_counts


@dataclass(frozen=True, slots=True)
class PointSegmentation:
    """Mean intersection over union of classes of points.

    classes  names in the order of their indices in `point_labels`; empty uses the model's own
    medium   name of the cloud among a sample's media
    unseen   classes that were not in training, for the harmonic mean
    """

    name: ClassVar[str] = "point_segmentation"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = PointSegmenter
    main: ClassVar[str] = "miou"

    classes: tuple[str, ...] = ()
    medium: str = "cloud"
    unseen: tuple[str, ...] = ()
    draws: int = 2000
    seed: int = 0

    def predict(self, model: PointSegmenter, data: Dataset) -> pa.Table:
        """Returns one row per cloud: points of each class in truth, in the prediction, and in both."""
        classes = self.classes or tuple(model.classes)
        if len(classes) < 2:
            raise ConfigError("the model has no classes of its own (expected --classes with two names or more)")
        rows: list[dict[str, Any]] = []
        for number in with_bar(range(len(data)), len(data), "segmenting", least=4):
            sample = data[number]
            if self.medium not in sample.media:
                raise DataError(f"sample '{sample.uid}' has no cloud", field=self.medium, expected="a cloud in every sample")
            cloud_PF = sample.media[self.medium].decode()
            truth_P = point_labels(sample, len(cloud_PF), len(classes)).astype(np.uint8)
            (predicted_P,) = model.segment_points([cloud_PF], classes)
            counts_3K = pixel_counts(predicted_P, truth_P, len(classes), sample.uid)
            sides = zip(("both", "predicted", "truth"), counts_3K.tolist(), strict=True)
            rows.append({"uid": sample.uid, "group": sample.group or sample.uid, **dict(sides)})
        if not rows:
            raise DataError(f"'{data.name}' has no cloud to segment", field=self.medium, expected="samples with clouds")
        return with_facts(
            pa.Table.from_pylist(rows), options=asdict(self), class_names=list(classes), class_list=class_list_hash(classes)
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        return replace(Segmentation(draws=self.draws, seed=self.seed).score(records), task=self.name, version=self.version)
