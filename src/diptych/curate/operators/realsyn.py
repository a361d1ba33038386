"""RealSyn: builds image-text pairs from documents (Gu et al., 2025, 2502.12513). Drops sentence rows and unpaired images.

The pool holds images and sentences as separate, unpaired rows (`data.read.documents`: a folder of HTML or Markdown).

1. Extraction: images with an aspect ratio above 3 or a side below 100 pixels are dropped; URLs and emoji are removed from
sentences, which are filtered by length and entropy (optionally also by complexity, action verb and perplexity). Duplicate
sentences, and optionally near-duplicates (`alike`), are removed. For the published image deduplication run `near_duplicates` and
`semantic_duplicates` first.
2. Hierarchical retrieval: sentences are clustered; an image searches the clusters of its `probes` nearest centres and takes the
`top` nearest sentences, from any document.
3. Synthetic text: caption (the alternative text, or a captioner's), labels of regions as tags, and the best sentence are merged by a
writer.
4. Semantic balance: images with their best sentence are clustered, and each cluster keeps at most `cap`; `target` solves for the
cap.

Columns: ``text_variants``, the sentences of each image (origin "caption", with their rows as source) and the synthetic text
(origin "synthetic"); ``text_similarity`` of every text, which training may use as sampling weight. Train any pair recipe on OUT:
each step draws one of the texts. The alt text of an image remains among them; the published data have only the sentences and the
synthetic text (`--text-policy weighted --text-weights alt=0`). File: realsyn.json.

Differences: the published parser for complexity and action verbs is unknown, so both are rule-based (`sentence_filters`), on in
`paper()` and off by default; perplexity is that of an n-gram model of these sentences, on a different scale from the published
bounds (30 to 200), and also off by default. The published threshold for near-duplicate sentences is unknown. All filters are for
English. Cost: one embedding per image and sentence, one text of the writer per image, and clusters: M^1.5 dot products an iteration for
the square root of M sentences, N^2 for a twentieth of N images (`cap`, `target`), and linear above `tree_above` of them, by hierarchical
k-means. Memory: the embeddings of all images and sentences, and Arrow columns of texts; `perplexity` also counts all their n-grams.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset, Generator
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.cluster_tree import ClusterTree, neighbours_in_clusters
from diptych.curate.duplicates.clusters import greedy_duplicates, kmeans_centres, nearest_centres
from diptych.curate.duplicates.result import NearPairs
from diptych.curate.duplicates.retrieval import cap_clusters, cap_for, hierarchical
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.images import first_equal
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import Faults, Ints, OrderedRows
from diptych.curate.engine.verdicts import ColumnByUid, StringColumn, made_column, selected, string_column
from diptych.curate.experts.findings import Finding
from diptych.curate.text.ngram import NGram
from diptych.curate.text.sentence_filters import SentenceRules, strip_addresses
from diptych.curate.writing import fusing
from diptych.curate.writing.backend_address import Corpus
from diptych.curate.writing.requests import TextBackend, TextRequest
from diptych.curate.writing.step import GeneratedTexts, RowRequest, WritingStep
from diptych.data.media.decode import decode
from diptych.data.ragged import one_chunk
from diptych.data.text.captions.variants import SIMILARITY, VARIANT, VARIANTS
from diptych.index.embed import embed_text_column, text_blocks
from diptych.models.io.open_address import open_address, require

RULES = "grammar"
PERPLEXITY_ORDER = 3
CAPTIONS_AT_ONCE = 32
TREE_SENTENCES, TREE_PAIRS = 500, 40  # of a cluster, at most, above `tree_above` of them
TEXTS_AT_ONCE = 4_096  # pictures whose texts are Python objects at a time


@dataclass(frozen=True, kw_only=True)
class RealSyn(WritingStep):
    """model        address of a model that embeds images and texts
    top          number of sentences per picture (published 3)
    probes       number of clusters searched per picture; if it equals their number the search is exact (published 1, by its figure)
    sentence_clusters  number of clusters of sentences (published 2 million for 840 million); 0: the square root of their number
    max_cluster_size  maximum number of sentences of a cluster, which are then those of hierarchical k-means, also for `alike`; 0 off
    tree_above   number of sentences (for `cap` and `target` of pictures) above which clusters whose number or size is not given are those
                 of hierarchical k-means, of at most 500 sentences (40 pictures); 0 never
    short_side   minimum short side of a picture in pixels
    aspect       maximum ratio of long to short side
    min_words    minimum number of words of a sentence
    max_words    maximum number of words of a sentence
    entropy      minimum entropy of the words of a sentence in nats
    perplexity   (minimum, maximum) by an n-gram model of all sentences; (0, 0) off
    complexity   minimum number of attributes and relations of one object of a sentence; 0 off
    action       a sentence must have an action verb
    alike        minimum cosine of the model's embeddings to a kept sentence at which a sentence is dropped; 0 off
    captioner    address of a captioning model; "" uses the alternative text
    synthetic    write a synthetic text
    balance_clusters  number of clusters of pairs (published 1 million); 0: a twentieth of the number of pictures
    cap          maximum number of pairs per cluster (published 20, 35, 180); 0 keeps all
    target       maximum number of pictures to keep, by the largest `cap` that gives it; 0 uses `cap`
    """

    slug: ClassVar[str] = "realsyn"

    model: str = ""
    top: int = 3
    probes: int = 4
    sentence_clusters: int = 0
    max_cluster_size: int = 0
    tree_above: int = 100_000
    short_side: int = 100
    aspect: float = 3.0
    min_words: int = 3
    max_words: int = 81
    entropy: float = 0.3
    perplexity: tuple[float, float] = (0.0, 0.0)
    complexity: int = 0
    action: bool = False
    alike: float = 0.0
    captioner: str = ""
    synthetic: bool = True
    balance_clusters: int = 0
    cap: int = 0
    target: int = 0

    def __post_init__(self) -> None:
        sizes = (self.sentence_clusters, self.max_cluster_size, self.tree_above, self.balance_clusters)
        counts = (*sizes, self.cap, self.target, self.short_side)
        if self.sentence_clusters and self.max_cluster_size:
            raise ConfigError(
                f"sentence_clusters is {self.sentence_clusters} and max_cluster_size {self.max_cluster_size} (expected one of them)"
            )
        if self.top < 1 or self.probes < 1 or min(counts) < 0 or self.aspect < 1:
            raise ConfigError(
                f"top {self.top}, probes {self.probes}, clusters, tree_above, cap, target and short_side {counts}, aspect {self.aspect} "
                "(expected 1 or more, 1 or more, 0 or more each, 1 or more)"
            )
        if not 0 <= self.alike <= 1:
            raise ConfigError(f"alike is {self.alike} (expected 0..1)")
        self.rules()

    @classmethod
    def paper(cls) -> Self:
        """The smallest released scale: three sentences of the nearest of two million clusters, at most 20 pairs of each of a million
        clusters, or as many clusters as there are sentences or pictures, if fewer. Name the models and the writer."""
        return cls(
            writer="folder:llama-3",
            probes=1,
            sentence_clusters=2_000_000,
            balance_clusters=1_000_000,
            cap=20,
            perplexity=(30.0, 200.0),
            complexity=1,
            action=True,
            alike=0.95,
        )

    def rules(self) -> SentenceRules:
        """Rules for retrieved sentences, from the options."""
        return SentenceRules(self.min_words, self.max_words, self.entropy, self.perplexity, self.complexity, self.action)

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = self._model()
        pictures = np.flatnonzero(np.fromiter((data[row].image is not None for row in range(len(data))), bool, len(data)))
        seen = estimate_cost(selected(data, pictures), lambda image: model.embed_images([image]), unit="embedding of a picture")
        if not self.synthetic:
            return seen
        best = next((text.string for row in range(len(data)) if data[row].image is None for text in data[row].texts), "")
        tried = pictures[:: max(1, len(pictures) // 24)].tolist()
        requests = [self._request(data[row], best, "sentence", "") for row in tried]
        text = self.planned(requests, len(pictures), self._writer(lambda: [best]))
        return {**text, "embedding_seconds": seen["seconds"], "seconds": seen["seconds"] + text.get("seconds", 0.0)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings and texts that an earlier run finished."""
        start = time.perf_counter()
        model = self._model()
        rows = OrderedRows.of(data)
        faults = Faults(len(rows))
        there_N = rows.with_image()
        at_M, strings = self._sentences(rows, np.flatnonzero(~there_N), faults)
        self._judge_pictures(rows, np.flatnonzero(there_N), faults)
        pictures = np.flatnonzero(there_N & faults.stays())
        if not len(pictures) or not len(strings):
            raise DataError(
                f"'{data.name}' has {len(pictures):,} pictures and {len(strings):,} sentences that can be used",
                field="image, texts",
                expected="both: a folder of HTML or Markdown documents with local pictures, or other --short-side, --min-words",
            )
        seen = embed_pool(rows.selected(pictures), model, parts)
        bad = seen.unreadable.table
        faults.set_each(rows.positions(bad["uid"]), (f"unreadable: {reason}" for reason in StringColumn(bad["reason"])))
        row_MD = embed_text_column(model, strings, lambda row: str(rows.uids[int(at_M[row])]))
        if self.alike:
            repeated = self._repeated(row_MD)
            originals = StringColumn(rows.uids.take(pa.array(at_M[repeated.kept()])))
            alike = zip(repeated.alike(), originals, strict=True)
            faults.set_each(at_M[repeated.gone()], (f"alike: cosine {cosine:.3f} with {uid}" for cosine, uid in alike))
            left_M = np.isin(np.arange(len(at_M)), repeated.gone(), invert=True)
            at_M, strings, row_MD = at_M[left_M], strings.filter(pa.array(left_M)), row_MD[left_M]
        place_NT, cosine_NT = self._retrieved(seen, row_MD)
        stays_N, cap = self._balanced(seen, row_MD, place_NT)
        del row_MD
        at_N = rows.positions(seen.uids)
        faults.set(at_N[~stays_N], f"balance: its cluster keeps {cap:,} pairs")
        faults.set(at_N[place_NT[:, 0] < 0], "no_sentence: none near")
        kept_K = np.flatnonzero(faults.stays()[at_N])
        pairs = RetrievedPairs(rows, seen, kept_K, at_N[kept_K], at_M, strings, place_NT[kept_K], cosine_NT[kept_K])
        done = self._synthetic(pairs, parts) if self.synthetic and len(kept_K) else None
        columns = self._columns(pairs, done, model)
        facts = {"pictures": len(kept_K), "sentences": len(strings), "left": faults.kinds(), "cap": cap}
        facts |= {"writing": done.counts()} if done else {}
        files = {"realsyn.json": (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()}
        kept, drops = faults.verdicts(self.slug, rows.uids)
        note = f"{len(kept_K):,} pictures with sentences out of {len(strings):,}"
        return CurationStepResult(
            kept, drops, columns, time.perf_counter() - start, files, (note, *(done.notes() if done else ()))
        )

    def _model(self) -> Any:
        if not self.model:
            raise ConfigError("realsyn needs a model that embeds images and texts (--model MODEL)")
        return open_embedder(self.model)

    def _sentences(self, rows: OrderedRows, at_S: Ints, faults: Faults) -> tuple[Ints, pa.Array]:
        """Positions [M] and strings of the cleaned, unique sentences; and the drop reasons of the sentence rows (all are dropped)."""
        rules = self.rules()
        cleaned = (strip_addresses(" ".join(text.string for text in sample.positives())) for sample in rows.samples(at_S))
        raw = one_chunk(made_column(cleaned, pa.large_string()))
        model = NGram.learned(StringColumn(raw), PERPLEXITY_ORDER) if rules.perplexity[1] and len(raw) else None
        judged = (rules.fault(text, model) for text in StringColumn(raw))
        broken = one_chunk(string_column(with_bar(judged, len(raw), "reading sentences", least=10_000)))
        faults.set_each(at_S, (fault or "sentence: retrieved from, and no picture" for fault in StringColumn(broken)))
        good = pc.equal(broken, "")
        at_M, strings = at_S[good.to_numpy(zero_copy_only=False)], raw.filter(good)
        first_M = first_equal(made_column((text.casefold() for text in StringColumn(strings)), pa.large_string()))
        again_M = first_M != np.arange(len(first_M))
        originals = StringColumn(rows.uids.take(pa.array(at_M[first_M[again_M]])))
        faults.set_each(at_M[again_M], (f"same sentence: as {uid}" for uid in originals))
        return at_M[~again_M], strings.filter(pa.array(~again_M))

    def _judge_pictures(self, rows: OrderedRows, at_P: Ints, faults: Faults) -> None:
        """Drop pictures that cannot be read, or of a size or aspect that is not wanted."""
        samples = with_bar(rows.samples(at_P), len(at_P), "looking at pictures", least=100)
        for position, sample in zip(at_P.tolist(), samples, strict=True):
            if sample.image is not None and (fault := self._size_fault(sample.image)):
                faults.set(position, fault)

    def _size_fault(self, image: ImageSource) -> str:
        try:
            height, width = decode(image).shape[:2]
        except (DecodeError, OSError) as error:
            return f"unreadable: {error}"
        short, long = sorted((height, width))
        if short < self.short_side:
            return f"short_side: {short} pixels (expected at least {self.short_side})"
        return f"aspect: {long / short:.2f} (expected at most {self.aspect:g})" if long > self.aspect * short else ""

    def _repeated(self, row_MD: npt.NDArray[Any]) -> NearPairs:
        """Near-duplicate sentences: dropped -> (kept, cosine). Each is compared, in order, with sentences of its two nearest
        clusters."""
        if size := self._tree_size(len(row_MD)):
            near_NP = ClusterTree.fitted(row_MD, size, seed=self.seed).nearest(row_MD, 2)
        else:
            centre_KD = kmeans_centres(row_MD, max(1, math.isqrt(len(row_MD))), seed=self.seed)
            near_NP = nearest_centres(row_MD, centre_KD, min(2, len(centre_KD)))
        return greedy_duplicates(row_MD, range(len(row_MD)), self.alike, near_NP=near_NP)

    def _tree_size(self, count: int) -> int:
        """Maximum size of a cluster of hierarchical k-means over so many sentences; 0: k-means."""
        return self.max_cluster_size or (TREE_SENTENCES if 0 < self.tree_above < count else 0)

    def _retrieved(self, seen: ImageEmbeddings, row_MD: npt.NDArray[Any]) -> tuple[Ints, npt.NDArray[np.float64]]:
        if size := 0 if self.sentence_clusters else self._tree_size(len(row_MD)):
            tree = ClusterTree.fitted(row_MD, size, seed=self.seed)
            index_NT, cosine_NT = neighbours_in_clusters(seen.vector_ND, row_MD, tree, probes=self.probes, top=self.top)
            return index_NT, cosine_NT.astype(np.float64)
        count = min(self.sentence_clusters or max(1, math.isqrt(len(row_MD))), len(row_MD))
        centre_KD = kmeans_centres(row_MD, count, seed=self.seed)
        label_M = nearest_centres(row_MD, centre_KD, 1)[:, 0]
        return hierarchical(seen.vector_ND, row_MD, label_M, centre_KD, probes=self.probes, top=self.top)

    def _balanced(
        self, seen: ImageEmbeddings, row_MD: npt.NDArray[Any], place_NT: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], int]:
        """Images to keep, and the cap per cluster (0: no cap)."""
        if not (self.cap or self.target) or not len(seen.uids):
            return np.ones(len(seen.uids), bool), 0
        pair_ND = seen.vector_ND + row_MD[place_NT[:, 0].clip(0)]
        pair_ND = (pair_ND / np.linalg.norm(pair_ND, axis=1, keepdims=True)).astype(np.float32)
        if not self.balance_clusters and 0 < self.tree_above < len(pair_ND):
            label_N = ClusterTree.fitted(pair_ND, TREE_PAIRS, seed=self.seed).label_N
        else:
            count = min(self.balance_clusters or max(1, len(pair_ND) // 20), len(pair_ND))
            label_N = nearest_centres(pair_ND, kmeans_centres(pair_ND, count, seed=self.seed), 1)[:, 0]
        cap = cap_for(label_N, self.target) if self.target else self.cap
        return cap_clusters(label_N, cap, seed=self.seed, names=seen.uids), cap

    def _writer(self, corpus: Corpus) -> TextBackend:
        return fusing.RuleFuser() if self.writer == RULES else self.backend(corpus)

    def _synthetic(self, pairs: RetrievedPairs, parts: PartStore) -> GeneratedTexts:
        uids = pairs.rows.uids.take(pa.array(pairs.at_K))
        table = pa.table({"row": pa.array(range(len(uids)), pa.int64()), "uid": uids})
        captions = self._captions(pairs, table, parts)

        def requests(part: pa.Table) -> Iterator[RowRequest]:
            for number in part["row"].to_pylist():
                source, sentence, _ = pairs.sentences(number)[0]
                caption = captions[number].as_py() if captions is not None else ""
                yield self._request(pairs.sample(number), sentence, source, caption)

        def read(request: RowRequest, raw: str) -> tuple[str, str]:
            text = raw.strip().split("\n", 1)[0].strip()
            return text, "" if text else "empty: nothing was written"

        def corpus() -> Iterator[str]:
            return (text for number in range(len(pairs)) for _, text, _ in pairs.sentences(number))

        return self.written(table, requests, self._writer(corpus), read, parts)

    def _request(self, sample: Sample, sentence: str, source: str, caption: str) -> RowRequest:
        tags = [Finding(label) for label in dict.fromkeys(region.label for region in sample.regions)]
        caption = caption or next((text.string for text in sample.positives()), "")
        merged = ". ".join(part.rstrip(".") for part in dict.fromkeys((caption, sentence)) if part)
        prompt = (
            "" if self.writer == RULES else fusing.fusion_prompt(merged, tags) if tags else fusing.merge_prompt(caption, sentence)
        )
        request = TextRequest(
            sample.uid,
            prompt,
            fusing.fuse_by_rules(merged, tags),
            style="merged",
            seed=keyed_seed(self.seed, "realsyn", sample.uid),
        )
        return RowRequest(sample.uid, 0, source, request)

    def _captions(self, pairs: RetrievedPairs, table: pa.Table, parts: PartStore) -> pa.ChunkedArray | None:
        """Captions of the kept pictures from the captioner; None without one."""
        if not self.captioner:
            return None
        model = open_address(self.captioner)
        require(model, Generator, who=f"realsyn with captioner {self.captioner}")

        def work(part: pa.Table) -> pa.Table:
            images = [pairs.sample(number).image for number in part["row"].to_pylist()]
            return pa.table({"uid": part["uid"], "caption": pa.array(model.generate(images, [""] * len(images)), pa.string())})

        made = PartStore(parts.folder, parts.key, CAPTIONS_AT_ONCE).mapped(table, f"captions-{model.fingerprint[:16]}", work)
        return made["caption"]

    def _columns(self, pairs: RetrievedPairs, done: GeneratedTexts | None, model: Any) -> dict[str, Any]:
        if not len(pairs):
            return {}
        blocks: list[pa.Array] = []
        counts, strings = [np.zeros(0, np.int64)], [pa.array([], pa.large_string())]
        for start in range(0, len(pairs), TEXTS_AT_ONCE):
            numbers = range(start, min(start + TEXTS_AT_ONCE, len(pairs)))
            written = done.rows.slice(start, len(numbers)).to_pylist() if done else [None] * len(numbers)
            samples = [pairs.sample(number) for number in numbers]
            lists = [
                self._variants(pairs, number, sample, row, done)
                for number, sample, row in zip(numbers, samples, written, strict=True)
            ]
            texts = [
                [*(text.string for text in sample.texts), *(one["string"] for one in some)]
                for sample, some in zip(samples, lists, strict=True)
            ]
            blocks.append(pa.array(lists, pa.list_(VARIANT)))
            counts.append(np.array([len(some) for some in texts], np.int64))
            strings.append(pa.array([text for some in texts for text in some], pa.large_string()))
        count_K = np.concatenate(counts)
        owner_R = np.repeat(np.arange(len(count_K)), count_K)
        uids = pairs.rows.uids.take(pa.array(pairs.at_K))
        cosine_R = np.zeros(len(owner_R))
        for row_B, number_B, vector_BD in text_blocks(model, pa.concat_arrays(strings), lambda row: str(uids[int(owner_R[row])])):
            for row, number in zip(row_B.tolist(), number_B.tolist(), strict=True):
                cosine_R[row] = float(pairs.seen.vector_ND[pairs.kept_K[owner_R[row]]] @ vector_BD[number])
        end_K = pa.array(np.concatenate([[0], np.cumsum(count_K)]), pa.int32())
        similarity = pa.table({"uid": uids, SIMILARITY: pa.ListArray.from_arrays(end_K, pa.array(cosine_R))})
        return {VARIANTS: pa.table({"uid": uids, VARIANTS: pa.chunked_array(blocks)}), SIMILARITY: ColumnByUid(similarity)}

    def _variants(
        self, pairs: RetrievedPairs, number: int, sample: Sample, written: dict[str, Any] | None, done: GeneratedTexts | None
    ) -> list[dict[str, Any]]:
        """Texts that a picture gets: its sentences, and what was written."""
        made_by = {"language": "", "style": "retrieved", "model": self.model, "terms": "", "prompt": ""}
        variants = [
            {**made_by, "string": string, "origin": "caption", "source": source, "licence": pairs.licence(row)}
            for (source, string, _), row in zip(pairs.sentences(number), pairs.row_KT[number].tolist(), strict=False)
        ]
        if done is not None and written is not None and not written["fault"]:
            variants.append(
                {
                    "string": written["string"],
                    "language": "",
                    "origin": "synthetic",
                    "source": written["source"],
                    "style": "merged",
                    "model": done.backend.name,
                    "terms": done.backend.terms,
                    "prompt": written["prompt"],
                    "licence": sample.licence,
                }
            )
        return variants


@dataclass(frozen=True, slots=True)
class RetrievedPairs:
    """Kept pictures with their sentences. Letters: K kept pictures, M sentences, T of them a picture.

    kept_K     number of each kept picture among `seen`
    at_K       its position
    at_M       position of each sentence, `strings` the sentences
    row_KT   sentences of each picture, the nearest first; -1 where there are fewer
    cosine_KT  their cosines
    """

    rows: OrderedRows
    seen: ImageEmbeddings
    kept_K: Ints
    at_K: Ints
    at_M: Ints
    strings: pa.Array
    row_KT: Ints
    cosine_KT: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.at_K)

    def sample(self, number: int) -> Sample:
        """A kept picture."""
        return self.rows.data[int(self.rows.row_N[self.at_K[number]])]

    def sentences(self, number: int) -> list[tuple[str, str, float]]:
        """Uid, string and cosine of the sentences of a picture, the nearest first."""
        return [
            (self.rows.uids[int(self.at_M[row])].as_py(), self.strings[row].as_py(), cosine)
            for row, cosine in zip(self.row_KT[number].tolist(), self.cosine_KT[number].tolist(), strict=True)
            if row >= 0
        ]

    def licence(self, row: int) -> str:
        """Licence of a sentence."""
        return self.rows.data[int(self.rows.row_N[self.at_M[row]])].licence
