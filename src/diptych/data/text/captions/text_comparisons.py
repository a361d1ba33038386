"""Generated texts of a pool beside its own: the output of `diptych data inspect` for a rewriting step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.randomness import keyed_rng
from diptych.data.columns import read_table, table_names
from diptych.data.dataset import Pool
from diptych.data.shards.mark import CURATION
from diptych.data.text.captions.variants import VARIANTS

WRITTEN = ("rewrite", "synthetic")
"""Origins of texts that a model or rules wrote."""


@dataclass(frozen=True, slots=True)
class GeneratedText:
    """by  who wrote it and in what style, where that is known"""

    string: str
    origin: str
    by: str = ""


@dataclass(frozen=True, slots=True)
class TextComparison:
    """A sample with a text of its own and texts that were written."""

    uid: str
    original: str
    written: tuple[GeneratedText, ...]

    def lines(self) -> list[str]:
        """The original, then each written text with who wrote it, indented."""
        return [f"{self.uid}: {self.original}", *(f"    {one.by or one.origin}: {one.string}" for one in self.written)]


def text_comparisons(pool: Pool, count: int, *, folder: Path | None = None, seed: int = 0) -> tuple[int, list[TextComparison]]:
    """Number of samples with generated texts, and up to `count` of those samples chosen by `seed`, in order of rows.

    folder  where a curation step left its tables, for who wrote what
    """
    table = pool.texts_table()
    uids, origins = table["uid"].to_pylist(), table["origin"].to_pylist()
    having = {uid for uid, origin in zip(uids, origins, strict=True) if origin in WRITTEN}
    rows = [row for row, uid in enumerate(pool.uids) if uid in having]
    chosen = sorted(keyed_rng(seed, "beside").permutation(len(rows))[:count].tolist())
    written_by_uid = _by(folder)
    return len(rows), [_of(pool, rows[position], written_by_uid) for position in chosen]


def _of(pool: Pool, row: int, written_by_uid: Mapping[str, Sequence[Mapping[str, Any]]]) -> TextComparison:
    sample = pool[row]
    by = {one["string"]: " ".join(filter(None, (one["model"], one["style"]))) for one in written_by_uid.get(sample.uid, ())}
    own = next((text.string for text in sample.texts if text.origin not in (*WRITTEN, "negative")), "(no text of its own)")
    written = tuple(GeneratedText(t.string, t.origin, by.get(t.string, "")) for t in sample.texts if t.origin in WRITTEN)
    return TextComparison(sample.uid, own, written)


def _by(folder: Path | None) -> dict[str, list[dict[str, Any]]]:
    """The column of written texts of a curated folder; empty if there is none."""
    if folder is None or not (folder / CURATION).is_file() or VARIANTS not in table_names(folder):
        return {}
    table = read_table(folder, VARIANTS).table
    return dict(zip(table["uid"].to_pylist(), table[VARIANTS].to_pylist(), strict=True))
