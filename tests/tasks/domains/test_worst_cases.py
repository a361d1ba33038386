"""Worst cases of an encoder by finding: chosen by a plain loop, maps at planted places, the page, refusals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.transforms import Preprocess
from diptych.report.pages.encoders import write_encoder_page
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.domains.benchx import BenchX
from diptych.tasks.domains.worst_cases import worst_cases

RNG = np.random.default_rng(3)
LABELS = ("mass", "nodule")
ITEMS = 12
TRUTH_NK = np.array([[row % 2 == 0, row % 3 == 0] for row in range(ITEMS)])
SCORE_RNK = RNG.random((4, ITEMS, 2))
"""Of two seeds with the encoder's whole rate and two with a tenth of it, which validation prefers."""


def records() -> pa.Table:
    rows = []
    for run in range(4):
        for part in ("val", "test"):
            for item in range(ITEMS):
                score_K = SCORE_RNK[run, item] if part == "test" else np.abs(TRUTH_NK[item] - (0.9 if run < 2 else 0.1))
                row = {"run": run, "part": part, "uid": f"{part}-{item}", "group": f"{part}-{item}"}
                rows.append({**row, "truth": TRUTH_NK[item].tolist(), "score": score_K.tolist()})
    switches = {"share": 1.0, "norm": False, "small_head": False}
    runs = [{**switches, "encoder_rate": 1.0 if run < 2 else 0.1, "seed": run % 2} for run in range(4)]
    return with_facts(pa.Table.from_pylist(rows), runs=runs, labels=list(LABELS))


def images() -> Pool:
    """Test images of 16 x 16 pixels whose upper left quarter is bright where there is a mass."""
    samples = []
    for item in range(ITEMS):
        pixels_HWC = RNG.integers(0, 40, (16, 16, 3)).astype(np.uint8)
        if TRUTH_NK[item, 0]:
            pixels_HWC[:8, :8] += 200
        samples.append(Sample(f"test-{item}", ArrayImage(pixels_HWC, f"test-{item}")))
    return Pool.from_samples(samples, name="chests")


class Quarters:
    """Patch features of the four quarters of an image: their brightness."""

    name = fingerprint = "quarters"
    preprocess = Preprocess(16, (0.0,) * 3, (1.0,) * 3, "squash", "bilinear")

    def embed_dense(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        picture_NHWC = np.stack([np.asarray(image.pixels_HWC, np.float32) for image in images])
        return picture_NHWC.reshape(-1, 2, 8, 2, 8, 3).mean((2, 4, 5))[..., None]


class Named(Quarters):
    """A model that is asked for a finding by its name."""

    def map_phrases(self, image: Any, phrases: Sequence[str]) -> list[Any]:
        return [np.full((16, 16), len(phrase), np.float32) for phrase in phrases]


def test_cases_are_the_furthest_from_the_truth() -> None:
    cases = worst_cases(records(), images(), count=3)
    for column, label in enumerate(LABELS):
        probability_N = (SCORE_RNK[2, :, column] + SCORE_RNK[3, :, column]) / 2
        errors = sorted((-abs(probability_N[item] - TRUTH_NK[item, column]), item) for item in range(ITEMS))
        chosen = [case for case in cases if case.label == label]
        assert [case.uid for case in chosen] == [f"test-{item}" for _, item in errors[:3]]
        for case, (_, item) in zip(chosen, errors, strict=False):
            assert case.present == TRUTH_NK[item, column]
            assert case.probability == pytest.approx(probability_N[item])
            assert case.map_HW is None


def test_maps_are_highest_where_the_finding_is() -> None:
    cases = worst_cases(records(), images(), Quarters(), count=ITEMS)
    for case in cases[:ITEMS]:
        assert case.map_HW is not None
        if case.present:
            assert case.map_HW[:4, :4].min() > 10 * case.map_HW[12:, 12:].max()
    (named, *_) = worst_cases(records(), images(), Named(), count=1)
    assert named.map_HW is not None
    assert named.map_HW.max() == len("mass")


def test_the_page_has_pictures_and_says_what_it_is_not_for(tmp_path: Path) -> None:
    result = BenchX(draws=5, least_group=1).score(records())
    cases = {"quarters": worst_cases(records(), images(), Quarters(), count=2)}
    write_encoder_page(tmp_path / "page.html", {"quarters": result}, ["auroc"], cases=cases)
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("data:image/webp") == 4
    assert cases["quarters"][0].words in html
    assert "Worst cases" in html
    assert "Not for clinical use" in html


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no image test-0"):
        worst_cases(records(), Pool.from_samples([], name="none"))
    with pytest.raises(ConfigError, match="count is 0"):
        worst_cases(records(), images(), count=0)
    result = BenchX(draws=5).score(records())
    with pytest.raises(ConfigError, match="'b' has cases and no result"):
        write_encoder_page(tmp_path / "page.html", {"a": result}, ["auroc"], cases={"b": []})
