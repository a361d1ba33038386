"""Phrase grounding by similarity maps.  Protocol `phrase_maps`, version 1.

Regions with the same label and place (first attribute) form one phrase, whose target is their union, of masks if available and of
boxes otherwise (MS-CXR). Pixels where the map is NaN, because preprocessing cropped them, do not count.

    cnr       contrast to noise, |mean inside - mean outside| / sqrt(variance inside + variance outside); the main number
    miou      mean over the thresholds .1 .2 .3 .4 .5 of the IoU of target and map > threshold; of maps that are cosines
    pointing  fraction of phrases whose highest value lies in the target; ties count as wrong if one of them lies outside

A phrase whose target is fully cropped, or is the whole image, is left out and counted in the notes. The unit of the intervals is
the group
(the patient). Letters: H W pixels, N phrases.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, PhraseMapper
from diptych.core.errors import ConfigError, DataError, ShapeError
from diptych.core.result import Metric, Result
from diptych.core.scene_graph import Region
from diptych.data.masks import decode
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
METRICS = ("cnr", "miou", "pointing")
Map = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]


def contrast_to_noise(map_HW: Map, target_HW: Mask) -> float:
    """CNR over the pixels that are not NaN; infinite if both sides are constant and differ, 0 if they are equal."""
    inside, outside = _sides(map_HW, target_HW)
    difference = abs(inside.mean() - outside.mean())
    spread = np.sqrt(sum(side.var() if np.ptp(side) else 0.0 for side in (inside, outside)))  # constant sides: no rounding noise
    return float(difference / spread) if spread else (float("inf") if difference else 0.0)


def mean_iou(map_HW: Map, target_HW: Mask, thresholds: Sequence[float] = THRESHOLDS) -> float:
    """Mean over thresholds of the IoU of target and map > threshold, over the pixels that are not NaN."""
    counted_HW = ~np.isnan(map_HW)
    target_HW = target_HW & counted_HW
    ious = []
    for threshold in thresholds:
        above_HW = counted_HW & (np.nan_to_num(map_HW, nan=-np.inf) > threshold)
        union = (above_HW | target_HW).sum()
        ious.append(float((above_HW & target_HW).sum() / union) if union else 0.0)
    return float(np.mean(ious))


def points_inside(map_HW: Map, target_HW: Mask) -> bool:
    """True if the highest value lies in the target, and no equal one outside."""
    inside, outside = _sides(map_HW, target_HW)
    return bool(inside.max() > outside.max())


def _sides(map_HW: Map, target_HW: Mask) -> tuple[Map, Map]:
    if map_HW.shape != target_HW.shape:
        raise ShapeError(f"map is {list(map_HW.shape)}, target {list(target_HW.shape)} (expected the same)")
    counted_HW = ~np.isnan(map_HW)
    return map_HW[counted_HW & target_HW].astype(np.float64), map_HW[counted_HW & ~target_HW].astype(np.float64)


@dataclass(frozen=True, slots=True)
class PhraseMaps:
    """Contrast to noise, mean IoU and pointing game of phrase maps.

    template  the phrase of a region: `{label}`, and `{place}` for its first attribute
    most      maximum number of phrases per image, in the order of its regions; 0 uses all
    """

    name: ClassVar[str] = "phrase_maps"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = PhraseMapper
    main: ClassVar[str] = "cnr"

    template: str = "{label}"
    most: int = 0
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if "{label}" not in self.template or self.most < 0:
            raise ConfigError(f"template is {self.template!r}, most {self.most} (expected {{label}} in it, 0 or more)")

    def predict(self, model: PhraseMapper, data: Dataset) -> pa.Table:
        """Returns one row per phrase."""
        rows: dict[str, list[Any]] = {name: [] for name in ("query", "group", "phrase", *METRICS)}
        left_out = 0
        for row in range(len(data)):
            sample = data[row]
            phrases = self._phrases(sample.regions)
            if sample.image is None or not phrases:
                continue
            for phrase, map_HW in zip(phrases, model.map_phrases(sample.image, list(phrases)), strict=True):
                target_HW = union_of(phrases[phrase], *map_HW.shape)
                counted_HW = ~np.isnan(map_HW)
                if not (target_HW & counted_HW).any() or not (~target_HW & counted_HW).any():
                    left_out += 1
                    continue
                values = (
                    contrast_to_noise(map_HW, target_HW),
                    mean_iou(map_HW, target_HW),
                    float(points_inside(map_HW, target_HW)),
                )
                for name, value in zip(rows, (sample.uid, sample.group or sample.uid, phrase, *values), strict=True):
                    rows[name].append(value)
        if not rows["query"]:
            raise DataError(f"'{data.name}' has no image with regions", field="regions", expected="boxes or masks with labels")
        return with_facts(pa.table(rows), options=asdict(self), left_out=left_out)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        table = records.to_pydict()
        if not table["query"]:
            raise DataError("nothing to score: the records contain no phrase", expected="one row or more")
        value_NM = np.stack([np.asarray(table[name], np.float64) for name in METRICS], 1)
        drawn_RM = resampled_means(value_NM, table["group"], draws=self.draws, seed=self.seed)
        metrics = {name: Metric(float(value_NM[:, at].mean()), *percentiles(drawn_RM[:, at])) for at, name in enumerate(METRICS)}
        notes = {**facts_of(records), "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}"}
        return Result(self.name, self.version, self.main, metrics, len(value_NM), len(set(table["group"])), notes=notes)

    def _phrases(self, regions: Sequence[Region]) -> dict[str, list[Region]]:
        phrases: dict[str, list[Region]] = {}
        for region in regions:
            zone = region.attributes[0] if region.attributes else ""
            phrases.setdefault(self.template.format(label=region.label, place=zone).strip(), []).append(region)
        return dict(list(phrases.items())[: self.most or None])


def union_of(regions: Sequence[Region], height: int, width: int) -> Mask:
    """bool [height, width] of several regions: masks of that size as they are, otherwise boxes, with parts of pixels rounded outward."""
    union_HW = np.zeros((height, width), bool)
    for region in regions:
        if isinstance(region.mask, dict) and list(region.mask.get("size", ())) == [height, width]:
            union_HW |= decode(region.mask)
            continue
        x0, y0, x1, y1 = region.box
        union_HW[max(0, int(np.floor(y0))) : int(np.ceil(y1)), max(0, int(np.floor(x0))) : int(np.ceil(x1))] = True
    return union_HW
