"""Drop rows whose text is nearly that of a kept row: boilerplate with another number in it, a caption copied with a slip.

Greedy, as for images: rows come in order of uid, and one leaves only when a *kept* row's text shares at least `similarity` of its
shingles (Jaccard). So no chain of small steps carries off what is far from everything kept, and the cut of the files does not show.
Candidates come from MinHash bands (`minhash`): of pairs at the threshold itself some are missed, well above it hardly any; `recall`
says how many. Every drop names the kept row. The first text of a row is looked at; a row without text stays.

Cost: some 15 microseconds a text for the keys, then the pairs that share one. It takes any image with any other: what is dropped is a
*text* that adds nothing new, so give it pools where that is what you want, or balance entries instead (`metaclip`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError
from diptych.curate.duplicates.minhash import MinHashBands, normal_text, shingles
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import mapped
from diptych.curate.text.texts import texts_of

TRIED = 2_000


@dataclass(frozen=True)
class TextDuplicates:
    """similarity  share of shingles in common (of those of both) from which a text is a duplicate; 1: equal but for case and blanks
    width       characters of a shingle
    bands       of the MinHash; more find more pairs and cost more
    rows        hash values a band; more find only more similar pairs
    language    texts of this language or an unknown one; "" takes all
    """

    slug: ClassVar[str] = "text_duplicates"

    similarity: float = 0.8
    width: int = 5
    bands: int = 8
    rows: int = 4
    language: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise ConfigError(f"similarity is {self.similarity} (expected above 0, at most 1)")
        if min(self.width, self.bands, self.rows) < 1:
            raise ConfigError(f"width {self.width}, bands {self.bands}, rows {self.rows} (expected at least 1)")

    @property
    def recall(self) -> float:
        """Share of pairs exactly at the threshold that the bands find."""
        return 1.0 - float((1.0 - self.similarity**self.rows) ** self.bands)

    def plan(self, data: Dataset) -> dict[str, Any]:
        texts = self._first(data)
        step = max(1, texts.num_rows // TRIED)
        tried = texts["string"].take(pa.array(range(0, texts.num_rows, step), pa.int64())).combine_chunks()
        start = time.perf_counter()
        MinHashBands(self.bands, self.rows, self.width)(tried)
        each = (time.perf_counter() - start) / max(1, len(tried))
        facts = {"items": texts.num_rows, "unit": "keys of a text", "seconds_each": each, "seconds": each * texts.num_rows}
        return {**facts, "needs": "pairs with a key in common", "recall": self.recall}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from parts that an earlier run finished."""
        start = time.perf_counter()
        texts = self._first(data)
        bands = MinHashBands(self.bands, self.rows, self.width)

        def keyed(part: pa.Table) -> pa.Table:
            return mapped(part.select(["row", "string"]), ["string"], bands, "keys").select(["keys"])

        keys = parts.mapped(texts, "keys", keyed)["keys"].combine_chunks().values.to_numpy().reshape(-1, self.bands)
        uids = texts["uid"].to_pylist()
        strings = [normal_text(text) for text in texts["string"].to_pylist()]
        original: dict[str, str] = {}
        dropped = []
        for row, (kept, alike) in self._greedy(keys, strings).items():
            original[uids[row]] = uids[kept]
            dropped.append(Drop(uids[row], self.slug, f"near {uids[kept]}: its text shares {alike:.3f} of its shingles"))
        columns = {"text_duplicate_of": original} if original else {}
        stays = tuple(sorted(set(data.uids) - original.keys()))
        return CurationStepResult(stays, tuple(dropped), columns, time.perf_counter() - start)

    def _first(self, data: Dataset) -> pa.Table:
        """First text of each row."""
        texts = texts_of(data, language=self.language)
        uids = texts["uid"].to_pylist()
        first = [row for row, uid in enumerate(uids) if not row or uid != uids[row - 1]]
        return texts.take(pa.array(first, pa.int64()))

    def _greedy(self, keys: Any, strings: list[str]) -> dict[int, tuple[int, float]]:
        """Greedy duplicates: dropped row -> (kept row, similarity): the most similar one, the first on a tie."""
        shared = _keys_met_twice(keys)
        kept: dict[int, list[int]] = {}  # key -> kept rows
        sets: dict[int, set[str]] = {}
        out: dict[int, tuple[int, float]] = {}
        for row in np.flatnonzero(shared.any(axis=1)).tolist():
            own = keys[row][shared[row]].tolist()
            candidates = sorted({other for key in own for other in kept.get(key, ())})
            mine = shingles(strings[row], self.width)
            alike = [(len(mine & sets[c]) / len(mine | sets[c]), -c) for c in candidates]
            best = max(alike, default=(0.0, 0))
            if best[0] >= self.similarity:
                out[row] = -best[1], best[0]
            else:
                sets[row] = mine
                for key in own:
                    kept.setdefault(key, []).append(row)
        return out


def _keys_met_twice(keys: Any) -> Any:
    """Mask [N, bands] of keys that another row has as well: the others can make no pair."""
    shared = np.zeros(keys.shape, bool)
    for band in range(keys.shape[1]):
        order = np.argsort(keys[:, band], kind="stable")
        ordered = keys[order, band]
        same = ordered[1:] == ordered[:-1]
        shared[order[1:][same], band] = True
        shared[order[:-1][same], band] = True
    return shared
