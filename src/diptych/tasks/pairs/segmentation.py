"""Semantic segmentation: the class of every pixel.  Protocol `segmentation`, version 1.

    IoU_k = I_k / U_k    I_k, U_k: pixels of all images in which prediction and truth agree on class k, and in which either says k

Main metric: `miou`, the mean of IoU_k over the classes that occur in truth or prediction (the notes list the others). A mean over images of
each image's own IoU is another number, often far from it. Beside it `acc` (share of pixels), `macc` (mean recall over the classes of the
truth), `fwiou` (IoU weighted by the truth's pixels), and with `unseen` the means over seen and unseen classes and their harmonic mean.
Pixels of label 255 are left out on both sides. Intervals resample whole groups of images.

Models that segment are asked as they are. A dual encoder is asked by its patches (`models.pairs.patch_segmenter`): each gets the class
whose sentences it is nearest to, without any training on labels.

Letters: N images, K classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, DenseEmbedder, Segmenter
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.terminal.progress import with_bar
from diptych.data.label_maps import IGNORE, LabelMaps
from diptych.data.media.decode import decode
from diptych.data.shots import harmonic_mean
from diptych.index.embed import readable
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.pairs.patch_segmenter import PatchSegmenter, Rule
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.pairs.classification import class_list_hash
from diptych.tasks.pairs.templates import templates

Counts = npt.NDArray[np.int64]
ZERO_SHOT = ("templates", "threshold", "short_side", "stride", "window", "rule")
"""Options of dual encoders."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Mean intersection over union of label maps.

    classes      names in the order of their indices; empty uses the model's own
    background   class of pixels without a region; "" ignores them. reduce_zero: in label maps, 0 is ignored and 1 is the first class
    unseen       classes that were not in training, for the harmonic mean

    Of dual encoders:
    templates    sentences for a class name, as in `zero_shot`
    threshold    score of `background` at every pixel, if that is a class; it has no sentence then
    short_side, stride, window   0 resizes an image to the model's square; otherwise images with this short side are processed in windows
                                 (published: 448 pixels, windows of 448 at steps of 224)
    rule         "cosine", or "groupvit" as GroupViT and CoCu are released: see `PatchSegmenter`
    """

    name: ClassVar[str] = "segmentation"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Segmenter | DenseEmbedder
    main: ClassVar[str] = "miou"

    classes: tuple[str, ...] = ()
    background: str = ""
    reduce_zero: bool = False
    unseen: tuple[str, ...] = ()
    templates: str | tuple[str, ...] = "one"
    threshold: float = 0.0
    short_side: int = 0
    stride: int = 0
    window: int = 0
    rule: Rule = "cosine"
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        templates(self.templates)

    def predict(self, model: Segmenter | DenseEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per image: pixels of each class in truth, in the prediction, and in both."""
        segmenter = self.segmenter(model)
        classes = self.classes or tuple(getattr(model, "classes", ()))
        if len(classes) < 2:
            raise ConfigError("the model has no classes of its own (expected --classes with two names or more)")
        maps = LabelMaps(classes, self.background, self.reduce_zero)
        rows: list[dict[str, Any]] = []
        unreadable: list[dict[str, str]] = []
        for number in with_bar(range(len(data)), len(data), "segmenting", least=4):
            sample = data[number]
            if sample.image is None:
                continue
            good, predictions, bad = readable(
                lambda part: segmenter.segment([s.image for s in part if s.image is not None], classes), [sample]
            )
            unreadable += [asdict(one) for one in bad]
            if not good:
                continue
            predicted_HW = predictions[0]
            height, width = decode(sample.image).shape[:2]
            truth_HW = maps(sample, height, width)
            counts_3K = pixel_counts(predicted_HW, truth_HW, len(classes), sample.uid)
            sides = zip(("both", "predicted", "truth"), counts_3K.tolist(), strict=True)
            rows.append({"uid": sample.uid, "group": sample.group or sample.uid, **dict(sides)})
        if not rows:
            raise DataError(f"'{data.name}' has no image to segment", field="image", expected="samples with images")
        return with_facts(
            pa.Table.from_pylist(rows),
            options=asdict(self),
            class_names=list(classes),
            class_list=class_list_hash(classes),
            unreadable=unreadable,
        )

    def segmenter(self, model: Any) -> Segmenter:
        """The model itself, or a dual encoder's patches with the options of this task. Raises ConfigError for another model, and for
        options that a segmenter has no use for."""
        changed = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name in ZERO_SHOT and getattr(self, f.name) != f.default
        }
        if isinstance(model, Segmenter):
            if changed:
                option = next(iter(changed)).replace("_", "-")
                raise ConfigError(f"--{option} is for dual encoders, and '{getattr(model, 'name', model)}' segments by itself")
            return model
        if not isinstance(model, PairEmbedder):
            raise ConfigError(
                f"'{getattr(model, 'name', model)}' compares no patches with texts (expected a dual encoder or a segmenter)"
            )
        given = {
            "templates": templates(self.templates),
            **{name: value for name, value in changed.items() if name != "templates"},
        }
        return PatchSegmenter(model, background=self.background, **given)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        facts = facts_of(records)
        names: list[str] = facts["class_names"]
        count_N3K = np.stack([np.array(records.column(side).to_pylist(), np.int64) for side in ("both", "predicted", "truth")], 1)
        groups = records.column("group").to_pylist()
        unseen = [names.index(name) for name in facts["options"]["unseen"]]
        values = means(count_N3K.sum(0), unseen)
        code_N, count = codes(groups)
        total_C3K = np.zeros((count, *count_N3K.shape[1:]))
        np.add.at(total_C3K, code_N, count_N3K)
        drawn: dict[str, list[float]] = {name: [] for name in values}
        for weight_RC in group_weights(count, self.draws, self.seed, total_C3K[0].size):
            for count_3K in np.einsum("rc,cik->rik", weight_RC, total_C3K):
                for name, value in means(count_3K, unseen).items():
                    drawn[name].append(value)
        metrics = {name: Metric(value, *percentiles(np.array(drawn[name]))) for name, value in values.items()}
        both_K, predicted_K, truth_K = count_N3K.sum(0)
        union_K = predicted_K + truth_K - both_K
        notes = {
            **facts,
            "iou": {name: float(b / u) for name, b, u in zip(names, both_K, union_K, strict=True) if u},
            "classes_absent": [name for name, u in zip(names, union_K, strict=True) if not u],
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)


