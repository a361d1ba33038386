"""CLIPScore against a naive loop over the published formula, and captions whose order is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.tasks.evaluate import evaluate
from diptych.tasks.generation.clip_score import CLIPScore

PREFIX = "A photo depicts "


class Judge:
    """Vectors that depend on pixels and letters."""

    name, fingerprint = "judge", "j"

    def embed_images(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        return self._unit([np.random.default_rng(int(image.pixels_HWC[0, 0, 0])).normal(size=6) for image in images])

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> np.ndarray:
        assert all(text.startswith(PREFIX) for text in texts)
        return self._unit([np.random.default_rng(sum(map(ord, text))).normal(size=6) for text in texts])

    @staticmethod
    def _unit(rows: Any) -> np.ndarray:
        made = np.array(rows, np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)


class Says:
    name = "says"

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        return [f"level {int(image.pixels_HWC[0, 0, 0])}" for image in images]


def pool(texts: bool = True) -> Pool:
    samples = []
    for row in range(9):
        known = tuple(Text(f"text {row} {n}", "en") for n in range(1 + row % 3)) if texts or row else ()
        samples.append(Sample(f"u{row}", ArrayImage(np.full((4, 4, 3), row, np.uint8), f"u{row}"), known))
    return Pool.from_samples(samples, name="nine")


def test_the_score_is_the_published_formula() -> None:
    judge, data = Judge(), pool()
    result = evaluate(CLIPScore(draws=20), Says(), data, others={"judge": judge})
    scores, refs, human, blind = [], [], [], []
    for row in range(9):
        sample = data[row]
        (v,) = judge.embed_images([sample.image]).astype(float)
        (c,) = judge.embed_texts([f"{PREFIX}level {row}"]).astype(float)
        rs = [judge.embed_texts([PREFIX + text.string])[0].astype(float) for text in sample.texts]
        score = 2.5 * max(float(c @ v), 0)
        best = max(max(float(c @ r) for r in rs), 0)
        scores.append(score)
        refs.append(2 * score * best / (score + best) if score + best else 0.0)
        human.append(2.5 * max(float(v @ rs[0]), 0))
        blind.append(2.5 * max(float(v @ judge.embed_texts([f"{PREFIX}level 128"])[0]), 0))
    assert min(scores) == 0 < max(scores), "both sides of the cut are tried"
    found = result.metrics
    assert found["clip_score"].value == pytest.approx(np.mean(scores), abs=1e-6)
    assert found["ref_clip_score"].value == pytest.approx(np.mean(refs), abs=1e-6)
    assert found["human"].value == pytest.approx(np.mean(human), abs=1e-6)
    assert found["clip_score/blind"].value == pytest.approx(np.mean(blind), abs=1e-6)
    assert result.notes["roles"] == {"judge": [{"name": "judge", "fingerprint": "j"}]}


def test_without_texts_there_is_no_reference_score_and_without_judge_no_score() -> None:
    result = evaluate(CLIPScore(draws=20, blind=False), Says(), pool(texts=False), others={"judge": Judge()})
    assert set(result.metrics) == {"clip_score"}
    with pytest.raises(ConfigError, match="asks for judge"):
        evaluate(CLIPScore(), Says(), pool())
    with pytest.raises(ConfigError, match="judge"):
        evaluate(CLIPScore(), Says(), pool(), others={"judge": Says()})


def test_item_values_are_what_the_score_is_the_mean_of() -> None:
    task = CLIPScore(draws=20)
    records = task.predict(Says(), pool(), judge=Judge())
    for name, metric in task.score(records).metrics.items():
        values = task.item_values(records, name)
        assert values is not None
        assert values.shape == (9, 1)
        assert values.mean() == pytest.approx(metric.value)
    assert task.item_values(records, "other") is None
