"""Drop rows whose text is nearly that of a kept row: boilerplate with another number in it, a caption copied with a slip.

Greedy, as for images: rows come in order of uid, and one leaves only when a *kept* row's text shares at least `similarity` of its
shingles (Jaccard). So no chain of small steps carries off what is far from everything kept, and the cut of the files does not show.
Candidates come from MinHash bands (`minhash`): of pairs at the threshold itself some are missed, well above it hardly any; `recall`
says how many. Every drop names the kept row. The first text of a row is looked at; a row without text stays.

Cost: some 15 microseconds a text for the keys, then comparisons with kept rows that share a key and, where many do, a rare shingle
(`text_candidates`), of which `cap` bounds the number. The notes of a run say how many lists reached it. Images are not looked at: what
is dropped is a *text* that adds nothing new, so give it pools where that is what you want, or balance entries instead (`metaclip`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, overload

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError
from diptych.curate.duplicates.minhash import MinHashBands, Words, normal_text
from diptych.curate.duplicates.result import duplicates_result
from diptych.curate.duplicates.text_candidates import GreedyTexts, bucket_sizes, greedy_texts
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.run import mapped
from diptych.curate.text.texts import texts_of
from diptych.data.ragged import one_chunk, starts_of_runs

TRIED = 2_000


@dataclass(frozen=True)
class TextDuplicates:
    """similarity  minimum Jaccard similarity of the shingles of duplicates; 1: equal except for case and white space
    width       characters per shingle
    bands       bands of the MinHash; more find more pairs and cost more
    rows        hash values per band; more find only more similar pairs
    language    language of the texts; texts of unknown language are included; "" uses all
    cap         maximum number of kept rows in a list of candidates, so that texts of one template cost linear time; 0: no limit
    """

    slug: ClassVar[str] = "text_duplicates"

    similarity: float = 0.8
    width: int = 5
    bands: int = 8
    rows: int = 4
    language: str = ""
    cap: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.similarity <= 1:
            raise ConfigError(f"similarity is {self.similarity} (expected above 0, at most 1)")
        if min(self.width, self.bands, self.rows) < 1:
            raise ConfigError(f"width {self.width}, bands {self.bands}, rows {self.rows} (expected at least 1)")
        if self.cap < 0:
            raise ConfigError(f"cap is {self.cap} (expected 1 or more, or 0 for no limit)")

    @property
    def recall(self) -> float:
        """Share of pairs exactly at the threshold that the bands find."""
        return 1.0 - float((1.0 - self.similarity**self.rows) ** self.bands)

    def plan(self, data: Dataset) -> dict[str, Any]:
        texts = self._first(data)
        step = max(1, texts.num_rows // TRIED)
        tried = texts["string"].take(pa.array(range(0, texts.num_rows, step), pa.int64())).combine_chunks()
        start = time.perf_counter()
        strings = [normal_text(text) for text in tried.to_pylist()]
        key_NB = MinHashBands(self.bands, self.rows, self.width).keys(strings)
        each = (time.perf_counter() - start) / max(1, len(tried))
        half = self._greedy(key_NB[::2], strings[::2]).compared
        start = time.perf_counter()
        compared = self._greedy(key_NB, strings).compared
        each_pair = (time.perf_counter() - start) / max(1, compared)
        scale = texts.num_rows / max(1, len(tried))
        growth = min(2.0, max(1.0, math.log2(compared / half))) if half else 2.0  # 1: linear, 2: quadratic
        key_pairs = float((bucket_sizes(key_NB) - 1).sum()) / 2 * scale**2  # 1/s of the rows have 1/s^2 of the pairs
        comparisons = min(compared * scale**growth, max(key_pairs, compared))
        facts = {"items": texts.num_rows, "unit": "keys of a text", "seconds_each": each}
        facts |= {"seconds": each * texts.num_rows + each_pair * comparisons}
        return {**facts, "key_pairs": round(key_pairs), "comparisons": round(comparisons), "recall": self.recall}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from parts that an earlier run finished."""
        start = time.perf_counter()
        texts = self._first(data)
        bands = MinHashBands(self.bands, self.rows, self.width)

        def keyed(part: pa.Table) -> pa.Table:
            return mapped(part.select(["row", "string"]), ["string"], bands, "keys").select(["keys"])

        keys = one_chunk(parts.mapped(texts, "keys", keyed)["keys"]).values.to_numpy().reshape(-1, self.bands)
        done = self._greedy(keys, NormalTexts(one_chunk(texts["string"])))
        alike = (f"its text shares {similarity:.3f} of its shingles" for similarity in done.original.alike())
        return duplicates_result(
            data, self.slug, texts["uid"], done.original, alike, column="text_duplicate_of", start=start, notes=self._notes(done)
        )

    def _greedy(self, key_NB: Words, strings: Sequence[str]) -> GreedyTexts:
        return greedy_texts(key_NB, strings, similarity=self.similarity, width=self.width, cap=self.cap)

    def _notes(self, done: GreedyTexts) -> tuple[str, ...]:
        lines = [f"{done.compared:,} pairs of texts were compared"] if done.compared else []
        if done.full_lists:
            lines.append(
                f"{done.full_lists:,} lists of candidates reached {self.cap} kept rows and took no more: "
                "near texts may have stayed there (--cap 0 has no limit)"
            )
        return tuple(lines)

    def _first(self, data: Dataset) -> pa.Table:
        """First text of each row."""
        texts = texts_of(data, language=self.language)
        return texts.filter(pa.array(starts_of_runs(texts["uid"])))


class NormalTexts(Sequence[str]):
    """Normalised texts of an Arrow column, made when asked for."""

    def __init__(self, column: pa.Array) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[str]: ...

    def __getitem__(self, row: int | slice) -> str | Sequence[str]:
        if isinstance(row, slice):
            return [normal_text(text) for text in self.column[row].to_pylist()]
        return normal_text(self.column[row].as_py())