def pixel_counts(predicted_HW: npt.NDArray[np.integer[Any]], truth_HW: npt.NDArray[np.uint8], classes: int, uid: str) -> Counts:
    """[3, K]: pixels where both say a class, where the prediction does, where the truth does; ignored pixels count nowhere."""
    if predicted_HW.shape != truth_HW.shape:
        came = f"the model answers {list(predicted_HW.shape)} for '{uid}'"
        raise DataError(came, expected=f"{list(truth_HW.shape)}, as its image")
    kept = truth_HW != IGNORE
    predicted, truth = predicted_HW[kept].astype(np.int64), truth_HW[kept].astype(np.int64)
    if predicted.size and not 0 <= predicted.min() <= predicted.max() < classes:
        raise DataError(f"the model answers class {predicted.max()} for '{uid}'", expected=f"0..{classes - 1}")
    return np.stack([np.bincount(x, minlength=classes) for x in (truth[predicted == truth], predicted, truth)])


def means(count_3K: npt.NDArray[Any], unseen: Sequence[int] = ()) -> dict[str, float]:
    """The metrics of summed pixels. Classes that neither side says are left out."""
    both_K, predicted_K, truth_K = count_3K.astype(np.float64)
    union_K = predicted_K + truth_K - both_K
    iou_K = np.divide(both_K, union_K, out=np.full(len(both_K), np.nan), where=union_K > 0)
    recall_K = np.divide(both_K, truth_K, out=np.full(len(both_K), np.nan), where=truth_K > 0)
    share_K = truth_K / max(truth_K.sum(), 1.0)
    metrics = {
        "miou": _mean(iou_K),
        "acc": float(both_K.sum() / max(truth_K.sum(), 1.0)),
        "macc": _mean(recall_K),
        "fwiou": float(np.nansum(iou_K * share_K)),
    }
    if unseen:
        hidden_K = np.isin(np.arange(len(both_K)), list(unseen))
        metrics |= {"miou/seen": _mean(iou_K[~hidden_K]), "miou/unseen": _mean(iou_K[hidden_K])}
        metrics["hiou"] = harmonic_mean(metrics["miou/seen"], metrics["miou/unseen"])
    return metrics


def _mean(value_K: npt.NDArray[np.float64]) -> float:
    there = value_K[~np.isnan(value_K)]
    return float(there.mean()) if len(there) else float("nan")
