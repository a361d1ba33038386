"""Image-text retrieval in both directions.  Protocol `retrieval`, version 1.

A text query is a hit at K if a relevant image is among the first K. An image query is a hit at K if *at least one* of its texts
is (the convention of the Flickr30k and COCO tables, not the fraction of its captions that are retrieved).
Items of the same group (several images of one concept) are relevant, or only the sample itself if groups do not repeat. The unit
of the intervals is the group, in both directions.

Ties are counted and resolved by `ties`; under `expected` a tied block gets its mean over random orders, so a constant model
scores chance, not 0 or 1. Duplicate texts with the same answer are one gallery item. Texts beyond the model's context and
duplicate texts with different answers are counted in the notes.

Where others differ: `clip-benchmark` breaks ties in the order of torch.topk; repeating images once per caption in the gallery
changes every metric; ranking in half precision creates spurious ties.

Letters: N queries, M gallery items, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder, PairScorer
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.result import Metric, Result
from diptych.core.sample import ORIGINS, Sample
from diptych.data.media.decode import decode
from diptych.index.embed import (
    ImageEmbeddingBlock,
    UnreadableSample,
    count_truncated,
    embed_texts,
    embedded_images,
    images_of,
    readable,
)
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means, resampled_medians
from diptych.tasks._scoring.pair_scores import compared_by, pair_scores
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of, recorded_ties, with_facts

DIRECTIONS = {"text_to_image": "t2i", "image_to_text": "i2t"}
WANTED = "samples with images and texts"


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Recall at K both ways, mean reciprocal rank, median rank, with intervals over groups.

    language         language of the texts; texts of unknown language are included; "" uses all
    origins          origins of the texts ("label", "caption", "tags", ...); empty uses all except negatives
    texts_per_image  number of texts per sample, the first ones (5 for COCO and Flickr30k); 0 uses all
    relevant         relevant items have the same "group" or the same "uid"; "auto" is "group" if groups repeat
    compare          "vectors": cosine; "pairs": scores of pairs (late interaction, fusion models), which are all in memory at once, images
                     by texts; "auto": "pairs" for models that have such scores
    ties             credit of tied scores: expected | pessimistic | optimistic | index (lower gallery row first)
    """

    name: ClassVar[str] = "retrieval"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Embedder | PairScorer
    main: ClassVar[str] = "r@1"

    language: str = "en"
    origins: tuple[str, ...] = ()
    texts_per_image: int = 0
    relevant: Literal["auto", "group", "uid"] = "auto"
    compare: Literal["auto", "vectors", "pairs"] = "auto"
    ks: tuple[int, ...] = (1, 5, 10)
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        if unknown := [origin for origin in self.origins if origin not in ORIGINS]:
            raise ConfigError(f"origins holds {unknown[0]!r} (expected {' | '.join(ORIGINS)})")
        if self.relevant not in ("auto", "group", "uid"):
            raise ConfigError(f"relevant is {self.relevant!r} (expected auto | group | uid)")
        if self.compare not in ("auto", "vectors", "pairs"):
            raise ConfigError(f"compare is {self.compare!r} (expected auto | vectors | pairs)")
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks is {self.ks} (expected whole numbers from 1)")

    def predict(self, model: Any, data: Dataset) -> pa.Table:
        """Returns one row per query, texts first. A model without vectors (ViLT) is compared by pairs."""
        compare = compared_by(model, self.compare)
        if compare == "vectors" and not isinstance(model, Embedder):
            raise ConfigError(f"'{getattr(model, 'name', model)}' has no vectors (expected compare 'pairs')")
        # An embedder is called even if pair scores decide: only it can tell which items are readable (clips are not decoded).
        embeds = isinstance(model, Embedder)
        read = embedded_images(model, data, batch_size=self.batch_size, wanted=WANTED) if embeds else _decodable(data)
        return self.records(model, read, data.name, compare=compare)

    def records(self, model: Any, read: ImageEmbeddingBlock, name: str, *, compare: str = "vectors") -> pa.Table:
        """Records of precomputed embeddings, one row per query, texts first; `name` is that of their data."""
        items = _collect(self, read, name)
        image_key, text_key = items.keys(items.image_answer), items.keys(items.text_answer)
        if compare == "pairs":
            by_text_NM = pair_scores(model, items.images, items.strings, query="text")
            by_image_NM = pair_scores(model, items.images, items.strings, query="image")
            t2i = rk.rank(by_text_NM.T, rk.given_scores, text_key, image_key)
            i2t = rk.rank(by_image_NM, rk.given_scores, image_key, text_key)
        else:
            text_ND = embed_texts(model, items.strings, items.text_uids)
            t2i = rk.rank(text_ND, rk.cosine(items.image_ND), text_key, image_key)
            i2t = rk.rank(items.image_ND, rk.cosine(text_ND), image_key, text_key)
        table = pa.concat_tables(
            [
                _rows("text_to_image", t2i, items.text_uids, items.strings, items.text_groups, items.image_uids),
                _rows("image_to_text", i2t, items.image_uids, [""] * len(items.image_uids), items.image_groups, items.strings),
            ]
        )
        unanswered = int((array(table, "relevant") == 0).sum())
        return with_facts(
            table.filter(pc.greater(table["relevant"], 0)),
            options=asdict(self),
            compare=compare,
            relevant=items.relevant,
            images=len(items.image_uids),
            texts=len(items.strings),
            images_without_text=unanswered,
            texts_merged=items.merged,
            texts_with_several_answers=items.ambiguous,
            texts_truncated=count_truncated(model, items.strings),
            unreadable=[asdict(u) for u in items.unreadable],
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers. Each draw resamples groups over both directions
        at once."""
        direction, groups = array(records, "direction"), records.column("group").to_pylist()
        if not len(direction):
            raise DataError("nothing to score: the records contain no query", expected="one row or more")
        columns: dict[str, Floats] = {}
        chance: dict[str, float] = {}
        ranks: dict[str, Floats] = {}
        touched = np.zeros(len(direction), bool)
        for long, short in DIRECTIONS.items():
            rows = np.flatnonzero(direction == long)
            count = _Counts(records, rows)
            for k in self.ks:
                columns[f"{short}_r@{k}"] = _values_at_rows(
                    rk.hits(*count.block, k, self.ties, count.by_index), rows, len(direction)
                )
                chance[f"{short}_r@{k}"] = float(rk.chance_hits(count.gallery, count.relevant, k).mean())
                touched[rows] |= count.decided_by_tie(k)
            reciprocal = rk.reciprocal_ranks(*count.block, self.ties, count.by_index)
            columns[f"{short}_mrr"] = _values_at_rows(reciprocal, rows, len(direction))
            chance[f"{short}_mrr"] = rk.chance_reciprocal(count.gallery, count.relevant)
            ranks[f"{short}_medr"] = _values_at_rows(rk.ranks(*count.block, self.ties, count.by_index), rows, len(direction))
            chance[f"{short}_medr"] = rk.chance_median(count.gallery, count.relevant)
        metrics = self._metrics(columns, ranks, chance, groups)
        notes = {
            **facts_of(records),
            "ties": self.ties,
            "share_tied": float(touched.mean()),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(direction), len(set(groups)), notes=notes)

    def _metrics(
        self, columns: dict[str, Floats], ranks: dict[str, Floats], chance: dict[str, float], groups: Sequence[str]
    ) -> dict[str, Metric]:
        names = list(columns)
        value_NM = np.stack([columns[name] for name in names], axis=1)
        drawn_RM = resampled_means(value_NM, groups, draws=self.draws, seed=self.seed)
        drawn = {name: drawn_RM[:, column] for column, name in enumerate(names)}
        value = {name: float(np.nanmean(columns[name])) for name in names}
        tables: tuple[dict[str, Any], ...] = (value, chance, drawn)
        for table in tables:
            for k in self.ks:
                table[f"r@{k}"] = (table[f"i2t_r@{k}"] + table[f"t2i_r@{k}"]) / 2
            table["rsum"] = 200 * sum(table[f"r@{k}"] for k in self.ks)
        for name, rank_N in ranks.items():
            value[name] = float(np.nanmedian(rank_N))
            drawn[name] = resampled_medians(rank_N, groups, draws=self.draws, seed=self.seed)
        items = {f"{short}_": int(np.isfinite(rank_N).sum()) for short, rank_N in ((n[:3], r) for n, r in ranks.items())}
        kinds = [*(f"r@{k}" for k in self.ks), "mrr", "medr"]
        order = [*kinds[:-2], "rsum", *(f"{short}_{kind}" for short in DIRECTIONS.values() for kind in kinds)]
        return {
            name: Metric(
                value[name],
                *percentiles(drawn[name]),
                chance=chance[name],
                higher_is_better=name not in ranks,
                unit="rank" if name in ranks else "points" if name == "rsum" else "share",
                items=items.get(name[:4], 0),
            )
            for name in order
        }

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """[N, 2] for "r@K", [N, 1] for "i2t_r@K" and "t2i_r@K": hits under the tie policy that was recorded, NaN in the other direction."""
        short, _, rest = metric.rpartition("_")
        if not rest.startswith("r@") or not rest[2:].isdigit() or short not in ("", *DIRECTIONS.values()):
            return None
        count = _Counts(records, np.arange(len(records)))
        hit_N = rk.hits(*count.block, int(rest[2:]), recorded_ties(records), count.by_index)
        direction_N = array(records, "direction")
        chosen = [long for long, name in DIRECTIONS.items() if short in ("", name)]
        return np.stack([np.where(direction_N == long, hit_N, np.nan) for long in chosen], axis=1)


@dataclass(slots=True)
class _QueriesAndGallery:
    """Queries and gallery of retrieval. `answer` is an item's relevance key: its group or its uid."""

    image_uids: list[str]
    image_groups: list[str]
    image_answer: list[str]
    image_ND: npt.NDArray[np.float32]
    images: list[ImageSource]
    text_uids: list[str]
    text_groups: list[str]
    text_answer: list[str]
    strings: list[str]
    relevant: str
    merged: int
    ambiguous: int
    unreadable: list[UnreadableSample]

    def keys(self, answers: Sequence[str]) -> rk.Ints:
        code_of = {answer: code for code, answer in enumerate(dict.fromkeys([*self.image_answer, *self.text_answer]))}
        return np.array([code_of[answer] for answer in answers], np.int64)


class _Counts:
    """Rank statistics of some rows of the records."""

    def __init__(self, records: pa.Table, rows: npt.NDArray[np.intp]) -> None:
        part = records.take(pa.array(rows))
        above, tied, tied_relevant, relevant, gallery, by_index = (
            array(part, name).astype(np.int64)
            for name in ("above", "tied", "tied_relevant", "relevant", "gallery", "rank_by_index")
        )
        self.block = (above, tied, tied_relevant)
        self.relevant, self.gallery, self.by_index = relevant, gallery, by_index

    def decided_by_tie(self, k: int) -> npt.NDArray[np.bool_]:
        above, tied, tied_relevant = self.block
        decided: npt.NDArray[np.bool_] = (above < k) & (k - above <= tied - tied_relevant)
        return decided


def _collect(task: Retrieval, read: ImageEmbeddingBlock, name: str) -> _QueriesAndGallery:
    samples = read.samples
    own_group = [sample.group or sample.uid for sample in samples]
    repeats = len(set(own_group)) < len(own_group)
    relevant = ("group" if repeats else "uid") if task.relevant == "auto" else task.relevant
    answers = own_group if relevant == "group" else [sample.uid for sample in samples]
    chosen: dict[tuple[str, str], tuple[str, str]] = {}
    total = 0
    for sample, group, answer in zip(samples, own_group, answers, strict=True):
        for string in _strings(task, sample):
            total += 1
            chosen.setdefault((answer, string), (sample.uid, group))
    if not chosen:
        raise DataError(
            f"no text of '{name}' is left for language {task.language!r} and origins {task.origins or 'any'}",
            field="texts",
            expected='another language ("" for all) or origins',
        )
    answers_of = Counter(string for _, string in chosen)
    return _QueriesAndGallery(
        image_uids=[sample.uid for sample in samples],
        image_groups=own_group,
        image_answer=answers,
        image_ND=read.vectors_ND,
        images=images_of(samples),
        text_uids=[uid for uid, _ in chosen.values()],
        text_groups=[group for _, group in chosen.values()],
        text_answer=[answer for answer, _ in chosen],
        strings=[string for _, string in chosen],
        relevant=relevant,
        merged=total - len(chosen),
        ambiguous=sum(answers_of[string] > 1 for _, string in chosen),
        unreadable=list(read.unreadable),
    )


def _decodable(data: Dataset) -> ImageEmbeddingBlock:
    """Every sample whose image can be decoded, without vectors: for models that only score pairs."""

    def shapes(samples: Sequence[Sample]) -> list[tuple[int, ...]]:
        return [decode(image).shape for image in images_of(samples)]

    blocks = [readable(shapes, [sample]) for row in range(len(data)) if (sample := data[row]).image is not None]
    samples = tuple(sample for good, _, _ in blocks for sample in good)
    if not samples:
        raise DataError(f"'{data.name}' has no image{' that can be read' * bool(blocks)}", field="image", expected=WANTED)
    return ImageEmbeddingBlock(samples, np.zeros((0, 1), np.float32), tuple(one for _, _, bad in blocks for one in bad))


def _strings(task: Retrieval, sample: Sample) -> list[str]:
    texts = [text.string for text in sample.positives(task.language) if not task.origins or text.origin in task.origins]
    return texts[: task.texts_per_image] if task.texts_per_image else texts


def _rows(
    direction: str, ranks: rk.Ranks, uids: list[str], texts: list[str], groups: list[str], gallery: Sequence[str]
) -> pa.Table:
    mean_rank = rk.ranks(ranks.above, ranks.tied, ranks.tied_relevant, "expected", ranks.by_index)
    return pa.table(
        {
            "query": uids,
            "direction": [direction] * len(uids),
            "text": texts,
            "group": groups,
            "above": ranks.above,
            "tied": ranks.tied,
            "tied_relevant": ranks.tied_relevant,
            "relevant": ranks.relevant,
            "gallery": np.full(len(uids), ranks.gallery, np.int64),
            "rank_by_index": ranks.by_index,
            "rank_expected": mean_rank,
            "score": ranks.best,
            "top": [[gallery[item] for item in row] for row in ranks.top_NK],
            "top_score": ranks.top_score_NK.tolist(),
        },
        schema=_SCHEMA,
    )


def _values_at_rows(value: Floats, rows: npt.NDArray[np.intp], count: int) -> Floats:
    """The values at their rows, NaN elsewhere."""
    column = np.full(count, np.nan)
    column[rows] = value
    return column


_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("query", "direction", "text", "group")]
    + [(name, pa.int64()) for name in ("above", "tied", "tied_relevant", "relevant", "gallery", "rank_by_index")]
    + [("rank_expected", pa.float64()), ("score", pa.float64())]
    + [("top", pa.list_(pa.string())), ("top_score", pa.list_(pa.float64()))]
)
