"""Feature cache: rows of float32 by key, computed once, in a folder that can be memory-mapped.  Letters: N rows, D dimensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from diptych.core.disk.files import atomic_folder
from diptych.core.errors import DataError
from diptych.core.terminal.progress import with_bar
from diptych.data.load.content_features import DIGESTS

Vectors = npt.NDArray[np.float32]


class FeatureTable:
    """Features by key. Opened once per process; workers share the pages of the file.

    A folder with `keys.parquet` (column "key") and `values.npy` (float32 [N, D], in the order of the keys).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        keys = pq.read_table(folder / "keys.parquet")["key"].to_pylist()
        self._row = {key: row for row, key in enumerate(keys)}
        self.value_ND: Vectors = np.load(folder / "values.npy", mmap_mode="r", allow_pickle=False)

    @classmethod
    def open_or_make(
        cls,
        folder: Path,
        keys: Sequence[str],
        encode: Callable[[Sequence[int]], Vectors],
        *,
        block: int = 2048,
        what: str = "features",
        digests: Sequence[bytes] | None = None,
    ) -> FeatureTable:
        """Open the table at `folder`, or compute it first, under a bar that says `what`: `encode` gets positions in `keys` and returns one
        row for each. `digests`, 16 bytes per row, may be a list that `encode` fills: what the rows are of, for `content_features`.

        Appears only when it is whole; a kill while it is computed costs the work and leaves nothing behind.
        """
        if not (folder / "values.npy").exists():
            if len(set(keys)) != len(keys):
                raise DataError(f"{len(keys) - len(set(keys))} keys of a feature table repeat", expected="one row a key")
            blocks = [range(start, min(start + block, len(keys))) for start in range(0, len(keys), block)]
            title = f"{what} ({len(keys):,}), once"
            parts = [encode(rows) for rows in with_bar(blocks, len(blocks), title)]
            with atomic_folder(folder) as work:
                pq.write_table(pa.table({"key": pa.array(keys, pa.string())}), work / "keys.parquet")
                if digests:
                    np.save(work / DIGESTS, np.frombuffer(b"".join(digests), np.uint8).reshape(len(keys), 16), allow_pickle=False)
                np.save(work / "values.npy", np.concatenate(parts).astype(np.float32), allow_pickle=False)
        return cls(folder)

    def __len__(self) -> int:
        return len(self._row)

    def __contains__(self, key: str) -> bool:
        return key in self._row

    def rows(self, keys: Sequence[str]) -> Vectors:
        """[len(keys), D], in the order of the keys."""
        try:
            return np.asarray(self.value_ND[[self._row[key] for key in keys]])
        except KeyError as error:
            raise DataError(
                f"no features for {error.args[0]!r}", file=self.folder, expected="a key the table was made with"
            ) from error
