"""Heads for filters: the published sizes, learning a planted difference, saving, and refusing the vectors of another model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from diptych.core.errors import ConfigError, DataError, RunError, ShapeError
from diptych.core.image import ArrayImage
from diptych.curate.operators import filter_heads
from diptych.curate.operators.filter_heads import open_head, train_safety, train_watermark
from diptych.models.pairs.classifiers.filter_heads import SafetyHead, WatermarkNet


def test_published_sizes() -> None:
    head = SafetyHead(1024)
    linear = [layer for layer in head.layers if isinstance(layer, torch.nn.Linear)]
    assert [layer.in_features for layer in linear] == [1024, 1024, 2048, 1024, 256, 128, 16]
    assert linear[-1].out_features == 1
    assert sum(isinstance(layer, torch.nn.ReLU) for layer in head.layers) == 5, "none after the last two"
    with torch.device("meta"):
        net = WatermarkNet()
    assert [tuple(p.shape) for p in net.head.parameters()][::2] == [(625, 1536), (256, 625), (2, 256)]
    assert head(torch.zeros(3, 1024)).shape == (3,)


def vectors(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors; unsafe ones lean along the first axis."""
    rng = np.random.default_rng(seed)
    unsafe = rng.random(count) < 0.3
    raw = rng.normal(size=(count, 16))
    raw[unsafe, 0] += 4
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32), unsafe


def test_training_has_a_bar_and_says_how_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    def with_bar(steps, total: int, what: str, **options):
        bars.append((total, what))
        return steps

    monkeypatch.setattr(filter_heads, "with_bar", with_bar)
    known, labels = vectors(40, 0)
    train_safety(known, labels, fingerprint="abc", hidden=(8,), steps=12)
    assert bars == [(12, "training the head")]


def test_a_safety_head_learns_saves_and_knows_its_model(tmp_path: Path) -> None:
    known, labels = vectors(600, 0)
    head = train_safety(known, labels, fingerprint="abc", hidden=(32, 16), steps=200)
    fresh, truth = vectors(400, 1)
    chance = head.probability(fresh, "abc")
    assert ((chance > 0.5) == truth).mean() > 0.9
    head.save(tmp_path / "head")
    again = open_head(tmp_path / "head")
    assert np.array_equal(again.probability(fresh, "abc"), chance)
    assert np.array_equal(
        train_safety(known, labels, fingerprint="abc", hidden=(32, 16), steps=200).probability(fresh, "abc"), chance
    )
    with pytest.raises(RunError, match="trained on embeddings of abc, these are of other"):
        again.probability(fresh, "other")


def marked(number: int, mark: bool) -> ArrayImage:
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((48, 48), Image.Resampling.BICUBIC)
    if mark:
        for offset in range(0, 48, 8):
            ImageDraw.Draw(image).line([(0, offset), (48, offset)], fill=(255, 255, 255), width=2)
    return ArrayImage(np.asarray(image))


def test_a_watermark_head_learns_and_saves(tmp_path: Path) -> None:
    images = [marked(n, n % 2 == 0) for n in range(40)]
    head = train_watermark(images, [n % 2 == 0 for n in range(40)], net="resnet10t", side=32, steps=25, batch_size=16)
    test = [marked(n, n % 2 == 0) for n in range(100, 120)]
    chance = head.probability(test)
    assert ((chance > 0.5) == [n % 2 == 0 for n in range(100, 120)]).mean() > 0.8
    head.save(tmp_path / "head")
    assert np.allclose(open_head(tmp_path / "head").probability(test), chance, atol=1e-6)


def test_labels_that_teach_nothing(tmp_path: Path) -> None:
    known, _ = vectors(10, 0)
    with pytest.raises(ConfigError, match="all labels are the same"):
        train_safety(known, [True] * 10, fingerprint="x")
    with pytest.raises(ShapeError, match="9 labels for 10 images"):
        train_safety(known, [True] * 9, fingerprint="x")
    with pytest.raises(DataError, match=r"contains no head \(expected head.json"):
        open_head(tmp_path)
