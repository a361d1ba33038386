"""Exhaustive search by comparing with everything: the oracle of every other index, and the right choice for small pools.

Letters: N items, Q queries, D width, K results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, ShapeError
from diptych.index.filters import Where, check_where, matches, merge_kinds

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 256  # queries at once


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result: cosine of the query and the item, and the item's columns."""

    uid: str
    score: float
    payload: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ExactIndex:
    """Unit vectors in memory with their uids and columns. Equal scores are ordered by uid."""

    vectors_ND: Unit
    uids: Sequence[str]
    payloads: Sequence[Mapping[str, Any]] = ()
    _by_uid: npt.NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.vectors_ND.ndim != 2 or len(self.vectors_ND) != len(self.uids):
            raise ShapeError(
                f"vectors are {list(self.vectors_ND.shape)} for {len(self.uids)} uids (expected [{len(self.uids)}, D])"
            )
        if self.payloads and len(self.payloads) != len(self.uids):
            raise ShapeError(f"{len(self.payloads)} payloads for {len(self.uids)} uids")
        by_uid = sorted(range(len(self.uids)), key=self.uids.__getitem__)
        object.__setattr__(self, "_by_uid", np.array(by_uid, np.int64))

    def search_vectors(self, query_QD: Unit, k: int = 10, *, where: Where | None = None) -> list[list[Hit]]:
        """The k nearest items of each query, fewer when fewer satisfy `where`."""
        rows = self._by_uid
        if where:
            check_where(where, merge_kinds({}, self.payloads))
            rows = np.array([row for row in rows if matches(self.payloads[row], where)], np.int64)
        index_QK, score_QK = nearest(self.vectors_ND[rows], query_QD, k)
        return [
            [self._hit(int(row), float(score)) for row, score in zip(row_K, score_K, strict=True)]
            for row_K, score_K in zip(rows[index_QK], score_QK, strict=True)
        ]

    def _hit(self, row: int, score: float) -> Hit:
        return Hit(self.uids[row], score, dict(self.payloads[row]) if self.payloads else {})


def nearest(
    vectors_ND: Unit, query_QD: Unit, k: int, *, shortlist: int = 0
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Rows [Q, K] of the k largest inner products of each query, best first, and those products. Of equal ones the lower row comes
    first, also at the end of the K.

    shortlist  0: all products in float32. Otherwise the products are taken in bfloat16 first, this many of the best are kept, and
               those are ranked again in float32: faster where the processor has bfloat16 units, and exact for all practical
               purposes when the shortlist is several times k.
    """
    import torch  # here, so that commands which compare nothing start without it

    if k < 1:
        raise ConfigError(f"k is {k} (expected 1 or more)")
    if query_QD.ndim != 2 or query_QD.shape[1] != vectors_ND.shape[1]:
        raise ShapeError(f"queries are {list(query_QD.shape)} (expected [Q, {vectors_ND.shape[1]}])")
    k = min(k, len(vectors_ND))
    if k == 0:
        return np.zeros((len(query_QD), 0), np.int64), np.zeros((len(query_QD), 0), np.float32)
    gallery = torch.from_numpy(np.ascontiguousarray(vectors_ND, np.float32))
    coarse = gallery.bfloat16() if shortlist else gallery
    rows, scores = [], []
    for start in range(0, len(query_QD), BLOCK):
        query = torch.from_numpy(np.ascontiguousarray(query_QD[start : start + BLOCK], np.float32))
        every = (query.to(coarse.dtype) @ coarse.T).float()
        score, row = every.topk(min(max(k, shortlist), len(gallery)), dim=1)
        if row.shape[1] < len(gallery):
            _lower_rows_first(every, score, row)
        if shortlist:
            score = torch.einsum("qd,qkd->qk", query, gallery[row])
        row, row_order = row.sort(dim=1)  # equal scores: lower row first
        score, order = score.gather(1, row_order).sort(dim=1, descending=True, stable=True)
        rows.append(row.gather(1, order)[:, :k])
        scores.append(score[:, :k])
    if not rows:
        return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
    return torch.cat(rows).numpy(), torch.cat(scores).numpy()


def _lower_rows_first(every_QN: Tensor, score_QK: Tensor, row_QK: Tensor) -> None:
    """Put into `row_QK`, in place, the lowest of the rows that tie with the last one: `topk` takes any of them."""
    least_Q1 = score_QK[:, -1:]
    tied_Q = (every_QN == least_Q1).sum(dim=1) > (score_QK == least_Q1).sum(dim=1)
    for query in tied_Q.nonzero().flatten().tolist():
        at = (score_QK[query] == least_Q1[query]).nonzero().flatten()
        row_QK[query, at] = (every_QN[query] == least_Q1[query]).nonzero().flatten()[: len(at)]
