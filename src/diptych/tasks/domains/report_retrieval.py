"""Retrieval of reports by image.  Protocol `report_retrieval`, version 1 (BenchX, 2410.21969; MIMIC 5x200 in its table).

Images and reports of one data set, compared by the embedder's cosines. Each image has a class, the first label of its row.

    hit@k        share of images whose own report is among the first k; the main number is hit@1
    class_hit@k  share of images with any report of their class among the first k, which BenchX's code calls Hit@k
    precision@k  share of the first k reports that are of the image's class

Equal cosines keep the order of the rows. The unit of the intervals is the patient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.index.embed import embedded_images
from diptych.tasks._scoring.chest_metrics import retrieval_hits
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.domains.patient_splits import patient_of


@dataclass(frozen=True, slots=True)
class ReportRetrieval:
    """Hit@k and precision@k of reports by image.

    label  name of the extra with the classes of an image, of which the first counts; images without one are left out
    group  name of the extra with the patient, or of the sample's own group
    ks     values of k
    """

    name: ClassVar[str] = "report_retrieval"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "hit@1"

    label: str = "findings"
    group: str = "patient"
    ks: tuple[int, ...] = (1, 5, 10)
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if 1 not in self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks is {list(self.ks)} (expected 1 and others above it)")

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per image, with what its lists hold."""
        embedded = embedded_images(model, data)
        rows = [at for at, sample in enumerate(embedded.samples) if self._class(sample.extras) and sample.texts]
        if len(rows) < max(self.ks):
            raise DataError(
                f"'{data.name}' has {len(rows)} images with a class and a report",
                field=self.label,
                expected=f"{max(self.ks)} or more",
            )
        samples = [embedded.samples[at] for at in rows]
        text_ND = model.embed_texts([sample.texts[0].string for sample in samples])
        similarity_NM = embedded.vectors_ND[rows].astype(np.float64) @ text_ND.astype(np.float64).T
        class_N = np.array([self._class(sample.extras) for sample in samples])
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample in samples],
            "group": [patient_of(sample, self.group) for sample in samples],
            "class": class_N.tolist(),
        }
        for k in self.ks:
            values = retrieval_hits(similarity_NM, np.arange(len(rows)), class_N, class_N, k)
            columns |= {f"{name}@{k}": value_N for name, value_N in zip(METRICS, values, strict=True)}
        left_out = len(embedded.samples) - len(rows)
        return with_facts(pa.table(columns), options=asdict(self), left_out=left_out)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no image", expected="one row or more")
        groups = records.column("group").to_pylist()
        metrics = {}
        for name in [f"{name}@{k}" for name in METRICS for k in self.ks]:
            value_N1 = np.asarray(records.column(name), np.float64)[:, None]
            drawn_RM = resampled_means(value_N1, groups, draws=self.draws, seed=self.seed)
            metrics[name] = Metric(float(value_N1.mean()), *percentiles(drawn_RM[:, 0]))
        notes = {**facts_of(records), "interval": f"95 % percentile, {self.draws} draws of patients"}
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _class(self, extras: Any) -> str:
        value = extras.get(self.label)
        return value if isinstance(value, str) else str(value[0]) if value else ""


METRICS = ("hit", "class_hit", "precision")
