"""A model whose embeddings are planted, and small pools: what the protocols must say about them is known beforehand."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from diptych.core.errors import DecodeError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool

sys.path.insert(0, str(Path(__file__).parent))  # `import interactions`
sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "probes"))  # `import published_probes`


def unit(rows: npt.ArrayLike) -> npt.NDArray[np.float32]:
    rows_ND = np.asarray(rows, np.float64)
    return (rows_ND / np.linalg.norm(rows_ND, axis=-1, keepdims=True)).astype(np.float32)


@dataclass
class Planted:
    """Answers what it was given, by image name and by string; "broken" images cannot be decoded."""

    images: Mapping[str, Any]
    texts: Mapping[str, Any]
    name: str = "planted"
    fingerprint: str = "f0"
    asked: list[str] = field(default_factory=list)

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> npt.NDArray[np.float32]:
        for image in images:
            if "broken" in image.name:
                raise DecodeError("truncated", file=image.name)
        return np.array([self.images[image.name] for image in images], np.float32)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> npt.NDArray[np.float32]:
        self.asked += texts
        return np.array([self.texts[text] for text in texts], np.float32)


def sample(uid: str, *texts: str | Text, group: str = "", **extras: Any) -> Sample:
    made = tuple(text if isinstance(text, Text) else Text(text, "en") for text in texts)
    return Sample(uid, BytesImage(b"", uid), made, group=group, extras=extras)


class Kit:
    """The makers above, as one fixture."""

    unit, sample, model = staticmethod(unit), staticmethod(sample), Planted

    @staticmethod
    def pool(*samples: Sample, name: str = "pool") -> Pool:
        return Pool.from_samples(samples, name=name)

    @staticmethod
    def random(
        n: int, *, captions: int = 1, per_group: int = 1, dim: int = 16, noise: float = 1.0, seed: int = 0
    ) -> tuple[Planted, Pool]:
        """Samples whose texts lie near their images: the smaller the noise, the better the model."""
        rng = np.random.default_rng(seed)
        image_ND = unit(rng.standard_normal((n, dim)))
        texts, samples = {}, []
        for i in range(n):
            names = [f"text {i} {c}" for c in range(captions)]
            texts.update({name: unit(image_ND[i] + noise * rng.standard_normal(dim) / dim**0.5) for name in names})
            samples.append(sample(f"u{i}", *names, group=f"g{i // per_group}" if per_group > 1 else ""))
        return Planted({f"u{i}": image_ND[i] for i in range(n)}, texts), Pool.from_samples(samples, name="random")


@pytest.fixture
def kit() -> Kit:
    return Kit()
