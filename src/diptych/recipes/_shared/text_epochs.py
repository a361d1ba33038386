"""Epochs that count texts: as releases have it whose lists hold a row for each text of a picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from diptych.core.contracts import Dataset
from diptych.core.errors import ConfigError
from diptych.core.sample import Sample

Counted = Literal["pictures", "texts"]


def steps_of(counted: Counted, data: Dataset, texts: Callable[[Sample], int], *, epochs: float, batch_size: int) -> int:
    """Steps of so many epochs, of which each has as many rows as the data have texts; 0 leaves the steps to the pictures.

    `texts` says how many a sample has. Raises ConfigError.
    """
    if counted not in ("pictures", "texts"):
        raise ConfigError(f"counted is {counted!r} (expected pictures | texts)")
    if counted == "pictures":
        return 0
    return math.ceil(epochs * sum(texts(data[row]) for row in range(len(data))) / batch_size)
