"""A model of tiles for tests in processes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


class Grey:
    """The mean colour of a tile as a unit vector; texts are all alike."""

    name, fingerprint = "grey", "1"

    def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Any:
        mean_N3 = np.array([image.pixels_HWC.mean((0, 1)) for image in images], np.float32)
        return mean_N3 / np.linalg.norm(mean_N3, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 64) -> Any:
        return np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (len(texts), 1))
