"""Subgroup metrics by patient and image attributes: sex, age band, view, site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diptych.core.result import Metric
from diptych.core.sample import Sample
from diptych.tasks._scoring.chest_metrics import Bools, Floats, macro_auroc
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles

AGE_BANDS = ((0, "below 18"), (18, "18 to 39"), (40, "40 to 59"), (60, "60 to 79"), (80, "80 and above"))
"""Minimum age of a band, and its name."""


def age_band(age: object) -> str:
    """Band of an age in years; "" if it is not a valid age.

    >>> age_band(57), age_band("80"), age_band(-1), age_band(None)
    ('40 to 59', '80 and above', '', '')
    """
    digits = str(age)
    if not digits.replace(".", "", 1).isdigit():
        return ""
    return next(name for least, name in reversed(AGE_BANDS) if float(digits) >= least)


def group_values(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, list[str]]:
    """Values of each of these extras for all samples, "" if missing; "age" is converted to its band."""

    def value(sample: Sample, name: str) -> str:
        given = sample.extras.get(name)
        if name == "age":
            return age_band(given)
        return "" if given is None else str(given)

    return {name: [value(sample, name) for sample in samples] for name in names}


def group_aurocs(
    scores: Sequence[Floats],
    truth_NK: Bools,
    patients: Sequence[str],
    columns: Mapping[str, Sequence[str]],
    *,
    least: int,
    draws: int,
    seed: int,
) -> dict[str, Metric]:
    """AUROC of each group, mean over labels and runs, as "auroc/sex=F", with an interval over its patients.

    scores  scores of each run, [N, K]
    least   minimum number of images; smaller groups are left out, as are groups without both positives and negatives for any label
    """
    metrics = {}
    for name, values in columns.items():
        value_N = np.array(values)
        for value in sorted(set(values) - {""}):
            rows = np.flatnonzero(value_N == value)
            mean = float(np.mean([macro_auroc(score_NK[rows], truth_NK[rows]) for score_NK in scores]))
            if len(rows) < least or np.isnan(mean):
                continue
            code_N, count = codes([patients[int(row)] for row in rows])
            drawn = [
                float(np.mean([macro_auroc(score_NK[rows], truth_NK[rows], weight_C[code_N]) for score_NK in scores]))
                for block in group_weights(count, draws, seed, len(rows))
                for weight_C in block
            ]
            metrics[f"auroc/{name}={value}"] = Metric(mean, *percentiles(np.array(drawn)), chance=0.5, items=len(rows))
    return metrics
