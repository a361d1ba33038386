"""Exact search for 64-bit codes within a Hamming distance (multi-index hashing; Norouzi, Punjani and Fleet, 2012).

A code is split into m pieces. If two codes differ in at most d bits, at least one piece differs in at most d // m, so looking up
the neighbours of each piece finds every near code. Longer pieces give fewer candidates but have more neighbours, so m falls as
the number of codes grows; it is chosen by cost.

`HammingIndex`  codes one at a time, for a small set of them
`CodeRuns`      blocks of codes with a level (brightness) that must also be similar: for millions of codes

Letters: B queries, M codes, P neighbours of a piece, T pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
LEVEL_BITS = 18  # a level is below 2^18
LOOKUP, CANDIDATE = 40.0, 1.0  # cost of a search in a sorted array, and of a candidate
PAIRS = 1 << 20  # candidates held at once


class HammingIndex:
    """Exact search for 64-bit codes within a Hamming distance: codes are split into `distance` + 1 pieces, and near codes share
    one."""

    def __init__(self, distance: int) -> None:
        self.distance = distance
        edges = [64 * i // (distance + 1) for i in range(distance + 2)]
        self._pieces = [(low, (1 << (high - low)) - 1) for low, high in pairwise(edges)]
        self._buckets: list[dict[int, list[int]]] = [{} for _ in self._pieces]
        self._bits: dict[int, int] = {}

    def add(self, key: int, bits: int) -> None:
        self._bits[key] = bits
        for (low, mask), bucket in zip(self._pieces, self._buckets, strict=True):
            bucket.setdefault(bits >> low & mask, []).append(key)

    def within(self, bits: int) -> Iterable[tuple[int, int]]:
        """Neighbours within the distance as (key, distance), in order of key."""
        candidates: set[int] = set()
        for (low, mask), bucket in zip(self._pieces, self._buckets, strict=True):
            candidates.update(bucket.get(bits >> low & mask, ()))
        for key in sorted(candidates):
            distance = (self._bits[key] ^ bits).bit_count()
            if distance <= self.distance:
                yield key, distance


def pieces_for(count: int, distance: int) -> int:
    """Number of pieces that minimises the cost of a query among `count` codes; at least 2."""

    def cost(pieces: int) -> float:
        bits = 64 / pieces
        neighbours = sum(comb(round(bits), k) for k in range(distance // pieces + 1))
        return pieces * neighbours * (LOOKUP + CANDIDATE * count / 2**bits)

    return min(range(2, max(2, distance + 1) + 1), key=cost)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One piece of all codes of a run: its position, its neighbours, and the codes sorted by (piece, level)."""

    shift: int
    mask: int
    neighbour_P: Codes
    sorted_M: Codes
    order_M: Ints


class CodeRun:
    """Immutable sorted codes with levels and numbers."""

    def __init__(self, code_M: Codes, level_M: Ints, number_M: Ints, distance: int) -> None:
        self.code_M, self.level_M, self.number_M, self.distance = code_M, level_M, number_M, distance
        pieces = pieces_for(len(code_M), distance)
        self._pieces = []
        for low, high in pairwise([64 * i // pieces for i in range(pieces + 1)]):
            flips = [bits for k in range(distance // pieces + 1) for bits in combinations(range(high - low), k)]
            neighbour_P = np.array([sum(1 << bit for bit in bits) for bits in flips], np.uint64)
            mask = (1 << (high - low)) - 1
            key_M = self._key(code_M, low, mask) << np.uint64(LEVEL_BITS) | level_M.astype(np.uint64)
            order_M = np.argsort(key_M, kind="stable")
            self._pieces.append(_Piece(low, mask, neighbour_P, key_M[order_M], order_M))

    @staticmethod
    def _key(code_M: Codes, shift: int, mask: int) -> Codes:
        return code_M >> np.uint64(shift) & np.uint64(mask)

    def pairs(self, code_B: Codes, level_B: Ints, tolerance: int) -> tuple[Ints, Ints]:
        """Pairs within distance and tolerance: positions among the queries [T], numbers of stored codes [T]; each pair once."""
        top = (1 << LEVEL_BITS) - 1
        low_B = np.maximum(level_B - tolerance, 0).astype(np.uint64)
        high_B = np.minimum(level_B + tolerance, top).astype(np.uint64)
        met = [np.zeros(0, np.int64)]
        for piece in self._pieces:
            value_BP = (self._key(code_B, piece.shift, piece.mask)[:, None] ^ piece.neighbour_P) << np.uint64(LEVEL_BITS)
            first_BP = np.searchsorted(piece.sorted_M, value_BP | low_B[:, None])
            last_BP = np.searchsorted(piece.sorted_M, value_BP | high_B[:, None], side="right")
            for query_T, place_T in _expanded(first_BP, last_BP):
                stored_T = piece.order_M[place_T]
                near_T = np.bitwise_count(code_B[query_T] ^ self.code_M[stored_T]) <= self.distance
                met.append(query_T[near_T] * len(self.code_M) + stored_T[near_T])
        query_T, stored_T = np.divmod(np.unique(np.concatenate(met)), max(1, len(self.code_M)))
        return query_T, self.number_M[stored_T]


def _expanded(first_BP: Ints, last_BP: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Queries and positions of the half-open spans first..last, in blocks of about `PAIRS`."""
    count_S = (last_BP - first_BP).ravel()
    span_S = np.flatnonzero(count_S)
    end_S = np.cumsum(count_S[span_S])
    start = 0
    while start < len(span_S):
        done = int(end_S[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(end_S, done + PAIRS, side="right")))
        chosen, count = span_S[start:stop], count_S[span_S[start:stop]]
        within_T = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        yield np.repeat(chosen // first_BP.shape[1], count), np.repeat(first_BP.ravel()[chosen], count) + within_T
        start = stop


class CodeRuns:
    """Growing collection of codes: sorted runs, merged when the last is more than half as long as the one before it.

    distance   maximum Hamming distance of near codes, in bits
    tolerance  maximum difference of their levels
    """

    def __init__(self, distance: int, tolerance: int) -> None:
        self.distance, self.tolerance = distance, tolerance
        self._runs: list[CodeRun] = []

    def add(self, code_M: Codes, level_M: Ints, number_M: Ints) -> None:
        """Adds a block of codes with their levels (0 to 2^18 - 1) and numbers."""
        if not len(code_M):
            return
        merged = [(code_M, level_M, number_M)]
        size = len(code_M)
        while self._runs and len(self._runs[-1].code_M) < 2 * size:
            run = self._runs.pop()
            merged.append((run.code_M, run.level_M, run.number_M))
            size += len(run.code_M)
        codes, levels, numbers = zip(*merged, strict=True)
        self._runs.append(CodeRun(np.concatenate(codes), np.concatenate(levels), np.concatenate(numbers), self.distance))

    def pairs(self, code_B: Codes, level_B: Ints) -> tuple[Ints, Ints]:
        """Pairs within distance and tolerance: positions among the queries [T], numbers of stored codes [T]; each pair once."""
        parts = [run.pairs(code_B, level_B, self.tolerance) for run in self._runs]
        empty = np.zeros(0, np.int64)
        return np.concatenate([empty, *(query for query, _ in parts)]), np.concatenate([empty, *(other for _, other in parts)])
