"""A model of random but repeatable vectors, and a pool with columns of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool

STYLES = ("noto", "twemoji", "fluent")


def vector(key: str, dim: int) -> npt.NDArray[np.float32]:
    row = keyed_rng("vector", key).standard_normal(dim)
    return (row / np.linalg.norm(row)).astype(np.float32)


@dataclass
class Named:
    """Embeds an image by its name and a text by its string, so "u5" the text finds u5 the image."""

    dim: int = 16
    name: str = "named"
    fingerprint: str = "aa11"

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        for image in images:
            if "broken" in image.name:
                raise DecodeError("truncated", file=image.name)
        return np.stack([vector(image.name.rsplit("/")[-1], self.dim) for image in images])

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> npt.NDArray[np.float32]:
        return np.stack([vector(text, self.dim) for text in texts])


def pool(start: int, stop: int, name: str = "pool") -> Pool:
    samples = [
        Sample(
            f"u{i}",
            BytesImage(b"", f"u{i}"),
            (Text(f"text {i}", "en", "label"), Text(f"Text {i}", "de", "label")),
            group=f"g{i // 2}",
            licence="MIT" if i % 2 else "CC0-1.0",
            extras={
                "split": "train" if i % 5 else "test",
                "style": STYLES[i % 3],
                "side": 32 + i,
                "score": i / 8,
                "ok": i % 4 == 0,
            },
        )
        for i in range(start, stop)
    ]
    return Pool.from_samples(samples, name=name)


class Kit:
    """The makers above, as one fixture."""

    model, vector, pool = Named, staticmethod(vector), staticmethod(pool)


@pytest.fixture(scope="session")
def kit() -> Any:
    return Kit()
