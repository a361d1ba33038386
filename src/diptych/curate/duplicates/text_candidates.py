"""Greedy near-duplicate search among texts that share a MinHash band: a row is compared only with kept rows (representatives).

Texts of one template share bands with each other, and may all be kept: comparing each with all would be quadratic. Rows with a band key
of more than `SPLIT` rows are therefore joined into groups (connected components over bands), and each group is indexed by its rarest
shingles. Two sets of a Jaccard similarity of at least t share one of their first n - ceil(t n) + 1 shingles in any common order, and its
position bounds how many they share (prefix and positional filters: Bayardo, Ma and Srikant, 2007; Xiao et al., 2008): with the
rarest shingles first, a text is compared with those that share its rare shingles, and no pair is lost. Each list of
representatives holds at most `cap` rows, which bounds the comparisons per row; full lists are counted, since pairs may be missed
there.

Letters: N texts, B bands, K shingles.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.minhash import Words, hashed_shingles, shingles
from diptych.curate.duplicates.result import NearPairs

SPLIT = 32  # rows with one band key, from which its representatives are split by rare shingles
COUNTERS = 1 << 20  # of the frequency of shingles; colliding ones share one, which changes the order and loses nothing
CACHED = 1 << 12  # texts whose shingles are held; those of all kept rows would take some kilobytes each
BLOCK = 16_384  # texts whose shingles are hashed at a time


@dataclass(slots=True)
class GreedyTexts:
    """Result of a greedy pass.

    original     similarity and kept row by dropped row: the most similar one, the first on a tie
    compared     pairs whose shingles were compared
    full_lists   lists of representatives that reached the cap
    """

    original: NearPairs
    compared: int = 0
    full_lists: int = 0


@dataclass(frozen=True, slots=True)
class _SplitRow:
    """Row of a large bucket: its group, its rarest shingles (hashed), the number of all its shingles, and its large band keys."""

    group: int
    prefix: list[int]
    size: int
    keys: frozenset[int]


class _RareShingleLists:
    """Kept rows by their rare shingles, one family of lists for each group of rows that band keys join."""

    def __init__(self, key_NB: Words, similarity: float, cap: int) -> None:
        self.similarity, self.cap, self.full = similarity, cap, 0
        self._key_NB = key_NB
        self._size_N = np.zeros(len(key_NB), np.int32)
        self._lists: dict[int, dict[int, array[int]]] = {}  # group -> shingle -> rows and positions, one after the other

    def candidates(self, row: _SplitRow) -> set[int]:
        """Kept rows that share a band key and a rare shingle, and that can be similar enough by the position of the first such one."""
        seen: set[int] = set()
        out: set[int] = set()
        least = self.similarity / (1 + self.similarity)  # minimum shared shingles, as a fraction of the sum of both sizes
        lists = self._lists.get(row.group, {})
        for position, shingle in enumerate(row.prefix):
            members = lists.get(shingle, ())
            for other, index in zip(members[::2], members[1::2], strict=True):
                if other in seen:
                    continue
                seen.add(other)
                size = int(self._size_N[other])
                if min(row.size - position, size - index) < least * (row.size + size) - 1e-9:
                    continue
                if not row.keys.isdisjoint(self._key_NB[other].tolist()):
                    out.add(other)
        return out

    def add(self, number: int, row: _SplitRow) -> None:
        self._size_N[number] = row.size
        lists = self._lists.setdefault(row.group, {})
        for position, shingle in enumerate(row.prefix):
            members = lists.setdefault(shingle, array("q"))
            if not self.cap or len(members) < 2 * self.cap:
                members.extend((number, position))
                self.full += len(members) == 2 * self.cap


class _SmallBuckets:
    """Rows that share a band key with 2 to SPLIT rows, in arrays sorted by key and row: about 16 bytes per key and row."""

    def __init__(self, key_NB: Words, size_NB: npt.NDArray[np.int32]) -> None:
        row_M, band_M = np.nonzero((size_NB > 1) & (size_NB <= SPLIT))
        key_M = key_NB[row_M, band_M]
        order_M = np.lexsort((row_M, key_M))
        self._row_M, key_M = row_M[order_M].astype(np.int32), key_M[order_M]
        first_M = np.ones(len(key_M), bool)
        first_M[1:] = key_M[1:] != key_M[:-1]
        begin_M = np.maximum.accumulate(np.where(first_M, np.arange(len(key_M)), 0))
        by_row_M = np.argsort(self._row_M, kind="stable")  # row_M before it was sorted by key
        self._span_M2 = np.stack([begin_M[by_row_M], by_row_M], 1)
        self._start_N1 = np.concatenate([[0], np.cumsum(np.bincount(row_M, minlength=len(key_NB)))])
        self._kept_N = np.ones(len(key_NB), bool)

    def kept_before(self, row: int) -> set[int]:
        """Kept rows before this one that share a key with it."""
        spans = self._span_M2[self._start_N1[row] : self._start_N1[row + 1]].tolist()
        return {other for begin, end in spans for other in self._row_M[begin:end].tolist() if self._kept_N[other]}

    def drop(self, row: int) -> None:
        self._kept_N[row] = False


def greedy_texts(key_NB: Words, texts: Sequence[str], *, similarity: float, width: int, cap: int) -> GreedyTexts:
    """Rows in order; one is dropped when a kept row that shares a band key with it has at least this Jaccard similarity.

    key_NB      band keys, uint64 [N, B]
    texts       normalised texts
    similarity  minimum Jaccard similarity of the shingles
    width       characters per shingle
    cap         maximum number of kept rows in the list of a rare shingle; 0: no limit
    """
    size_NB = bucket_sizes(key_NB)
    met = np.flatnonzero((size_NB > 1).any(axis=1))
    small = _SmallBuckets(key_NB, size_NB)
    split_rows = _split_rows(key_NB, size_NB, texts, similarity, width)
    out = GreedyTexts(NearPairs(len(key_NB)))
    by_shingle = _RareShingleLists(key_NB, similarity, cap)

    @lru_cache(maxsize=CACHED)
    def shingles_of(row: int) -> set[str]:
        return shingles(texts[row], width)

    for row in map(int, with_bar(met, len(met), "comparing texts", least=50_000)):
        split = next(split_rows) if size_NB[row].max() > SPLIT else None
        candidates = small.kept_before(row)
        if split is not None:
            candidates |= by_shingle.candidates(split)
        best = _most_similar(shingles_of(row), candidates, shingles_of, similarity, out)
        if best is not None:
            out.original.add(row, *best)
            small.drop(row)
            continue
        if split is not None:
            by_shingle.add(row, split)
    out.full_lists = by_shingle.full
    return out


def _most_similar(
    mine: set[str], candidates: set[int], shingles_of: Callable[[int], set[str]], similarity: float, out: GreedyTexts
) -> tuple[int, float] | None:
    best: tuple[int, float] | None = None
    for other in sorted(candidates):
        theirs = shingles_of(other)
        small, large = sorted((len(mine), len(theirs)))
        if small / large < (best[1] if best else similarity):  # the similarity cannot exceed this ratio
            continue
        out.compared += 1
        shared = len(mine & theirs)
        alike = shared / (small + large - shared)
        if alike >= similarity and (best is None or alike > best[1]):
            best = other, alike
            if alike == 1.0:
                break
    return best


def bucket_sizes(key_NB: Words) -> npt.NDArray[np.int32]:
    """Rows with the same key in the same band, int32 [N, B]."""
    size_NB = np.ones(key_NB.shape, np.int32)
    for band in range(key_NB.shape[1]):
        _, inverse_N, count = np.unique(key_NB[:, band], return_inverse=True, return_counts=True)
        size_NB[:, band] = count[inverse_N]
    return size_NB


def _groups(key_NB: Words, size_NB: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Group of each row, int64 [N]: rows connected by a chain of keys with more than SPLIT rows share a group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    row_M, band_M = np.nonzero(size_NB > SPLIT)
    _, key_M = np.unique(key_NB[row_M, band_M], return_inverse=True)
    nodes = len(key_NB) + int(key_M.max(initial=-1)) + 1
    edges = coo_array((np.ones(len(row_M), np.int8), (row_M, len(key_NB) + key_M)), shape=(nodes, nodes))
    _, label = connected_components(edges, directed=False)
    group_N: npt.NDArray[np.int64] = label[: len(key_NB)].astype(np.int64)
    return group_N


def _split_rows(
    key_NB: Words, size_NB: npt.NDArray[np.int32], texts: Sequence[str], similarity: float, width: int
) -> Iterator[_SplitRow]:
    """Rows with a key of more than SPLIT rows, in order, with their rarest shingles."""
    rows = np.flatnonzero((size_NB > SPLIT).any(axis=1))
    if not len(rows):
        return
    group_N = _groups(key_NB, size_NB)
    frequency = np.zeros(COUNTERS, np.int64)
    blocks = [rows[start : start + BLOCK].tolist() for start in range(0, len(rows), BLOCK)]
    for block in blocks:
        hash_K, _ = hashed_shingles([texts[row] for row in block], width)
        frequency += np.bincount((hash_K % np.uint64(COUNTERS)).astype(np.int64), minlength=COUNTERS)
    for block in blocks:
        hash_K, start_N1 = hashed_shingles([texts[row] for row in block], width)
        text_K = np.repeat(np.arange(len(block)), np.diff(start_N1))
        order_K = np.lexsort((hash_K, frequency[(hash_K % np.uint64(COUNTERS)).astype(np.int64)], text_K))
        hash_K, text_K = hash_K[order_K], text_K[order_K]
        fresh_K = np.ones(len(hash_K), bool)  # a repeat has the same text, frequency and hash as the one before it
        fresh_K[1:] = (hash_K[1:] != hash_K[:-1]) | (text_K[1:] != text_K[:-1])
        edges = np.searchsorted(text_K[fresh_K], np.arange(len(block) + 1)).tolist()
        shingle_K = hash_K[fresh_K]
        for row, start, end in zip(block, edges[:-1], edges[1:], strict=True):
            length = end - start - math.ceil(similarity * (end - start) - 1e-9) + 1
            keys = frozenset(key_NB[row][size_NB[row] > SPLIT].tolist())
            yield _SplitRow(int(group_N[row]), shingle_K[start : start + length].tolist(), end - start, keys)
