"""Classes and retrieval of point clouds: the protocols of images with clouds in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.point_tasks import PointClassification, PointRetrieval
from diptych.worlds.scenes.world import scenes
from diptych.worlds.solids.world import NAMES, solids

DATA = solids(40, points=64, views=2, size=16)
CLOUDS = [sample.media["cloud"].decode() for sample in DATA]


def row_of(cloud: Any) -> int:
    return next(row for row, other in enumerate(CLOUDS) if np.array_equal(cloud, other))


class Knows:
    """Vectors of clouds and names that agree; clouds of `wrong` look like another category. Pictures are known by their row."""

    name, fingerprint = "knows", "knows"

    def __init__(self, wrong: str = "") -> None:
        self.wrong = wrong

    def embed_points(self, clouds: Sequence[Any]) -> Unit:
        labels = [DATA[row_of(cloud)].extras["label"] for cloud in clouds]
        return np.eye(len(NAMES), dtype=np.float32)[[(NAMES.index(x) + (x == self.wrong)) % len(NAMES) for x in labels]]

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        found = [next(k for k, name in enumerate(NAMES) if f" {name}" in f" {text}".replace(".", "")) for text in texts]
        return np.eye(len(NAMES), dtype=np.float32)[found]


class Rows(Knows):
    def embed_points(self, clouds: Sequence[Any]) -> Unit:
        return np.eye(40, dtype=np.float32)[[row_of(cloud) for cloud in clouds]]

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Unit:
        return np.eye(40, dtype=np.float32)[[image.index for image in images]]


def test_classes_of_clouds() -> None:
    labels = [sample.extras["label"] for sample in DATA]
    task = PointClassification(draws=10)
    assert evaluate(task, Knows(), DATA).value == 1
    wrong = max(labels, key=labels.count)
    assert evaluate(task, Knows(wrong), DATA).value == pytest.approx(1 - labels.count(wrong) / 40)
    with pytest.raises(DataError, match="has no cloud"):
        evaluate(task, Knows(), scenes(4))


def test_retrieval_of_texts_and_of_pictures() -> None:
    rows = [
        next(row for row in range(40) if DATA[row].extras["label"] == name)
        for name in dict.fromkeys(s.extras["label"] for s in DATA)
    ]
    chosen = DATA.select(rows)
    assert evaluate(PointRetrieval(origins=("alt",), draws=10, relevant="uid"), Knows(), chosen).value == 1
    pictures = PointRetrieval(other="images", draws=10, relevant="uid")
    assert evaluate(pictures, Rows(), DATA).value == 1
    with pytest.raises(ConfigError, match="no images"):
        evaluate(pictures, Knows(), DATA)
    with pytest.raises(ConfigError, match="texts \\| images"):
        PointRetrieval(other="sounds")  # type: ignore[arg-type]
