"""Dense probe of frozen patch features: segmentation and depth order.  Protocol `dense_probe`, version 1.

Segmentation: logistic regression on single patch features, trained on the majority class of each patch (background is a class);
its scores are upsampled bilinearly to the masks' size, and mIoU is computed over all pixels of all test images together. Depth:
ridge regression of a patch's depth (0 for the background, up to 1 for the front object); a pair of objects of which one occludes
or contains the other is correct if the nearer one has the larger mean prediction over its visible mask; `ties` resolves equal
means. Other pairs are not scored: nothing in a flat image says which of two separate objects is nearer. Ties between classes at a
pixel go to the first class. The truth is the masks of regions, and the depths of extras["things"] if given (the scene world). All
models use the same penalty strength, with features standardised by the training patches: this ranks models, and does not search
for the best probe. Other results differ by multi-layer heads, image size, and means over images instead of pixels.

Letters: N images, P patches, C classes with the background first, H W pixels, D width.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from diptych.core.contracts import Dataset, DenseEmbedder
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.masks import decode
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of, with_facts

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
BLOCK = 64
TIED = 1e-9
"""Tolerance: means of equal values over masks of different sizes differ by rounding."""
HIDING = ("in front of", "inside")
"""Relations whose subject is the nearer object."""


@dataclass(frozen=True, slots=True)
class DenseProbe:
    """miou (segmentation), pixel accuracy and depth_order (share of pairs in the right order).

    train        training data of the probes; by default the split `train_split`
    attribute    index of the attribute of a region that is its class; -1 uses its label
    patches      maximum number of training patches, from evenly spaced images
    l2           L2 penalty of both probes, relative to the mean loss
    ties         credit of a pair with equal depths: expected (half) | pessimistic (nothing) | optimistic (all) | index (the first region
                 counts as nearer)
    leave_out    classes that are left out of miou, "" is the background; pixel_accuracy includes them
    """

    name: ClassVar[str] = "dense_probe"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = DenseEmbedder
    main: ClassVar[str] = "miou"

    attribute: int = -1
    train_split: str = "train"
    test_split: str = "test"
    train: Any = field(default=None, compare=False, repr=False)
    patches: int = 40_000
    l2: float = 1e-3
    ties: rk.Ties = "expected"
    leave_out: tuple[str, ...] = ()
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.patches < 1 or self.l2 <= 0:
            raise ConfigError("patches must be 1 or more, l2 above 0")
        rk.check_ties(self.ties)

    def predict(self, model: DenseEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per test image: correct, predicted and true pixels per class; correctly ordered depth pairs, and all
        pairs."""
        train = self.train if self.train is not None else data.split(self.train_split)
        test = data if self.train is not None else data.split(self.test_split)
        names = self._classes(train)
        probe = self._fit_probe(model, train, names)
        rows = []
        for samples, dense_NPPD in _dense(model, test, range(len(test))):
            for sample, dense_PPD in zip(samples, dense_NPPD, strict=True):
                rows.append(self._row(sample, dense_PPD, probe, names))
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"}
        return with_facts(
            pa.Table.from_pylist(rows, schema=_SCHEMA), options=options, classes=["", *names], converged=probe.converged
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure. Each draw resamples groups and sums their pixels."""
        groups = records.column("group").to_pylist()
        right, predicted, true = (array(records, name).astype(np.float64) for name in ("right", "predicted", "true"))
        pairs = np.stack([self._ordered_pairs(records), array(records, "pairs").astype(np.float64)], 1)
        code_N, count = codes(groups)
        sums = {"right": right, "predicted": predicted, "true": true, "pairs": pairs}
        total = {name: np.zeros((count, value.shape[1])) for name, value in sums.items()}
        for name, value in sums.items():
            np.add.at(total[name], code_N, value)
        counted_C = self._counted_classes(records, true.shape[1])
        whole = _numbers(np.ones((1, count)), total, counted_C)
        drawn = [_numbers(weight_RC, total, counted_C) for weight_RC in group_weights(count, self.draws, self.seed, count)]
        metrics = {}
        for name, value_1 in whole.items():
            draws_R = np.concatenate([block[name] for block in drawn])
            chance = 0.5 if name == "depth_order" else float("nan")
            metrics[name] = Metric(float(value_1[0]), *percentiles(draws_R), chance=chance)
        notes = {**facts_of(records), "pairs": int(pairs[:, 1].sum()), "pixels": "pooled over all images"}
        notes |= {"ties": self.ties, "classes_left_out": sorted(self.leave_out)}
        return Result(self.name, self.version, self.main, metrics, len(records), count, notes=notes)

    def _ordered_pairs(self, records: pa.Table) -> Floats:
        """Correctly ordered pairs under the tie policy, [N]. The column counts a tie as half."""
        ordered_N: Floats = array(records, "ordered").astype(np.float64)
        if self.ties == "expected":
            return ordered_N
        if "tied" not in records.column_names:
            raise DataError("the records have no column of ties", field="ties", expected="records made anew by predict")
        if self.ties == "index":
            won_N: Floats = array(records, "tied_first").astype(np.float64)
        else:
            won_N = array(records, "tied") * float(self.ties == "optimistic")
        return ordered_N - array(records, "tied") / 2 + won_N

    def _counted_classes(self, records: pa.Table, classes: int) -> npt.NDArray[np.bool_]:
        if not self.leave_out:
            return np.ones(classes, bool)
        names = facts_of(records)["classes"]
        for name in self.leave_out:
            if name not in names:
                raise UnknownName("class to leave out", name, names)
        counted_C = np.array([name not in self.leave_out for name in names])
        if not counted_C.any():
            raise DataError("every class is left out", field="leave_out", expected="one class or more to remain")
        return counted_C

    def _classes(self, train: Dataset) -> list[str]:
        names = sorted(
            {self._name(region) for row in range(len(train)) for region in train[row].regions if region.mask is not None}
        )
        if not names:
            raise DataError(f"'{train.name}' has no region with a mask", field="regions", expected="masks, as world:scenes has")
        return names

    def _name(self, region: Any) -> str:
        if self.attribute < 0:
            return str(region.label)
        if self.attribute >= len(region.attributes):
            raise DataError(f"region '{region.label}' has no attribute {self.attribute}", field="attributes")
        return str(region.attributes[self.attribute])

    def _truth(self, sample: Sample, names: Sequence[str]) -> tuple[Labels, Floats]:
        """label_HW and depth_HW."""
        masks = [(region, decode(region.mask)) for region in sample.regions if region.mask is not None]
        if not masks:
            raise DataError(f"sample '{sample.uid}' has no region with a mask", field="regions", expected="masks in every row")
        depths = depths_of(sample)
        label_HW, depth_HW = np.zeros(masks[0][1].shape, np.int64), np.zeros(masks[0][1].shape)
        for index, (region, mask_HW) in enumerate(masks):
            name = self._name(region)
            label_HW[mask_HW] = 1 + names.index(name) if name in names else -1
            depth_HW[mask_HW] = depths[index]
        return label_HW, depth_HW

    def _fit_probe(self, model: DenseEmbedder, train: Dataset, names: Sequence[str]) -> _Probe:
        chosen: list[Floats] = []
        labels: list[Labels] = []
        depths: list[Floats] = []
        count = 0
        first = next(iter(_dense(model, train, range(1))))[1]
        images = max(1, min(len(train), self.patches // (first.shape[1] * first.shape[2])))
        for samples, dense_NPPD in _dense(model, train, [int(r) for r in np.linspace(0, len(train) - 1, images).round()]):
            for sample, dense_PPD in zip(samples, dense_NPPD, strict=True):
                label_HW, depth_HW = self._truth(sample, names)
                label_PP, depth_PP = _patch_truth(label_HW, depth_HW, dense_PPD.shape[0], len(names) + 1)
                chosen.append(dense_PPD.reshape(-1, dense_PPD.shape[-1]).astype(np.float64))
                labels.append(label_PP.reshape(-1))
                depths.append(depth_PP.reshape(-1))
                count += 1
        return _Probe.fit(np.concatenate(chosen), np.concatenate(labels), np.concatenate(depths), len(names) + 1, self.l2)

    def _row(self, sample: Sample, dense_PPD: npt.NDArray[np.float32], probe: _Probe, names: Sequence[str]) -> dict[str, Any]:
        label_HW, _ = self._truth(sample, names)
        size = label_HW.shape
        predicted_HW = _upsample(probe.classes(dense_PPD), size).argmax(-1)
        depth_HW = _upsample(probe.depth(dense_PPD)[..., None], size)[..., 0]
        labelled = label_HW >= 0
        total = len(names) + 1
        counts = {
            "right": np.bincount(label_HW[labelled & (predicted_HW == label_HW)], minlength=total),
            "predicted": np.bincount(predicted_HW[labelled], minlength=total),
            "true": np.bincount(label_HW[labelled], minlength=total),
        }
        pairs = hiding_pairs(sample)
        masks = [None if region.mask is None else decode(region.mask) for region in sample.regions]
        ordered, tied, tied_first, pair_count = 0.0, 0, 0, 0
        for near, far in pairs:
            near_HW, far_HW = masks[near], masks[far]
            if near_HW is None or far_HW is None:
                continue
            pair_count += 1
            difference = float(depth_HW[near_HW].mean() - depth_HW[far_HW].mean())
            if abs(difference) < TIED:
                ordered, tied, tied_first = ordered + 0.5, tied + 1, tied_first + (near < far)
            else:
                ordered += float(difference > 0)
        row: dict[str, Any] = {name: value.tolist() for name, value in counts.items()}
        row |= {"ordered": ordered, "pairs": pair_count, "tied": tied, "tied_first": tied_first}
        return {"uid": sample.uid, "group": sample.group or sample.uid, **row}


def depths_of(sample: Sample) -> Floats:
    """Depth of each region with a mask: ranks spread over (0, 1], the nearest 1. Without extras["things"] the later region is nearer."""
    masked = [index for index, region in enumerate(sample.regions) if region.mask is not None]
    things = sample.extras.get("things")
    raw = [things[index]["depth"] if things else index for index in masked]
    order = {value: rank for rank, value in enumerate(sorted(set(raw)))}
    return np.array([(order[value] + 1) / len(order) for value in raw])


def hiding_pairs(sample: Sample) -> list[tuple[int, int]]:
    """(nearer, farther) pairs of regions of which one occludes or lies within the other."""
    pairs = {(r.subject, r.object) for r in sample.relations if r.predicate in HIDING}
    return sorted(pairs)


def _dense(model: DenseEmbedder, data: Dataset, rows: Sequence[int]) -> Iterator[tuple[list[Sample], npt.NDArray[np.float32]]]:
    starts = range(0, len(rows), BLOCK)
    for start in with_bar(starts, len(starts), "embedding patches", least=2):
        samples = [data[row] for row in rows[start : start + BLOCK]]
        images = [sample.image for sample in samples]
        if any(image is None for image in images):
            raise DataError(f"'{data.name}' has a sample without image", field="image", expected="an image in every row")
        yield samples, model.embed_dense([image for image in images if image is not None])


def _patch_truth(label_HW: Labels, depth_HW: Floats, side: int, classes: int) -> tuple[Labels, Floats]:
    """Majority class of each patch's pixels (of equals the lower) and their mean depth."""
    row_H, column_W = (np.arange(n) * side // n for n in label_HW.shape)
    cell_HW = row_H[:, None] * side + column_W
    votes_PC = np.zeros((side * side, classes))
    labelled = label_HW >= 0
    np.add.at(votes_PC, (cell_HW[labelled], label_HW[labelled]), 1)
    depth_P = np.bincount(cell_HW.ravel(), depth_HW.ravel(), side * side) / np.bincount(cell_HW.ravel(), minlength=side * side)
    return votes_PC.argmax(1).reshape(side, side), depth_P.reshape(side, side)


def _upsample(score_PPC: Floats, size: tuple[int, ...]) -> Floats:
    """[H, W, C], bilinear."""
    score_1CPP = torch.from_numpy(np.ascontiguousarray(score_PPC.transpose(2, 0, 1)))[None]
    large = torch.nn.functional.interpolate(score_1CPP, size=tuple(size), mode="bilinear", align_corners=False)
    image_HWC: Floats = large[0].permute(1, 2, 0).numpy()
    return image_HWC


@dataclass(frozen=True, slots=True, eq=False)
class _Probe:
    mean_D: Floats
    deviation_D: Floats
    weight_DC: Floats
    bias_C: Floats
    depth_D: Floats
    depth_bias: float
    converged: bool

    @classmethod
    def fit(cls, x_ND: Floats, label_N: Labels, depth_N: Floats, classes: int, l2: float) -> _Probe:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression, Ridge

        mean_D, deviation_D = x_ND.mean(0), np.maximum(x_ND.std(0), 1e-8)
        x_ND = (x_ND - mean_D) / deviation_D
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # reported as `converged`
            model = LogisticRegression(C=1 / (l2 * len(x_ND)), max_iter=300).fit(x_ND, label_N)
        if len(model.classes_) < 2:
            raise DataError("all training patches are of one class: nothing to segment", field="regions")
        weight_DC, bias_C = np.zeros((x_ND.shape[1], classes)), np.full(classes, -1e9)
        coefficients, intercept = model.coef_, model.intercept_
        if len(model.classes_) == 2:
            coefficients, intercept = (
                np.concatenate([-coefficients, coefficients]) / 2,
                np.concatenate([-intercept, intercept]) / 2,
            )
        weight_DC[:, model.classes_], bias_C[model.classes_] = coefficients.T, intercept
        ridge = Ridge(alpha=l2 * len(x_ND)).fit(x_ND, depth_N)
        converged = int(np.max(model.n_iter_)) < 300
        return cls(mean_D, deviation_D, weight_DC, bias_C, ridge.coef_, float(ridge.intercept_), converged)

    def classes(self, dense_PPD: npt.NDArray[np.float32]) -> Floats:
        scores: Floats = (dense_PPD - self.mean_D) / self.deviation_D @ self.weight_DC + self.bias_C
        return scores

    def depth(self, dense_PPD: npt.NDArray[np.float32]) -> Floats:
        depth: Floats = (dense_PPD - self.mean_D) / self.deviation_D @ self.depth_D + self.depth_bias
        return depth


def _numbers(weight_RG: Floats, total: dict[str, Floats], counted_C: npt.NDArray[np.bool_]) -> dict[str, Floats]:
    """Metrics in every draw; weights are how often a draw holds each group. Classes that do not count are in no mean over classes."""
    right_RC, predicted_RC, true_RC = (weight_RG @ total[name] for name in ("right", "predicted", "true"))
    union_RC = predicted_RC + true_RC - right_RC
    there_RC = (true_RC > 0) & counted_C
    share_RC = np.where(there_RC, right_RC / np.maximum(union_RC, 1), 0.0)
    pairs_R2 = weight_RG @ total["pairs"]
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "miou": share_RC.sum(1) / there_RC.sum(1),
            "pixel_accuracy": right_RC.sum(1) / true_RC.sum(1),
            "depth_order": pairs_R2[:, 0] / pairs_R2[:, 1],
        }


_SCHEMA = pa.schema(
    [("uid", pa.string()), ("group", pa.string())]
    + [(name, pa.list_(pa.int64())) for name in ("right", "predicted", "true")]
    + [("ordered", pa.float64()), ("pairs", pa.int64()), ("tied", pa.int64()), ("tied_first", pa.int64())]
)
