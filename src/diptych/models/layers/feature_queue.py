"""Queue of recent features, as additional negatives.  Letters: Q size, K filled rows, N items, D width."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError

Start = Literal["empty", "random"]


class FeatureQueue(nn.Module):
    """Ring buffer of the newest `size` rows and their group ids; use one per modality.
    Its state is in buffers, and so in checkpoints.

    Any number of rows may be pushed, also one that does not divide `size` or exceeds it (the released code of several methods
    requires a batch size that divides it). Push the rows of all processes,
    so that all have the same queue and a checkpoint stores one.

    start  "empty", or "random" as in the released code of several methods: unit vectors without group, which are easy negatives
           until they are replaced
    """

    row_QD: Tensor
    group_Q: Tensor
    pushed_1: Tensor

    def __init__(self, size: int, width: int, *, start: Start = "empty") -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"the size of a queue is {size} (expected 1 or more)")
        if start not in ("empty", "random"):
            raise ConfigError(f"a queue starts {start!r} (expected empty | random)")
        filled = start == "random"
        row_QD = nn.functional.normalize(torch.randn(size, width), dim=1) if filled else torch.zeros(size, width)
        self.register_buffer("row_QD", row_QD)
        self.register_buffer("group_Q", torch.full((size,), -1 if filled else 0, dtype=torch.int64))
        self.register_buffer("pushed_1", torch.full((1,), size if filled else 0, dtype=torch.int64))
        self._counted: tuple[int, int] | None = None  # version of the buffer, and its value

    @property
    def size(self) -> int:
        return len(self.group_Q)

    def __len__(self) -> int:
        """Return the number of filled rows."""
        return min(self.pushed, self.size)

    @property
    def pushed(self) -> int:
        """Number of rows pushed so far; read from the buffer only if it was changed by other code than `push_`,
        since the host waits for a GPU.
        """
        version = self.pushed_1._version
        if self._counted is None or self._counted[0] != version:
            self._counted = (version, int(self.pushed_1))
        return self._counted[1]

    def held(self) -> tuple[Tensor, Tensor]:
        """Return copies of row_KD and group_K in no particular order; later pushes do not change them."""
        return self.row_QD[: len(self)].clone(), self.group_Q[: len(self)].clone()

    @torch.no_grad()
    def push_(self, row_ND: Tensor, group_N: Tensor) -> None:
        """Add rows, replacing the oldest. Of more than `size` rows the last ones are kept."""
        if row_ND.shape[1:] != self.row_QD.shape[1:] or group_N.shape != row_ND.shape[:1]:
            raise ShapeError(
                f"a queue of {list(self.row_QD.shape)} takes rows [N, {self.row_QD.shape[1]}] and groups [N], "
                f"got {list(row_ND.shape)} and {list(group_N.shape)}"
            )
        skipped = max(0, len(row_ND) - self.size)
        pushed = self.pushed
        first = pushed + skipped
        place_N = torch.arange(first, first + len(row_ND) - skipped, device=row_ND.device) % self.size
        self.row_QD[place_N] = row_ND[skipped:].to(self.row_QD)
        self.group_Q[place_N] = group_N[skipped:].to(self.group_Q)
        self.pushed_1 += len(row_ND)
        self._counted = (self.pushed_1._version, pushed + len(row_ND))
