"""Random generators keyed by purpose, so that any sample of any epoch can be drawn again on any worker."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence


class _Key(ISeedSequence):
    """Hands a digest to Philox as its key. `Philox(key=...)` does the same, but asks the system for entropy first, which it drops."""

    def __init__(self, digest: bytes) -> None:
        self.digest = digest

    def generate_state(self, n_words: int, dtype: npt.DTypeLike = np.uint32) -> npt.NDArray[Any]:
        return np.frombuffer(self.digest, "<u8")


def keyed_rng(*key: int | str) -> np.random.Generator:
    """A random generator that depends on the key alone: the same in every process and on every machine.

    >>> bool(keyed_rng(0, 3, "cat").integers(100) == keyed_rng(0, 3, "cat").integers(100))
    True
    """
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(_Key(digest)))  # type: ignore[arg-type]  # numpy documents ISeedSequence, and types less


def keyed_seed(*key: int | str) -> int:
    """A 63-bit seed from a key, for libraries that take one (torch.manual_seed)."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def keyed_uniforms(keys: Iterable[str], *purpose: int | str) -> npt.NDArray[np.float64]:
    """One number in [0, 1) for each key, that depends on (purpose, key) alone: a draw a row, whatever the order of rows. [N]

    >>> bool(keyed_uniforms(["b", "a"], 0)[1] == keyed_uniforms(["a"], 0)[0])
    True
    """
    start = hashlib.blake2b("\x1f".join(map(str, purpose)).encode() + b"\x1f", digest_size=8)

    def bits(key: str) -> int:
        digest = start.copy()
        digest.update(key.encode())
        return int.from_bytes(digest.digest(), "little") >> 11

    return np.fromiter((bits(key) for key in keys), np.int64).astype(np.float64) * 2.0**-53
