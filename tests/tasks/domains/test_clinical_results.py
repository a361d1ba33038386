"""Results of `benchx` by group, calibration against torchmetrics, sensitivity at a specificity by a plain loop, and their page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchmetrics

from diptych.core.errors import ConfigError
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.report.pages.encoders import write_encoder_page
from diptych.tasks._scoring.calibration import expected_calibration_error, reliability_bins, sensitivity_at, specificity_threshold
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.domains.benchx import BenchX
from diptych.tasks.domains.patient_groups import age_band, group_values

RNG = np.random.default_rng(0)


def test_calibration_error_is_that_of_torchmetrics(parity: Any) -> None:
    probability = np.concatenate([RNG.random(500), [0.0, 1.0, 1 / 15, 14 / 15]])
    truth = RNG.random(504) < probability**2
    pairs = []
    for bins in (5, 15):
        theirs = torchmetrics.functional.classification.binary_calibration_error(
            torch.tensor(probability), torch.tensor(truth).long(), n_bins=bins, norm="l1"
        )
        pairs.append((expected_calibration_error(reliability_bins(probability, truth, bins)), theirs.item()))
    assert pairs[0][0] > 0.1
    parity("benchx", "expected calibration error", "torchmetrics (binary_calibration_error)", pairs, tolerance=1e-6)
    assert sum(row.items for row in reliability_bins(probability, truth)) == 504
    with pytest.raises(ConfigError, match="bins is 0"):
        reliability_bins(probability, truth, 0)


def test_the_threshold_for_a_specificity_comes_from_validation() -> None:
    val_score, val_truth, score, truth = (RNG.integers(0, 30, (80, 2)) / 30, RNG.random((80, 2)) < 0.4) * 2
    for specificity in (0.5, 0.8, 0.9):
        reached = []
        for k in range(2):
            negatives = val_score[~val_truth[:, k], k]
            every = np.unique([*val_score[:, k], np.inf])
            threshold = min(value for value in every if (negatives < value).mean() >= specificity)
            assert (negatives < specificity_threshold(val_score[:, k], val_truth[:, k], specificity)).mean() == (
                negatives < threshold
            ).mean()
            above = score[:, k] > max(negatives[negatives < threshold])
            reached.append((above[truth[:, k]].mean(), (~above)[~truth[:, k]].mean()))
        assert sensitivity_at(specificity, val_score, val_truth, score, truth) == pytest.approx(np.mean(reached, 0))
    assert np.isnan(specificity_threshold(score[:, 0], np.ones(80, bool), 0.9))
    assert np.isnan(sensitivity_at(0.9, val_score, val_truth, score, np.ones((80, 2), bool))[0])


def records() -> pa.Table:
    """Two seeds of one setting; scores are right for women, turned round for men, and blind for the one of unknown sex."""
    rows = []
    for run in range(2):
        for part in ("val", "test"):
            for row in range(60):
                sex, truth = ("F", "M")[row % 2], row % 4 < 2
                score = 0.9 if truth == (sex == "F") else 0.2
                rows.append(
                    {
                        "run": run,
                        "part": part,
                        "uid": f"{row}",
                        "group": f"{part}-{row // 2}",
                        "truth": [truth],
                        "score": [score],
                        "by_sex": sex if row < 58 else "",
                        "by_age": age_band(30 + row),
                        "by_view": ("PA", "AP")[row // 30],
                        "by_site": ("north", "south")[row // 15 % 2],
                    }
                )
    switches = {"share": 1.0, "norm": False, "small_head": False, "encoder_rate": 1.0}
    return with_facts(pa.Table.from_pylist(rows), runs=[{**switches, "seed": seed} for seed in (0, 1)], labels=["mass"])


def test_groups_have_results_of_their_own(tmp_path: Path) -> None:
    result = BenchX(draws=20, least_group=11, group_by=("sex", "age", "view", "site")).score(records())
    women, men = (result.metrics[f"auroc/sex={sex}"] for sex in "FM")
    assert (women.value, men.value) == (1, 0)
    assert women.items == men.items == 29
    ages = [name for name in result.metrics if name.startswith("auroc/age")]
    assert ages == ["auroc/age=40 to 59", "auroc/age=60 to 79"], "ten images of the youngest and the oldest are too few"
    assert not [name for name in BenchX(draws=5, least_group=30, group_by=("sex",)).score(records()).metrics if "sex" in name]
    share = {0.2: 0.5, 0.9: 0.5}
    assert result.metrics["ece"].value == pytest.approx(np.mean([abs(p - share[p]) for p in share]))
    assert result.metrics["sensitivity"].value == 0
    assert result.metrics["specificity"].value == 1
    again = Result.from_json(result.to_json())
    write_encoder_page(tmp_path / "page.html", {"x": again}, ["auroc"])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for words in (
        "sex=F",
        "age=40 to 59",
        "view=AP",
        "site=north",
        "1.000",
        "expected calibration error 0.350",
        "pairs of image and label",
        "Groups of patients",
    ):
        assert words in html


def test_ages_are_read_in_bands() -> None:
    samples = [Sample(str(row), extras={"age": age, "sex": "F"}) for row, age in enumerate((17, 18, "64", 80.5, -1, "old"))]
    values = group_values([*samples, Sample("none")], ("age", "sex"))
    assert values["age"] == ["below 18", "18 to 39", "60 to 79", "80 and above", "", "", ""]
    assert values["sex"] == ["F"] * 6 + [""]
