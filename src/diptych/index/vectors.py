"""Vector arithmetic: sums of weighted directions, rows at length 1, cosines.

Letters: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError
from diptych.index.engine.store import SparseVector, Vector


def combine(parts: Sequence[tuple[Unit, float]]) -> Unit:
    """norm(sum of weight * norm(v)) over (v [D], weight). Raises ConfigError when the parts cancel out."""
    total_D = np.sum([weight * vector_D / max(float(np.linalg.norm(vector_D)), 1e-12) for vector_D, weight in parts], axis=0)
    length = float(np.linalg.norm(total_D))
    if length < 1e-6:
        raise ConfigError("the parts of the query cancel out: nothing is left to search for")
    unit: Unit = (total_D / length).astype(np.float32)
    return unit


def unit_rows(x_ND: Unit) -> Unit:
    """Rows scaled to length 1; rows of zeros stay."""
    unit: Unit = x_ND / np.maximum(np.linalg.norm(x_ND, axis=1, keepdims=True), np.float32(1e-12))
    return unit


def cosine(a: Vector, b: Vector) -> float:
    """Cosine of two sparse vectors."""
    if not (isinstance(a, SparseVector) and isinstance(b, SparseVector)):
        raise TypeError("sparse vectors are compared with sparse vectors")
    _, at, bt = np.intersect1d(a.indices, b.indices, assume_unique=True, return_indices=True)
    return float(a.values[at] @ b.values[bt]) / max(float(np.linalg.norm(a.values) * np.linalg.norm(b.values)), 1e-12)
