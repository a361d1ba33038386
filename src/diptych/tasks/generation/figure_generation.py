"""Generation of two given figures in a relation: key points, relation and identity, checked by geometry."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, ImageGenerator, ReportColumns
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.tasks._scoring.intervals import Floats
from diptych.tasks._scoring.means import mean_metrics
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.generation.reference_pictures import references_of
from diptych.worlds.figures.checker import check_figures
from diptych.worlds.figures.world import StickFigure

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("key_point_error", pa.float64()),
        ("relation", pa.bool_()),
        ("identities", pa.bool_()),
    ]
)
NAMES = ("key_point_error", "relation_accuracy", "identity_accuracy")


@dataclass(frozen=True)
class FigureGeneration:
    """Key-point error (the main metric), relation accuracy and identity accuracy of generated images of `world:figures`.

    The model receives each row's prompt, reference images and boxes. The error is the mean distance, as a fraction of the image
    side, between the key points of the drawn figures and the nearest pixel of the figure's colour, and between such pixels and
    the drawing. An image has the relation if the drawing of that relation is nearer than those of the others, and the identities
    if each figure's colour is on its own side. The published CLIP and DINO similarities are available through `clip_score`; on
    drawings of 32 pixels they are uninformative.

    limit     number of rows to generate, the first ones
    steps, guidance  denoising steps, and scale of classifier-free guidance
    draws, seed      bootstrap draws of the intervals, and seed of intervals and noise
    """

    name: ClassVar[str] = "figure_generation"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = ImageGenerator
    main: ClassVar[str] = "key_point_error"
    report_columns: ClassVar[ReportColumns] = ReportColumns(item="uid", right="relation", truth="prompt", answer="prompt")

    limit: int = 64
    steps: int = 25
    guidance: float = 3.0
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigError(f"limit is {self.limit} (expected 1 or more)")

    def predict(self, model: ImageGenerator, data: Dataset) -> pa.Table:
        rows = [data[row] for row in range(min(self.limit, len(data)))]
        wanted = [wanted_figures(sample) for sample in rows]
        prompts = [sample.texts[0].string for sample in rows]
        references = [references_of(sample) for sample in rows]
        pictures_NHWC = model.generate_images(
            prompts, references=references, steps=self.steps, guidance=self.guidance, seed=self.seed
        )
        checks = [
            check_figures(pixels_HWC, figures, str(sample.extras["predicate"]))
            for pixels_HWC, figures, sample in zip(pictures_NHWC, wanted, rows, strict=True)
        ]
        columns = [
            [sample.uid for sample in rows],
            [sample.group or sample.uid for sample in rows],
            prompts,
            *([getattr(check, name) for check in checks] for name in ("key_point_error", "relation", "identities")),
        ]
        records = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        groups = records.column("group").to_pylist()
        metrics = mean_metrics(
            _values(records), NAMES, groups, lower_is_better=("key_point_error",), draws=self.draws, seed=self.seed
        )
        notes: dict[str, Any] = {
            **facts_of(records),
            "checked": "by nearest colour and distance to the drawing that was asked for; nothing is learned",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def item_values(self, records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """Per-image values of a metric, [N, 1]."""
        return _values(records)[:, [NAMES.index(metric)]] if metric in NAMES else None


def _values(records: pa.Table) -> Floats:
    columns = ("key_point_error", "relation", "identities")
    return np.stack([np.asarray(records.column(name).to_pylist(), np.float64) for name in columns], 1)


def wanted_figures(sample: Sample) -> list[StickFigure]:
    """The two figures of a sample. Raises DataError for a sample without them."""
    facts = sample.extras.get("figures")
    if not facts or "references" not in sample.media or not sample.texts:
        raise DataError(f"sample '{sample.uid}' has no figures", field="figures", expected="rows of world:figures")
    figures = []
    for one in facts:
        point_KP = np.array(one["key_points"], np.float64)
        height = float(point_KP[15:17, 1].mean() - point_KP[0, 1]) / 0.84
        figures.append(StickFigure(str(one["phrase"]).split()[0], point_KP, height))
    return figures
