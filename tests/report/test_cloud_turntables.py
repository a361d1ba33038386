"""Turntables in the report of a run: views of each cloud beside its nearest class names or captions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.report.clouds import VIEWS, cloud_up, turntables
from diptych.report.evaluation import StoredResult
from diptych.report.pictures import Album
from diptych.tasks.pairs.point_tasks import PointClassification, PointRetrieval

NAMES = ("ball", "stick", "<b>sheet")
SPREAD = {"ball": (1, 1, 1), "stick": (0.1, 1, 0.1), "<b>sheet": (1, 0.1, 1)}


def pool() -> Pool:
    rng = np.random.default_rng(0)
    samples = []
    for row in range(9):
        name = NAMES[row % 3]
        cloud_P3 = (rng.standard_normal((50, 3)) * SPREAD[name]).astype(np.float32)
        item = MediaItem("cloud", (ArraySource(cloud_P3),))
        samples.append(Sample(f"{row}", texts=(Text(f"a {name} of {row}"),), extras={"label": name}, media={"shape": item}))
    return Pool.from_samples(samples, name="shapes")


class Spread:
    """Takes a cloud by its spread along y and x; every third text of a name is its own."""

    name, fingerprint = "spread", "5e"

    def embed_points(self, clouds: Sequence[Any]) -> np.ndarray:
        kind_N = [0 if cloud[:, 0].std() > 0.5 < cloud[:, 1].std() else 1 if cloud[:, 1].std() > 0.5 else 2 for cloud in clouds]
        return np.eye(3, dtype=np.float32)[kind_N]

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[next(k for k, name in enumerate(NAMES) if name in text) for text in texts]]


@pytest.mark.parametrize("task", [PointClassification(medium="shape", draws=2), PointRetrieval(medium="shape", draws=2)])
def test_clouds_turn_beside_their_nearest_texts(tmp_path: Path, task: Any) -> None:
    data, path = pool(), tmp_path / "records.parquet"
    records = task.predict(Spread(), data)
    pq.write_table(records, path)
    blocks = turntables(StoredResult("shapes/test", task.score(records), path), Album(data), up="y", count=4)
    assert blocks[0] == f"<h3>{task.name} on shapes/test</h3>"
    assert len(blocks) == 5
    for block in blocks[1:]:
        assert block.count("<img") == VIEWS
        assert "right at rank" in block
        assert "<b>sheet" not in block
        nearest = block.partition("nearest: ")[2]
        truth = next(name for name in ("ball", "stick", "sheet") if name in block.partition("</q>")[0])
        assert nearest.partition(" 1.000")[0].endswith(truth) or truth in nearest.partition(" 1.000")[0]
    assert turntables(StoredResult("shapes/test", task.score(records), tmp_path / "none.parquet"), Album(data)) == []


def test_the_axis_of_a_model(tmp_path: Path) -> None:
    assert cloud_up(tmp_path) == "z"
    for clouds, up in (({"up": "y"}, "y"), ({"points": 3}, "z"), (None, "z")):
        (tmp_path / "config.json").write_text(json.dumps({"clouds": clouds}))
        assert cloud_up(tmp_path) == up
