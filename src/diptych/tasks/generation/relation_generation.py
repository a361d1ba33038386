"""Relation generation: images of two shapes are generated from prompts and checked by geometry."""

from __future__ import annotations

from collections.abc import Mapping
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
from diptych.worlds.related.checker import check_pair
from diptych.worlds.related.world import COLOURS

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("relation", pa.bool_()),
        ("entities", pa.bool_()),
        ("leaked", pa.bool_()),
    ]
)
NAMES = ("relation_accuracy", "entity_accuracy", "both", "leak_rate")


@dataclass(frozen=True)
class RelationGeneration:
    """Relation accuracy (the main metric), entity accuracy and leak rate of generated images of `world:related`.

    The relation of a sample, (subject, predicate, object), is inserted into `prompt`, and `samples` images are generated. An
    image has the relation if it holds between the largest object of the subject's colour and the largest of the object's colour;
    it has the entities if both also have the right shape; `both` is the fraction with relation and entities. ReVersion
    (2303.13495) uses human judgements of relation and entities; here geometry decides.

    relation  word for the relation in the prompts: "" uses the predicate itself; "<R>" that of relation inversion
    leaks     colours of the exemplars: a picture leaks if it shows an object in one of them that its prompt does not name
    limit     number of rows to generate, the first ones
    samples   pictures per prompt
    steps, guidance  denoising steps, and scale of classifier-free guidance
    draws, seed      bootstrap draws of the intervals, and seed of intervals and noise
    """

    name: ClassVar[str] = "relation_generation"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = ImageGenerator
    main: ClassVar[str] = "relation_accuracy"
    report_columns: ClassVar[ReportColumns] = ReportColumns(item="uid", right="relation", truth="prompt", answer="prompt")

    relation: str = ""
    leaks: tuple[str, ...] = ()
    limit: int = 64
    samples: int = 1
    steps: int = 25
    guidance: float = 3.0
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.limit < 1 or self.samples < 1:
            raise ConfigError(f"limit is {self.limit} and samples {self.samples} (expected 1 or more)")
        if unknown := [colour for colour in self.leaks if colour not in COLOURS]:
            raise ConfigError(f"leaks names {', '.join(unknown)} (expected some of {', '.join(COLOURS)})")

    def predict(self, model: ImageGenerator, data: Dataset) -> pa.Table:
        rows = [data[row] for row in range(min(self.limit, len(data))) for _ in range(self.samples)]
        asked = [relation_of(sample) for sample in rows]
        word = self.relation or getattr(model, "placeholder", "")
        prompts = [f"{one['subject']} {word or one['predicate']} {one['object']}" for one in asked]
        pictures_NHWC = model.generate_images(prompts, steps=self.steps, guidance=self.guidance, seed=self.seed)
        checks = [
            check_pair(pixels_HWC, one["subject"], one["predicate"], one["object"], self.leaks)
            for pixels_HWC, one in zip(pictures_NHWC, asked, strict=True)
        ]
        columns = [
            [f"{sample.uid}-{at % self.samples}" for at, sample in enumerate(rows)],
            [sample.group or sample.uid for sample in rows],
            prompts,
            *([getattr(check, name) for check in checks] for name in ("relation", "entities", "leaked")),
        ]
        records = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        groups = records.column("group").to_pylist()
        metrics = mean_metrics(_values(records), NAMES, groups, lower_is_better=("leak_rate",), draws=self.draws, seed=self.seed)
        notes: dict[str, Any] = {
            **facts_of(records),
            "checked": "by nearest colour, largest connected part and best fitting shape; nothing is learned",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def item_values(self, records: pa.Table, metric: str) -> npt.NDArray[np.float64] | None:
        """Per-image values of a metric, [N, 1]."""
        return _values(records)[:, [NAMES.index(metric)]] if metric in NAMES else None


def _values(records: pa.Table) -> Floats:
    relation_N, entities_N, leaked_N = (
        np.asarray(records.column(name).to_pylist(), np.float64) for name in ("relation", "entities", "leaked")
    )
    return np.stack([relation_N, entities_N, relation_N * entities_N, leaked_N], 1)


def relation_of(sample: Sample) -> Mapping[str, str]:
    """Subject, predicate and object of a sample of the world `related`. Raises DataError for another sample."""
    asked = sample.extras.get("relation")
    if not isinstance(asked, Mapping) or not {"subject", "predicate", "object"} <= set(asked):
        raise DataError(
            f"sample '{sample.uid}' has no relation", field="relation", expected="rows of world:related or world:exemplars"
        )
    return asked
