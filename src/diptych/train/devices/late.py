"""Device values that the host reads one step later, when they are available without waiting for the running step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from diptych.core.errors import RunError
from diptych.models.host_copy import HostCopy


class LateValues(HostCopy):
    """A copy of a small tensor to the host, as floats."""

    def tolist(self) -> list[float]:
        return [float(value) for value in super().tolist()]


class LateNumbers(Mapping[str, float]):
    """Named numbers whose values are read when they are first looked at."""

    def __init__(self, names: Sequence[str], values: LateValues) -> None:
        self._names, self._values = tuple(names), values
        self._read: dict[str, float] | None = None

    def _numbers(self) -> dict[str, float]:
        if self._read is None:
            self._read = dict(zip(self._names, self._values.tolist(), strict=True))
        return self._read

    def __getitem__(self, name: str) -> float:
        return self._numbers()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class LateNorm:
    """The gradient norm of the last step; one that is not finite stops the run before the next step, and before anything is saved."""

    def __init__(self) -> None:
        self._values: LateValues | None = None

    def take(self, norm: Tensor) -> LateValues:
        self._values = LateValues(norm)
        return self._values

    def check(self) -> None:
        """Raises RunError if the norm of the last step was not finite."""
        values, self._values = self._values, None
        if values is not None:
            require_finite(values.tolist()[0])


def require_finite(norm: float) -> None:
    """Raises RunError for a gradient norm that is not finite."""
    if not math.isfinite(norm):
        raise RunError(f"the gradient norm is {norm}: lower lr, lengthen warmup, or set clip_norm (a loss may be undefined)")
