"""Queue of recent sparse vectors over a vocabulary.

Two dense queues of 11,520 rows over 30,522 words take 2.8 GB, nearly all of it zeros once a model is sparse.
Here a row takes eight bytes per nonzero word.  Letters: K rows, E their entries, N items, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.host_copy import HostCopy

Start = Literal["empty", "random"]


@dataclass(frozen=True)
class _Pushed:
    """Rows that are not yet sparse: the number of entries of new and removed rows is still being copied from the GPU."""

    row_NV: Tensor
    group_N: Tensor
    leaving: int
    counts: HostCopy


class SparseQueue(nn.Module):
    """Queue of the newest `size` rows and their group ids, oldest first; use one per modality.
    Its state is in buffers and checkpoints.

    Any number of rows may be pushed; they replace as many of the oldest.
    (LexLIP's released code drops the rows that do not fit at the end of its ring and restarts at the first position, which
    differs unless the batch size divides the queue size.)

    start  "empty", or "random" as released: unit vectors of all words with random signs, without group
    Buffers change their length: call `resize_` before loading a checkpoint.
    On a GPU the newest rows become sparse at the next access to the queue, one step later, since the host would wait for the
    number of their entries; buffers are complete in `state_dict` and after `settle_`.
    """

    value_E: Tensor
    term_E: Tensor
    length_K: Tensor
    group_K: Tensor

    def __init__(self, size: int, words: int, *, start: Start = "empty") -> None:
        super().__init__()
        if size < 1:
            raise ConfigError(f"the size of a queue is {size} (expected 1 or more)")
        if start not in ("empty", "random"):
            raise ConfigError(f"a queue starts {start!r} (expected empty | random)")
        self.size, self.words = size, words
        held = size if start == "random" else 0
        self.register_buffer("value_E", nn.functional.normalize(torch.randn(held, words), dim=1).flatten())
        self.register_buffer("term_E", torch.arange(words, dtype=torch.int32).repeat(held))
        self.register_buffer("length_K", torch.full((held,), words, dtype=torch.int32))
        self.register_buffer("group_K", torch.full((held,), -1, dtype=torch.int64))
        self._pushed: _Pushed | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        self.settle_()
        return len(self.length_K)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        self.settle_()
        return super().state_dict(*args, **options)

    def resize_(self, shapes: Mapping[str, torch.Size]) -> None:
        """Resize buffers to these shapes by name, before loading a checkpoint."""
        self._pushed = None
        for name in ("value_E", "term_E", "length_K", "group_K"):
            if name in shapes:
                setattr(self, name, getattr(self, name).new_zeros(shapes[name]))

    def similarities(self, row_NV: Tensor) -> Tensor:
        """Return dot products [N, K] with the current rows; the gradient reaches `row_NV`."""
        if row_NV.ndim != 2 or row_NV.shape[1] != self.words:
            raise ShapeError(f"a queue over {self.words} words is compared with rows [N, {self.words}], got {list(row_NV.shape)}")
        self.settle_()
        device = row_NV.device.type
        with torch.autocast(device, enabled=False):
            wide_NV = row_NV.to(torch.promote_types(row_NV.dtype, torch.float32))
            similarity_NK: Tensor = _Similarities.apply(wide_NV, self.value_E, self.term_E, self.length_K)  # type: ignore[no-untyped-call]
        return similarity_NK

    def dense(self) -> Tensor:
        """Return the dense rows row_KV, for inspection."""
        self.settle_()
        return self._matrix().to_dense()

    def _matrix(self) -> Tensor:
        return _matrix(self.value_E, self.term_E, self.length_K, self.words)

    @torch.no_grad()
    def push_(self, row_NV: Tensor, group_N: Tensor) -> None:
        """Add rows, replacing the oldest. Of more than `size` rows the last ones are kept."""
        if row_NV.shape[1:] != (self.words,) or group_N.shape != row_NV.shape[:1]:
            raise ShapeError(
                f"a queue over {self.words} words takes rows [N, {self.words}] and groups [N], got {list(row_NV.shape)} and "
                f"{list(group_N.shape)}"
            )
        row_NV, group_N = row_NV[-self.size :], group_N[-self.size :]
        leaving = max(0, len(self) + len(row_NV) - self.size)
        counts = torch.stack([(row_NV != 0).sum(), self.length_K[:leaving].sum()])
        self._pushed = _Pushed(row_NV.detach(), group_N, leaving, HostCopy(counts))
        if row_NV.device.type == "cpu":
            self.settle_()

    @torch.no_grad()
    def settle_(self) -> None:
        """Make the rows that were pushed last sparse, if they are not yet."""
        pushed, self._pushed = self._pushed, None
        if pushed is None:
            return
        row_NV, leaving = pushed.row_NV, pushed.leaving
        entries, first = pushed.counts.tolist()
        item_E, term_E = torch.nonzero_static(row_NV, size=entries).unbind(1)
        length_N = (row_NV != 0).sum(1).to(self.length_K)
        self.value_E = torch.cat([self.value_E[first:], row_NV[item_E, term_E].to(self.value_E)])
        self.term_E = torch.cat([self.term_E[first:], term_E.to(self.term_E)])
        self.length_K = torch.cat([self.length_K[leaving:], length_N])
        self.group_K = torch.cat([self.group_K[leaving:], pushed.group_N.to(self.group_K)])


def _matrix(value_E: Tensor, term_E: Tensor, length_K: Tensor, words: int) -> Tensor:
    """Return a sparse matrix [K, V], rows in order."""
    row_E = torch.repeat_interleave(torch.arange(len(length_K), device=length_K.device), length_K, output_size=len(value_E))
    entries_2E = torch.stack([row_E, term_E.long()])
    return torch.sparse_coo_tensor(entries_2E, value_E, (len(length_K), words), is_coalesced=True, check_invariants=False)


class _Similarities(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, row_NV: Tensor, value_E: Tensor, term_E: Tensor, length_K: Tensor) -> Tensor:
        ctx.words = row_NV.shape[1]
        ctx.save_for_backward(value_E, term_E, length_K)
        matrix = _matrix(value_E.to(row_NV), term_E, length_K, ctx.words)
        product: Tensor = torch.sparse.mm(matrix, row_NV.T.contiguous())
        return product.T.contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NK: Tensor) -> tuple[Tensor, None, None, None]:
        value_E, term_E, length_K = ctx.saved_tensors
        matrix = _matrix(value_E.to(grad_NK), term_E, length_K, ctx.words)
        return torch.sparse.mm(matrix.T, grad_NK.T.contiguous()).T.contiguous(), None, None, None
