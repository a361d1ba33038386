"""Classification by a model that was trained on the classes.  Protocol `classification`, version 1.

The predicted class is the one with the highest score of the model's own classifier; no text is used. Ties, acc@5 and the mean
over classes are those of `zero_shot`. A model of nested prefixes (`mrl_classes`) is also scored at each of its other widths, on
the same images: "acc@1/first_8". Images whose label is not one of the model's classes count as wrong; the notes give their
number.

With `cascade` the widths of a nested model form a cascade (adaptive classification, `_scoring/cascades.py`): confidence
thresholds are fitted on that fraction of the images, drawn at random; on the rest, "acc@1/cascade" is its accuracy and
"width/cascade" the mean number of dimensions that it uses.

Letters: N items, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy.special import softmax

from diptych.core.contracts import Classifier, Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.labels import label_of
from diptych.index.embed import UnreadableSample, images_of, readable
from diptych.tasks._scoring.cascades import chosen_widths, thresholds
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.pairs.classification import class_item_values, class_list_hash, class_records, require_classes, score_classes

BLOCK = 512
"""Batch size in images."""


@dataclass(frozen=True, slots=True)
class Classification:
    """acc@1, acc@5 and mean per-class recall of a model's own classifier; acc@1 at each further width of a nested one.

    label   the column with the class; "label" falls back to the text of origin "label"
    widths  also score a nested model at each of its widths
    cascade share of the images on which the thresholds of a cascade are found (published: a fifth); 0 leaves it out
    sharpness  confidences are softmax shares of so many times the scores: 2 is as released for a model that takes the mean of an image's
            scores and its mirror image's, which the released code adds up
    """

    name: ClassVar[str] = "classification"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Classifier
    main: ClassVar[str] = "acc@1"

    label: str = "label"
    language: str = "en"
    widths: bool = True
    cascade: float = 0.0
    sharpness: float = 1.0
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        if not 0 <= self.cascade < 1:
            raise ConfigError(f"cascade is {self.cascade} (expected a share of the images, below 1)")
        if self.sharpness <= 0:
            raise ConfigError(f"sharpness is {self.sharpness} (expected above 0)")

    def predict(self, model: Classifier, data: Dataset) -> pa.Table:
        """Returns one row per image; "hits" holds its acc@1 credit at each width."""
        names = list(model.classes)
        require_classes(names, self.label)
        readers = self._readers(model)
        samples, score_NSK, unreadable = self._scores(list(readers.values()), data)
        labels = [label_of(sample, self.label, self.language) for sample in samples]
        code = {name: k for k, name in enumerate(names)}
        label_N = np.array([code.get(label, len(names)) for label in labels], np.int64)
        each = [rk.rank(score_NSK[:, s], lambda rows_BK: rows_BK, label_N, np.arange(len(names))) for s in range(len(readers))]
        hit_SN = [rk.hits(ranks.above, ranks.tied, ranks.tied_relevant, 1, self.ties, ranks.by_index) for ranks in each]
        table = class_records(samples, labels, each[-1], names)
        table = table.append_column("hits", pa.array(np.stack(hit_SN, axis=1).tolist(), pa.list_(pa.float64())))
        if self.cascade and len(readers) > 1:
            sure_NS = softmax(self.sharpness * score_NSK.astype(np.float64), axis=2).max(2)
            table = table.append_column("confidences", pa.array(sure_NS.tolist(), pa.list_(pa.float64())))
        return with_facts(
            table,
            options=asdict(self),
            widths=list(readers),
            classes=len(names),
            class_list=class_list_hash(names),
            items_of_unseen_classes=int((label_N == len(names)).sum()),
            unreadable=[asdict(u) for u in unreadable],
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        beside = [name for name in ("hits", "confidences") if name in records.column_names]
        result = score_classes(records.drop_columns(beside), self)
        hit_NS, groups = _hits(records), records.column("group").to_pylist()
        for s, width in enumerate(facts_of(records)["widths"][:-1]):
            drawn_RM = resampled_means(hit_NS[:, s : s + 1], groups, draws=self.draws, seed=self.seed)
            chance = result.metrics["acc@1"].chance
            result.metrics[f"acc@1/first_{width}"] = Metric(
                float(hit_NS[:, s].mean()), *percentiles(drawn_RM[:, 0]), chance=chance
            )
        if "confidences" in beside:
            self._add_cascade(result, records, hit_NS)
        return result

    def _add_cascade(self, result: Result, records: pa.Table, hit_NS: Floats) -> None:
        widths, count = np.array(facts_of(records)["widths"], np.float64), len(records)
        tuned = round(self.cascade * count)
        if not 0 < tuned < count:
            raise DataError(
                f"{self.cascade:g} of {count} images are {tuned}", field="cascade", expected="one image or more on both sides"
            )
        order_N = np.random.default_rng(self.seed).permutation(count)
        sought, tested = np.sort(order_N[:tuned]), np.sort(order_N[tuned:])
        sure_NS = np.array(records.column("confidences").to_pylist(), np.float64)
        threshold_S = thresholds(sure_NS[sought], hit_NS[sought])
        at_N = chosen_widths(sure_NS[tested], threshold_S)
        right_N1 = hit_NS[tested, at_N][:, None]
        groups = [records.column("group")[int(row)].as_py() for row in tested]
        drawn_RM = resampled_means(right_N1, groups, draws=self.draws, seed=self.seed)
        result.metrics["acc@1/cascade"] = Metric(float(right_N1.mean()), *percentiles(drawn_RM[:, 0]))
        result.metrics["width/cascade"] = Metric(float(widths[at_N].mean()), higher_is_better=False, unit="numbers")
        result.notes["cascade_thresholds"] = threshold_S.tolist()

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "acc@K" and "acc@1/first_D"; None for a metric that is not a mean over items."""
        _, _, width = metric.partition("/first_")
        if not width:
            return class_item_values(records, metric)
        return _hits(records)[:, [facts_of(records)["widths"].index(int(width))]]

    def _readers(self, model: Classifier) -> dict[int, Classifier]:
        """Models truncated to each width, the whole one last."""
        whole = int(getattr(model, "width", 0))
        dims = [d for d in getattr(model, "dims", ()) if d < whole] if self.widths else []
        return {**{d: model.first(d) for d in dims}, whole: model}  # type: ignore[attr-defined]

    def _scores(
        self, readers: Sequence[Classifier], data: Dataset
    ) -> tuple[list[Sample], npt.NDArray[np.float32], list[UnreadableSample]]:
        """Samples with images, the scores [N, S, K] of S readers, and the unreadable samples."""

        def encode(part: Sequence[Sample]) -> list[npt.NDArray[np.float32]]:
            images = images_of(part)
            return list(np.stack([reader.classify(images, batch_size=self.batch_size) for reader in readers], axis=1))

        samples: list[Sample] = []
        scores: list[npt.NDArray[np.float32]] = []
        unreadable: list[UnreadableSample] = []
        starts = range(0, len(data), BLOCK)
        for start in with_bar(starts, len(starts), "classifying", least=2):
            there = [sample for row in range(start, min(start + BLOCK, len(data))) if (sample := data[row]).image is not None]
            good, rows, bad = readable(encode, there)
            samples, scores, unreadable = samples + good, scores + rows, unreadable + list(bad)
        if not samples:
            raise DataError(f"'{data.name}' has no image to classify", field="image", expected="samples with images")
        score_NSK = np.stack(scores)
        if not np.isfinite(score_NSK).all():
            raise DataError("the model gives scores that are not finite", expected="finite numbers")
        return samples, score_NSK, unreadable


def _hits(records: pa.Table) -> Floats:
    """acc@1 credit of each image at each width, [N, S]."""
    hit_NS: Floats = np.array(records.column("hits").to_pylist(), np.float64).reshape(len(records), -1)
    return hit_NS
