"""The last features that were seen, for more negatives than a batch holds.  Letters: Q places, K of them filled, N items, D width."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError, ShapeError

Start = Literal["empty", "random"]


class FeatureQueue(nn.Module):
    """A ring of the newest `size` rows and their group ids; one for each modality. Everything is a buffer and in the checkpoint.

    It wraps: any number of rows may be pushed, also one that does not divide `size` or exceeds it (the released code of several methods
    demands a batch that divides it). Push the rows of all processes, so that it is the same everywhere and a checkpoint has one.

    start  "empty", or "random", as the released code of several methods: unit vectors without group, easy negatives for as long as they
           stay
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
        """Rows that are held."""
        return min(self.pushed, self.size)

    @property
    def pushed(self) -> int:
        """Rows pushed so far; read from the buffer only where something else than `push_` changed it, for the host waits for a GPU."""
        version = self.pushed_1._version
        if self._counted is None or self._counted[0] != version:
            self._counted = (version, int(self.pushed_1))
        return self._counted[1]

    def held(self) -> tuple[Tensor, Tensor]:
        """row_KD and group_K as they are now, in no particular order. Copies: what is pushed later does not change them."""
        return self.row_QD[: len(self)].clone(), self.group_Q[: len(self)].clone()

    @torch.no_grad()
    def push_(self, row_ND: Tensor, group_N: Tensor) -> None:
        """Adds rows; the oldest make room. Of more rows than there are places, the last ones stay."""
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
