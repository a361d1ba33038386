"""RS5M's filter: every stage removes what it is for and nothing else, in order, and captions are ranked by their steadiness."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate
from diptych.curate.operators import rs5m
from diptych.curate.operators.rs5m import RS5M, consistent_captions, overhead_share
from diptych.data.dataset import Pool
from diptych.data.media.decode import decode


class ByChannel:
    """Embeds a picture by its mean colour; texts about the ground are green, others red."""

    def __init__(self, channel: int) -> None:
        self.name = self.fingerprint = f"channel {channel}"
        self.channel, self.asked = channel, 0

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
        self.asked += len(images)
        mean = np.stack([decode(image, exact=True).mean((0, 1)) for image in images]).astype(np.float32)
        two = mean[:, [self.channel, 0]] + 1e-3
        return two / np.linalg.norm(two, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        above = [any(word in text for word in ("satellite", "aerial", "overhead")) for text in texts]
        return np.array([[1.0, 0.0] if one else [0.0, 1.0] for one in above], np.float32)


def picture(red: int, green: int, blue: int) -> ArrayImage:
    return ArrayImage(np.full((12, 12, 3), (red, green, blue), np.uint8))


def pool() -> Pool:
    rows = {
        "a-good": (picture(10, 200, 200), "Satellite images of fields"),
        "b-copy": (picture(10, 200, 200), "aerial view of fields"),
        "c-broken": (BytesImage(b"none"), "an aerial photo"),
        "d-words": (picture(9, 200, 200), "a satellited imagery of fields"),
        "e-person": (picture(200, 10, 200), "a person in an aerial view"),
        "f-second": (picture(100, 200, 10), "an aerial view of a map"),
        "g-good": (picture(12, 190, 180), "Bird's eye view of a port"),
    }
    return Pool.from_samples(Sample(uid, image, (Text(text, "en"),)) for uid, (image, text) in rows.items())


def test_every_stage_removes_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"first": ByChannel(1), "second": ByChannel(2)}
    monkeypatch.setattr(rs5m, "open_embedder", models.__getitem__)
    done = curate(pool(), [RS5M(model="first", detector="second")], tmp_path / "out")
    assert {drop.uid: drop.reason.split(":")[0] for drop in done.removed} == {
        "b-copy": "duplicate",
        "c-broken": "invalid",
        "d-words": "keyword",
        "e-person": "model",
        "f-second": "detector",
    }
    assert sorted(done.kept.uids) == ["a-good", "g-good"]
    assert min(done.columns["overhead"].values()) > 0.5
    assert (models["first"].asked, models["second"].asked) == (4, 3)  # only what is left is asked about
    table = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert [(row["stage"], row["removed"]) for row in table] == [(stage, 1) for stage in rs5m.STAGES]
    assert (table[0]["before"], table[-1]["after"]) == (7, 2)
    assert len(curate(pool(), [RS5M(keywords=())]).kept) == 5
    with pytest.raises(ConfigError, match="which is asked first"):
        RS5M(detector="second")


def test_the_share_is_a_softmax() -> None:
    image_ND = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    above, other = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[0.8, 0.6]], np.float32)
    naive = []
    for image in image_ND:
        weights = [math.exp(10 * float(image @ text)) for text in (*above, *other)]
        naive.append(sum(weights[:2]) / sum(weights))
    np.testing.assert_allclose(overhead_share(image_ND, above, other, scale=10.0), naive, rtol=1e-6)


def test_steady_captions_come_first() -> None:
    class Sided(ByChannel):
        def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> np.ndarray:
            pixels = [decode(image, exact=True) for image in images]
            top = np.array(
                [float(image[: len(image) // 2].mean() > image[len(image) // 2 :].mean()) for image in pixels], np.float32
            )
            return np.stack([top, np.ones_like(top)], 1)

        def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
            return np.array([[1.0, 0.1] if "top" in text else [0.0, 0.5 + 0.1 * len(text) / 50] for text in texts], np.float32)

    image = np.zeros((20, 20, 3), np.uint8)
    image[:6] = 255
    captions = ["a bright roof at the top", "a roof", "a bright roof in a field", "the top is bright"]
    assert consistent_captions(Sided(1), ArrayImage(image), captions, keep=2) == ["a bright roof in a field", "a roof"]
    with pytest.raises(ConfigError, match="0 captions"):
        consistent_captions(Sided(1), ArrayImage(image), [])
