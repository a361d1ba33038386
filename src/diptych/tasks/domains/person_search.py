"""Text-to-image person re-identification: a description queries all pictures of one person.  Protocol `person_search`, version 1.

Every caption is a query and all images are the gallery; images of the same identity (`group`) are relevant, including the image
that the caption describes. `cmc@K` is the fraction of queries with a match among the first K (often called R@K), `map` the mean
average precision, `minp` the mean of (number of matches) / (rank of the last match). Similarities are cosines, without camera
filter or re-ranking. The unit of the intervals is the identity.

With `asks="pictures"` every image is a query and all captions are the gallery; IRRA's evaluator reports both directions.

Queries whose identity is not in the gallery are left out and counted: they crash some published code and score 0 in other
(PLIP's released test, which also uses trapezoids for the precisions of `map`: `map_trapezoid`). Ties are averaged over random
orders, so a constant model scores chance.

Letters: N queries, M items of the gallery, D width.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.index.embed import count_truncated, embed_texts, embedded_images
from diptych.tasks._scoring.intervals import Floats
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.identity_lists import list_metrics, list_values
from diptych.tasks._scoring.ranking.ranked_lists import RankedList
from diptych.tasks._scoring.records import array, facts_of, with_facts


@dataclass(frozen=True, slots=True)
class PersonSearch:
    """Text-to-image re-identification: mAP, mINP and CMC at rank K.

    asks       queries: "texts", against pictures, or "pictures", against texts
    language   captions of this language or of an unknown one; "" takes all
    texts_per_image  number of captions per picture, the first ones; 0 uses all
    trapezoid  also report `map_trapezoid`
    """

    name: ClassVar[str] = "person_search"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "cmc@1"

    asks: Literal["texts", "pictures"] = "texts"
    language: str = "en"
    texts_per_image: int = 0
    trapezoid: bool = False
    ks: tuple[int, ...] = (1, 5, 10)
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks is {self.ks} (expected whole numbers from 1)")
        if self.asks not in ("texts", "pictures"):
            raise ConfigError(f"asks is {self.asks!r} (expected texts | pictures)")

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per query."""
        shown = embedded_images(model, data, batch_size=self.batch_size, wanted="samples with pictures and captions")
        samples = shown.samples
        descriptions = [(data[row], text) for row in range(len(data)) for text in self._captions(data[row])]
        if not descriptions:
            raise DataError(
                f"no caption of '{data.name}' is left for language {self.language!r}",
                field="texts",
                expected='another language ("" for all)',
            )
        pictures = [_Item(sample.uid, sample.group or sample.uid, "") for sample in samples]
        texts = [_Item(sample.uid, sample.group or sample.uid, text) for sample, text in descriptions]
        queries, gallery = (texts, pictures) if self.asks == "texts" else (pictures, texts)
        code = {group: at for at, group in enumerate(dict.fromkeys(item.group for item in gallery))}
        there = np.array([at for at, item in enumerate(queries) if item.group in code], np.int64)
        if not len(there):
            missing = "picture" if self.asks == "texts" else "caption"
            raise DataError(
                f"no queried identity has a {missing} in '{data.name}'",
                field="group",
                expected=f"{missing}s of those persons",
            )
        left_out = len(queries) - len(there)
        shown_texts = [texts[at] for at in there] if self.asks == "texts" else texts
        text_ND = embed_texts(model, [item.text for item in shown_texts], [item.uid for item in shown_texts])
        queries = [queries[at] for at in there]
        if self.asks == "texts":
            query_ND, scorer = text_ND, rk.cosine(shown.vectors_ND)
        else:
            query_ND, scorer = shown.vectors_ND[there], rk.cosine(text_ND)
        key_N, key_M = (np.array([code[item.group] for item in side], np.int64) for side in (queries, gallery))
        ranks = rk.rank(query_ND, scorer, key_N, key_M)
        lists = [RankedList.of(score_M, key_M == key) for score_M, key in _score_queries(query_ND, scorer, key_N, len(key_M))]
        table = pa.table(
            {
                "query": [item.uid for item in queries],
                "text": [item.text for item in queries],
                "group": [item.group for item in queries],
                "above": ranks.above,
                "tied": ranks.tied,
                "tied_relevant": ranks.tied_relevant,
                "relevant": ranks.relevant,
                "gallery": np.full(len(queries), ranks.gallery, np.int64),
                "rank_by_index": ranks.by_index,
                "blocks": [[list(block) for block in ranked.blocks] for ranked in lists],
                "top": [[gallery[at].text or gallery[at].uid for at in row] for row in ranks.top_NK],
                "top_score": ranks.top_score_NK.tolist(),
            }
        )
        return with_facts(
            table,
            options=asdict(self),
            images=len(samples),
            identities=len(code),
            queries_without_match=left_out,
            texts_truncated=count_truncated(model, [item.text for item in shown_texts]),
            unreadable=[asdict(one) for one in shown.unreadable],
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        metrics = list_metrics(records, self.ks, draws=self.draws, seed=self.seed, trapezoid=self.trapezoid)
        groups = records.column("group").to_pylist()
        tied, tied_relevant = (array(records, name).astype(np.int64) for name in ("tied", "tied_relevant"))
        notes = {
            **facts_of(records),
            "ties": "expected",
            "share_tied": float((tied > tied_relevant).mean()),
            "interval": f"95 % percentile, {self.draws} draws of identities, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(groups), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """Values [N, 1] of a metric by query."""
        return list_values(records, metric)

    def _captions(self, sample: Sample) -> list[str]:
        texts = [text.string for text in sample.positives(self.language)]
        return texts[: self.texts_per_image] if self.texts_per_image else texts


@dataclass(frozen=True, slots=True)
class _Item:
    """An image, or a caption with its text."""

    uid: str
    group: str
    text: str


def _score_queries(text_ND: Any, scorer: rk.Scorer, key_N: rk.Ints, gallery: int) -> Any:
    """Scores of each query, computed block by block and rounded as for ranks."""
    size = max(1, rk.CELLS // max(gallery, 1))
    for start in range(0, len(key_N), size):
        yield from zip(scorer(text_ND[start : start + size]).astype(np.float32), key_N[start : start + size], strict=True)
