"""Ranking of vocabulary words for an image, against the words of its captions (NDCG).

Letters: V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, WordRanker
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.data.text.captions.stop_words import content_words
from diptych.tasks._scoring.captions.stemming import stem
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

SCHEMA = pa.schema(
    [("uid", pa.string()), ("group", pa.string()), ("ranks", pa.list_(pa.int32())), ("found", pa.int32()), ("words", pa.int32())]
)


@dataclass(frozen=True)
class WordRanking:
    """A whole vocabulary ranked for each image, scored by NDCG (which decides) as SITTA does (2307.05591).

    A word of the vocabulary is relevant when its stem is that of a word of the image's captions, stop words, full stops and commas left
    out; stems are Snowball's for English. Gains are 0 or 1, discounted by log2(rank + 1), and divided by those of the ideal ranking.
    Several tokens may have one stem, and all of them count. An image of whose words none is in the vocabulary cannot be ranked: it is left
    out and counted in the notes, where the released code divides by zero. `chance` is what a random ranking gets on average; `hit` the
    share of images with a relevant word among the first `first`; `recall` the share of an image's words (by stem) among them.

    always      words that are relevant to every image; released: the start mark ("<s>",), which the released code reads among a caption's
                words and ranks among the vocabulary's (`marks` of the recipe)
    first       number of top words for `hit` and `recall`
    language    texts of this language or an unknown one count; "" takes all
    draws, seed of the intervals
    """

    name: ClassVar[str] = "word_ranking"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = WordRanker
    main: ClassVar[str] = "ndcg"

    first: int = 8
    always: tuple[str, ...] = ()
    language: str = "en"
    draws: int = 500
    seed: int = 0

    def predict(self, model: WordRanker, data: Dataset) -> pa.Table:
        stem_V = [stem(word) for word in model.words]
        rows: list[tuple[str, str, list[int], int, int]] = []
        for start in range(0, len(data), 256):
            samples = [data[row] for row in range(start, min(start + 256, len(data)))]
            for row, sample in enumerate(samples, start):
                if sample.image is None:
                    raise DataError(f"sample '{sample.uid}' has no image", file=data.name, row=row, expected="an image")
            ranked_NV = model.rank_words([sample.image for sample in samples if sample.image is not None])
            for sample, ranked_V in zip(samples, ranked_NV, strict=True):
                texts = [text.string for text in sample.positives(self.language)]
                stems = {stem(word) for word in [*content_words(" ".join(texts)), *self.always]}
                hits = [(rank, stem_V[token]) for rank, token in enumerate(ranked_V.tolist(), 1) if stem_V[token] in stems]
                hits_first = len({word for rank, word in hits if rank <= self.first})
                rows.append((sample.uid, sample.group or sample.uid, [rank for rank, _ in hits], hits_first, len(stems)))
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in SCHEMA]
        records = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        facts: dict[str, Any] = {"options": asdict(self), "fingerprint": data.fingerprint, "vocabulary": len(stem_V)}
        return with_facts(records, model=getattr(model, "name", ""), **facts)

    def score(self, records: pa.Table) -> Result:
        ranks = records.column("ranks").to_pylist()
        there = [row for row, own in enumerate(ranks) if own]
        if not there:
            raise DataError(
                "no image has a word of the vocabulary in its captions", field="texts", expected="captions in its language"
            )
        kept = records.take(there)
        value_NM, names = self._values(kept)
        groups = kept.column("group").to_pylist()
        drawn_RM = resampled_means(value_NM, groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(float(value_NM[:, column].mean()), *percentiles(drawn_RM[:, column]))
            for column, name in enumerate(names)
        }
        notes: dict[str, Any] = {
            **facts_of(records),
            "unranked": len(ranks) - len(there),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(kept), len(set(groups)), notes=notes)

    def _values(self, records: pa.Table) -> tuple[Floats, list[str]]:
        size = int(facts_of(records)["vocabulary"])
        discount_V = 1 / np.log2(np.arange(2, size + 2))
        ideal_V, mean = np.cumsum(discount_V), discount_V.mean()
        first = int(facts_of(records)["options"]["first"])
        rows = []
        for ranks, in_first, words in zip(
            *(records.column(name).to_pylist() for name in ("ranks", "found", "words")), strict=True
        ):
            best = ideal_V[len(ranks) - 1]
            gained = discount_V[np.asarray(ranks) - 1].sum()
            rows.append((gained / best, len(ranks) * mean / best, float(min(ranks) <= first), in_first / words))
        return np.array(rows, np.float64), ["ndcg", "chance", f"hit@{first}", f"recall@{first}"]

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1]; NaN for an image that cannot be ranked."""
        there = [row for row, own in enumerate(records.column("ranks").to_pylist()) if own]
        value_NM, names = self._values(records.take(there))
        if metric not in names:
            return None
        whole_N1 = np.full((len(records), 1), np.nan)
        whole_N1[there, 0] = value_NM[:, names.index(metric)]
        return whole_N1
