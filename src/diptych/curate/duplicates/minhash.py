"""MinHash signatures: the share of equal values of two texts estimates the Jaccard similarity of their shingles (Broder, 1997).

Shingles are runs of `width` characters of the text in lower case with single blanks; a text shorter than that is one shingle. Two
texts are candidates when all values of a band agree: with b bands of r rows, a pair of similarity s is one with probability
1 - (1 - s^r)^b. Candidates are confirmed by the shingles themselves. Letters: N texts, K shingles, P values per text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.randomness import keyed_rng

Words = npt.NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def normal_text(text: str) -> str:
    """Normalised text for equality: case folded, single blanks."""
    return " ".join(text.casefold().split())


def shingles(text: str, width: int) -> set[str]:
    """Character shingles of a normalised text.

    >>> sorted(shingles("abca", 3))
    ['abc', 'bca']
    """
    return {text[i : i + width] for i in range(max(1, len(text) - width + 1))}


def hashed_shingles(texts: list[str], width: int) -> tuple[Words, npt.NDArray[np.int64]]:
    """64-bit hash of each shingle of each normalised text, and the offsets of texts (N + 1). Repeats are not removed."""
    lengths = np.array([len(text) for text in texts], np.int64)
    count_N = np.maximum(1, lengths - width + 1)
    pad = "\0" * width  # a short text is one shingle, padded; what follows a text never gets into its shingles
    point_S = np.frombuffer("".join(text + pad for text in texts).encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
    begin_N = np.cumsum(lengths + width) - lengths - width
    start_N1 = np.concatenate([[0], np.cumsum(count_N)])
    at_K = np.repeat(begin_N - start_N1[:-1], count_N) + np.arange(start_N1[-1])
    hash_K = np.zeros(len(at_K), np.uint64)
    for step in range(width):
        hash_K = _mixed(hash_K * GOLDEN + point_S[at_K + step])
    return hash_K, start_N1


def _mixed(value: Words) -> Words:
    """Bijective mix of 64-bit integers (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@dataclass(frozen=True)
class MinHashBands:
    """LSH bands of texts, one 64-bit key a band: a worker of `engine.mapped`."""

    kind: ClassVar[pa.DataType] = pa.list_(pa.uint64())

    bands: int = 8
    rows: int = 4
    width: int = 5
    seed: int = 0

    def __call__(self, *columns: pa.Array) -> pa.Array:
        texts = [normal_text(text) for text in columns[0].to_pylist()]
        key_NB = self.keys(texts)
        offsets = pa.array(np.arange(len(texts) + 1) * self.bands, pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.array(key_NB.ravel()))

    def keys(self, texts: list[str]) -> Words:
        """Band keys, uint64 [N, bands], of normalised texts."""
        if not texts:
            return np.zeros((0, self.bands), np.uint64)
        least_NP = self.signature(texts)
        key_NB = np.zeros((len(texts), self.bands), np.uint64)
        for band in range(self.bands):
            key = np.full(len(texts), band + 1, np.uint64)
            for row in range(self.rows):
                key = _mixed(key * GOLDEN + least_NP[:, band * self.rows + row])
            key_NB[:, band] = key
        return key_NB

    def signature(self, texts: list[str]) -> Words:
        """MinHash signature of every text, uint64 [N, P]: the least hash under each of bands x rows hash functions."""
        hash_K, start_N1 = hashed_shingles(texts, self.width)
        salts = keyed_rng(self.seed, "minhash").integers(0, 2**63, self.bands * self.rows, dtype=np.int64).astype(np.uint64)
        return np.stack([np.minimum.reduceat(_mixed(hash_K ^ salt), start_N1[:-1]) for salt in salts], 1)
