"""Similarity of generated pictures: distances against closed forms and scipy, cosines of planted vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.linalg import sqrtm

from diptych.api import evaluate
from diptych.core.errors import ShapeError
from diptych.tasks._scoring.set_distance import frechet_distance, kernel_distance
from diptych.tasks.generation.picture_similarity import PictureSimilarity
from diptych.worlds.figures.world import figures
from diptych.worlds.related.world import exemplars

RNG = np.random.default_rng(0)


def test_distances_are_the_closed_forms_and_the_librarys() -> None:
    one, other = RNG.normal(size=(50, 4)), RNG.normal(size=(40, 4)) * 2 + 1
    covariances = [np.cov(part, rowvar=False) for part in (one, other)]
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(
        covariances[0] + covariances[1] - 2 * sqrtm(covariances[0] @ covariances[1]).real
    )
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + 3.0) == pytest.approx(4 * 9.0)
    narrow, wide = np.array([[-1.0], [1.0]]), np.array([[-3.0], [3.0]])
    assert frechet_distance(narrow, wide) == pytest.approx((18**0.5 - 2**0.5) ** 2)
    kernel = lambda x, y: (x @ y / 4 + 1) ** 3  # noqa: E731
    naive = np.mean([kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j])
    naive += np.mean([kernel(x, y) for i, x in enumerate(other) for j, y in enumerate(other) if i != j])
    naive -= 2 * np.mean([kernel(x, y) for x in one for y in other])
    assert kernel_distance(one, other) == pytest.approx(naive)
    with pytest.raises(ShapeError, match="two or more of one width"):
        frechet_distance(one[:1], other)


class Mean:
    """Embeds pictures as the unit vector of their mean colour, texts as red."""

    name, fingerprint = "mean", "0"

    def embed_images(self, images: Any, **options: Any) -> Any:
        rows = np.stack([image.pixels_HWC.reshape(-1, 3).mean(0) for image in images]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_texts(self, texts: Any, **options: Any) -> Any:
        assert all("{}" not in text for text in texts)
        return np.tile(np.array([1, 0, 0], np.float32), (len(texts), 1))


class Red:
    """Makes red pictures."""

    name, placeholder = "red", "<R>"

    def generate_images(self, prompts: Any, **options: Any) -> Any:
        return np.tile(np.array([200, 0, 0], np.uint8), (len(prompts), 8, 8, 1))


def test_planted_vectors_give_their_cosines() -> None:
    result = evaluate(Red(), PictureSimilarity(limit=6), exemplars(6), judge=Mean())
    assert result.metrics["text_similarity"].value == pytest.approx(1.0)
    assert "identity_similarity" not in result.metrics
    assert result.metrics["frechet"].value > 0
    assert not result.metrics["frechet"].higher_is_better
    data = figures(4)
    vectors = Mean().embed_images(list(data[0].media["references"].parts))
    found = evaluate(Red(), PictureSimilarity(limit=1), data, judge=Mean())
    assert found.metrics["identity_similarity"].value == pytest.approx(float(vectors[:, 0].mean()), abs=1e-6)
    assert "frechet" not in found.metrics, "one picture has no spread"
