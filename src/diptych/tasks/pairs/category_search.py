"""Category retrieval with image and text embedded together: CTP's second measure (2308.07146).  Protocol `category_search`, version 1.

Each item is one vector of its image and its text. Of the ten nearest items of the gallery the query itself is taken out; relevant is what
has its category. With k the least of K, the items of that category in the gallery (the query among them, where it is one) and the items
left in the list,

    ap@K = mean of the precision at each relevant place among the first k, 0 without any

and `map@K` is the mean over queries. So CTP's code has it: the query is taken out after the ten nearest were cut off, and an item that was
not found costs nothing while one that was is precise. A query whose category is not in the gallery is left out and counted (that code stops
there). Of equally near items those come first that come first in the data.

Letters: N queries, M items of the gallery, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, FusedEmbedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.index.embed import readable
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.pairs.continual import value_of

DEEP = 10
"""Items that are looked at."""


@dataclass(frozen=True, slots=True)
class CategorySearch:
    """Category retrieval: mean average precision among the first K.

    category  metadata columns that may have the category; the first that a sample has is used
    queries   "column=value": rows that are queries, the others are the gallery; "" uses every row as query against all rows
    language  language of the texts; the first of this or of unknown language is used; "" uses any
    """

    name: ClassVar[str] = "category_search"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = FusedEmbedder
    main: ClassVar[str] = "map@1"

    category: tuple[str, ...] = ("category", "cate_name")
    queries: str = ""
    language: str = ""
    ks: tuple[int, ...] = (1, 5, 10)
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not self.ks or not 1 <= min(self.ks) <= max(self.ks) <= DEEP:
            raise ConfigError(f"ks is {self.ks} (expected whole numbers from 1 to {DEEP})")
        if self.queries and "=" not in self.queries:
            raise ConfigError(f"queries is {self.queries!r} (expected COLUMN=VALUE, or nothing)")

    def predict(self, model: FusedEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per query: which of the nearest items have its category, and how many there are."""
        items = [(sample, self._category(sample), self._text(sample)) for sample in (data[row] for row in range(len(data)))]
        whole = [item for item in items if item[0].image is not None and item[1] and item[2]]
        if not whole:
            raise DataError(
                f"no sample of '{data.name}' has an image, a text and one of {', '.join(self.category)}",
                field=self.category[0],
                expected="a column with the category",
            )
        text_of = {sample.uid: text for sample, _, text in whole}
        category_of = {sample.uid: category for sample, category, _ in whole}

        def embed(samples: Sequence[Sample]) -> list[Floats]:
            images = [sample.image for sample in samples if sample.image is not None]
            rows_ND = model.embed_pairs(images, [text_of[sample.uid] for sample in samples], batch_size=self.batch_size)
            return list(rows_ND.astype(np.float64))

        samples, vectors, bad = readable(embed, [sample for sample, _, _ in whole])
        asks = [self._asks(sample) for sample in samples]
        gallery = [index for index, is_query in enumerate(asks) if not (self.queries and is_query)]
        count = Counter(category_of[samples[index].uid] for index in gallery)
        is_query = [index for index, asking in enumerate(asks) if asking and count[category_of[samples[index].uid]]]
        if not is_query:
            raise DataError(
                f"no query of '{data.name}' has a category that the gallery has", field="queries", expected="COLUMN=VALUE"
            )
        gallery_MD = np.stack([vectors[index] for index in gallery])
        rows = []
        for index in is_query:
            uid = samples[index].uid
            nearest = np.argsort(-(gallery_MD @ vectors[index]), kind="stable")[:DEEP]
            others = [samples[gallery[at]].uid for at in nearest if samples[gallery[at]].uid != uid]
            hits = [category_of[other] == category_of[uid] for other in others]
            rows.append(
                {"query": uid, "group": category_of[uid], "relevant": count[category_of[uid]], "hits": hits, "top": others}
            )
        return with_facts(
            pa.Table.from_pylist(rows),
            options=asdict(self),
            gallery=len(gallery),
            queries_without_match=sum(asks) - len(is_query),
            incomplete=len(items) - len(whole),
            unreadable=[asdict(one) for one in bad],
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        groups = records.column("group").to_pylist()
        value_NM = np.stack([self._values(records, k) for k in self.ks], 1)
        drawn_RM = resampled_means(value_NM, groups, draws=self.draws, seed=self.seed)
        metrics = {
            f"map@{k}": Metric(float(value_NM[:, at].mean()), *percentiles(drawn_RM[:, at])) for at, k in enumerate(self.ks)
        }
        notes = {
            **facts_of(records),
            "ties": "first in the data",
            "interval": f"95 % percentile, {self.draws} draws of categories",
        }
        return Result(self.name, self.version, self.main, metrics, len(groups), len(set(groups)), notes=notes)

    @classmethod
    def item_values(cls, records: pa.Table, metric: str) -> Floats | None:
        """Values [N, 1] of a metric by query."""
        head, _, k = metric.partition("@")
        return cls._values(records, int(k))[:, None] if head == "map" and k.isdigit() else None

    @staticmethod
    def _values(records: pa.Table, k: int) -> Floats:
        lists = zip(records.column("hits").to_pylist(), records.column("relevant").to_pylist(), strict=True)
        return np.array([average_precision(hits[: min(k, relevant)]) for hits, relevant in lists])

    def _category(self, sample: Sample) -> str:
        return next((value for column in self.category if (value := value_of(sample, column)) is not None), "")

    def _text(self, sample: Sample) -> str:
        return next((text.string for text in sample.positives(self.language)), "")

    def _asks(self, sample: Sample) -> bool:
        column, _, value = self.queries.partition("=")
        return not self.queries or value_of(sample, column.strip()) == value.strip()


def average_precision(hits: Sequence[bool]) -> float:
    """Average precision over the hits; 0 without any.

    >>> average_precision([True, False, True]), average_precision([False])
    (0.8333333333333333, 0.0)
    """
    counted, total = 0, 0.0
    for rank, hit in enumerate(hits, 1):
        if hit:
            counted += 1
            total += counted / rank
    return total / counted if counted else 0.0
