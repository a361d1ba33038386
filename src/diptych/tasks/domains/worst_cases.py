"""Test images on which a fine-tuned encoder is most wrong, by finding, with maps of where the encoder sees the finding.

Letters: N images, K findings, P places a side of the map, D width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, PhraseMapper
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.data.media.decode import decode
from diptych.models.pairs.map_frames import in_frame
from diptych.report.pages.worst_cases import HeatMap, WorstCase
from diptych.tasks._scoring.chest_metrics import Floats
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.domains.benchx import read_runs, validated_settings

COMPARED = 64
"""Images with a finding, and as many without, whose patches a map compares."""


def worst_cases(records: pa.Table, data: Dataset, model: Any = None, *, count: int = 6) -> list[WorstCase]:
    """The `count` test images of each finding whose probability is furthest from the truth, the worst first.

    Probabilities are those of the setting that is best on validation at the largest share, a mean over its seeds.
    records  records of `benchx`, data  the evaluated data
    model    the encoder before fine-tuning, whose maps illustrate the cases (`finding_maps`)

    Raises ConfigError for a count below 1, DataError for an image that is not in the data.
    """
    if count < 1:
        raise ConfigError(f"count is {count} (expected 1 or more)")
    facts, parts = facts_of(records), read_runs(records)
    settings, _, best = validated_settings(facts["runs"], parts, max(run["share"] for run in facts["runs"]))
    first = settings[best][0]
    score_NK = np.mean([parts[run, "test"][0] for run in settings[best]], 0)
    truth_NK = parts[first, "test"][1]
    keys = records.select(["run", "part", "uid"]).to_pylist()
    uids = [row["uid"] for row in keys if (row["run"], row["part"]) == (first, "test")]
    images = _images(data, uids)
    error_NK = np.abs(score_NK - truth_NK)
    cases = []
    for column, label in enumerate(facts["labels"]):
        worst = np.argsort(-error_NK[:, column], kind="stable")[:count].tolist()
        present_N = truth_NK[:, column]
        sides = [[images[row] for row in np.flatnonzero(side_N)[:COMPARED]] for side_N in (present_N, ~present_N)]
        maps = finding_maps(model, label, [images[row] for row in worst], *sides)
        for row, map_HW in zip(worst, maps, strict=True):
            case = WorstCase(label, uids[row], bool(present_N[row]), float(score_NK[row, column]), decode(images[row]), map_HW)
            cases.append(case)
    return cases


def finding_maps(
    model: Any, label: str, images: Sequence[ImageSource], with_it: Sequence[ImageSource], without_it: Sequence[ImageSource]
) -> list[HeatMap | None]:
    """Map [H, W] of a finding in each image at its own size, NaN where preprocessing cut it off; None if the model has none.

    A `PhraseMapper` is asked for the finding's name. Of another model's patch features (`embed_dense`) the map is their agreement with the
    difference between images with the finding and without it.
    """
    if isinstance(model, PhraseMapper):
        return [model.map_phrases(image, [label])[0] for image in images]
    if not (with_it and without_it and hasattr(model, "embed_dense") and hasattr(model, "preprocess")):
        return [None] * len(images)
    with_ND, without_ND = (np.asarray(model.embed_dense(side)).mean((1, 2)) for side in (with_it, without_it))
    made: list[HeatMap | None] = []
    for image, map_PPD in zip(images, np.asarray(model.embed_dense(list(images))), strict=True):
        height, width = decode(image, exact=True).shape[:2]
        made.append(in_frame(difference_map(map_PPD, with_ND, without_ND), model.preprocess, height, width, "bilinear"))
    return made


def difference_map(map_PPD: Floats, with_ND: Floats, without_ND: Floats) -> npt.NDArray[np.float32]:
    """float32 [P, P]: dot product of each place with the mean of `with_ND` less that of `without_ND`, shifted so that the least is 0."""
    agreement_PP = map_PPD @ (with_ND.mean(0) - without_ND.mean(0))
    return np.asarray(agreement_PP - agreement_PP.min(), np.float32)


def _images(data: Dataset, uids: Sequence[str]) -> list[ImageSource]:
    """Images of these samples."""
    rows = {uid: row for row, uid in enumerate(data.uids)}
    images = [data[rows[uid]].image if uid in rows else None for uid in uids]
    if None in images:
        raise DataError(
            f"'{data.name}' has no image {uids[images.index(None)]}", field="uid", expected="the data that was evaluated"
        )
    return [image for image in images if image is not None]
