"""Feature cache keyed by image content, so that all commands share the features that one computed.

A feature table may keep `digests.npy` (uint8 [N, 16]) beside its rows: what each image is known by. Letters: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

DIGESTS = "digests.npy"
Row = npt.NDArray[np.float32]


class ContentFeatures:
    """Rows of one feature table by the digest of the image. Sorted numbers and mapped files: a million rows take 16 MB."""

    def __init__(self, folder: Path) -> None:
        self.value_ND = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)
        self.digest_N16 = np.load(folder / DIGESTS, mmap_mode="r", allow_pickle=False)
        start_N = np.ascontiguousarray(self.digest_N16[:, :8]).view(np.uint64)[:, 0]
        self._order = np.argsort(start_N, kind="stable")
        self._start_N = start_N[self._order]

    def find(self, digests: Sequence[bytes]) -> dict[bytes, Row]:
        """Those that are here. Two images whose digests begin alike (one pair in 10^19) are distinguished by the rest."""
        if not digests or not len(self._order):
            return {}
        asked_K = np.array([int(np.frombuffer(digest, np.uint64, 1)[0]) for digest in digests], np.uint64)
        place_K = np.minimum(np.searchsorted(self._start_N, asked_K), len(self._order) - 1)
        rows = self._order[place_K]
        return {
            digest: np.array(self.value_ND[row])
            for digest, row in zip(digests, rows, strict=True)
            if self.digest_N16[row].tobytes() == digest
        }


def find(features: Path, ending: str, digests: Sequence[bytes]) -> dict[bytes, Row]:
    """Look up feature rows by image digest in all tables of a folder whose name ends so."""
    rows_by_digest: dict[bytes, Row] = {}
    for folder in sorted(features.glob(f"*{ending}")) if digests else ():
        if (folder / DIGESTS).is_file():
            left = [digest for digest in digests if digest not in rows_by_digest]
            rows_by_digest |= _open_features(folder, (folder / DIGESTS).stat().st_mtime_ns).find(left)
    return rows_by_digest


@lru_cache(maxsize=8)
def _open_features(folder: Path, when: int) -> ContentFeatures:
    return ContentFeatures(folder)
