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
English. Cost: one embedding per image and sentence, M (K + ...) dot products for clustering, one text of the writer per image.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Generator
from diptych.core.errors import ConfigError, DataError, DecodeError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.clusters import greedy_duplicates, kmeans_centres, nearest_centres
from diptych.curate.duplicates.retrieval import cap_clusters, cap_for, hierarchical
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.experts.findings import Finding
from diptych.curate.text.ngram import NGram
from diptych.curate.text.sentence_filters import SentenceRules, strip_addresses
from diptych.curate.writing import fusing
from diptych.curate.writing.requests import TextBackend, TextRequest
from diptych.curate.writing.step import GeneratedTexts, RowRequest, WritingStep
from diptych.data.media.decode import decode
from diptych.data.text.captions.variants import SIMILARITY, VARIANTS, variant_column
from diptych.index.embed import embed_texts
from diptych.models.io.open_address import open_address, require

RULES = "grammar"
PERPLEXITY_ORDER = 3
CAPTIONS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class RealSyn(WritingStep):
    """model        address of a model that embeds images and texts
    top          number of sentences per picture (published 3)
    probes       number of clusters searched per picture; if it equals their number the search is exact (published 1, by its figure)
    sentence_clusters  number of clusters of sentences (published 2 million for 840 million); 0: the square root of their number
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
        counts = (self.sentence_clusters, self.balance_clusters, self.cap, self.target, self.short_side)
        if self.top < 1 or self.probes < 1 or min(counts) < 0 or self.aspect < 1:
            raise ConfigError(
                f"top {self.top}, probes {self.probes}, clusters, cap, target and short_side {counts}, aspect {self.aspect} "
                "(expected 1 or more, 1 or more, 0 or more each, 1 or more)"
            )
        if not 0 <= self.alike <= 1:
            raise ConfigError(f"alike is {self.alike} (expected 0..1)")
        self.rules()

    @classmethod
    def paper(cls) -> Self:
        """The smallest released scale: three sentences of the nearest of two million clusters, at most 20 pairs of each of a million
        clusters. Name the models and the writer; for fewer sentences or pictures than clusters, clusters are as many as there are."""
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
        pictures = [row for row in range(len(data)) if data[row].image is not None]
        seen = estimate_cost(data.select(pictures), lambda image: model.embed_images([image]), unit="embedding of a picture")
        if not self.synthetic:
            return seen
        best = next((text.string for row in range(len(data)) if data[row].image is None for text in data[row].texts), "")
        requests = [self._request(data[row], best, "sentence", "") for row in pictures[:: max(1, len(pictures) // 24)]]
        text = self.planned(requests, len(pictures), self._writer([best]))
        return {**text, "embedding_seconds": seen["seconds"], "seconds": seen["seconds"] + text.get("seconds", 0.0)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings and texts that an earlier run finished."""
        start = time.perf_counter()
        model = self._model()
        row_of = {uid: row for row, uid in enumerate(data.uids)}
        texts, faults = self._sentences(data)
        faults |= self._pictures(data)
        pictures = [uid for uid in sorted(row_of) if data[row_of[uid]].image is not None and uid not in faults]
        if not pictures or not texts:
            raise DataError(
                f"'{data.name}' has {len(pictures):,} pictures and {len(texts):,} sentences that can be used",
                field="image, texts",
                expected="both: a folder of HTML or Markdown documents with local pictures, or other --short-side, --min-words",
            )
        seen = embed_pool(data.select([row_of[uid] for uid in pictures]), model, parts)
        faults |= {uid: f"unreadable: {reason}" for uid, reason in seen.unreadable.items()}
        uids, strings = list(texts), list(texts.values())
        row_MD = embed_texts(model, strings, uids)
        if self.alike:
            repeated = self._repeated(row_MD)
            faults |= {uids[row]: f"alike: cosine {cosine:.3f} with {uids[kept]}" for row, (kept, cosine) in repeated.items()}
            left = [row for row in range(len(uids)) if row not in repeated]
            uids, strings, row_MD = [uids[row] for row in left], [strings[row] for row in left], row_MD[left]
        place_NT, cosine_NT = self._retrieved(seen, row_MD)
        stays_N, cap = self._balanced(seen, row_MD, place_NT)
        for number, uid in enumerate(seen.uids):
            if not stays_N[number]:
                faults[uid] = f"balance: its cluster keeps {cap:,} pairs"
            faults.setdefault(uid, "") if place_NT[number, 0] >= 0 else faults.update({uid: "no_sentence: none near"})
        kept = [number for number, uid in enumerate(seen.uids) if not faults[uid]]
        faults = {uid: reason for uid, reason in faults.items() if reason}
        retrieved = {
            seen.uids[n]: [(uids[p], strings[p], float(c)) for p, c in zip(place_NT[n], cosine_NT[n], strict=True) if p >= 0]
            for n in kept
        }
        done = self._synthetic(data, row_of, retrieved, parts) if self.synthetic and retrieved else None
        columns = self._columns(data, row_of, seen, retrieved, done, model)
        kinds = Counter(reason.split(":")[0] for reason in faults.values())
        facts = {"pictures": len(retrieved), "sentences": len(strings), "left": dict(sorted(kinds.items())), "cap": cap}
        facts |= {"writing": done.counts()} if done else {}
        files = {"realsyn.json": (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode()}
        drops = tuple(Drop(uid, self.slug, faults[uid]) for uid in sorted(faults))
        note = f"{len(retrieved):,} pictures with sentences out of {len(strings):,}"
        return CurationStepResult(
            tuple(sorted(retrieved)), drops, columns, time.perf_counter() - start, files, (note, *(done.notes() if done else ()))
        )

    def _model(self) -> Any:
        if not self.model:
            raise ConfigError("realsyn needs a model that embeds images and texts (--model MODEL)")
        return open_embedder(self.model)

    def _sentences(self, data: Dataset) -> tuple[dict[str, str], dict[str, str]]:
        """Cleaned, unique sentences by uid, in order of uid; and the drop reasons of the sentence rows (all are dropped)."""
        rules, raw = self.rules(), {}
        for sample in (data[row] for row in range(len(data))):
            if sample.image is None:
                raw[sample.uid] = strip_addresses(" ".join(text.string for text in sample.positives()))
        model = NGram.learned(raw.values(), PERPLEXITY_ORDER) if rules.perplexity[1] and raw else None
        faults, sentences, first = {}, {}, dict[str, str]()
        for uid in with_bar(sorted(raw), len(raw), "reading sentences", least=10_000):
            fault = rules.fault(raw[uid], model)
            key = raw[uid].casefold()
            if not fault and key in first:
                fault = f"same sentence: as {first[key]}"
            if not fault:
                first[key] = uid
                sentences[uid] = raw[uid]
            faults[uid] = fault or "sentence: retrieved from, and no picture"
        return sentences, faults

    def _pictures(self, data: Dataset) -> dict[str, str]:
        faults = {}
        for row in with_bar(range(len(data)), len(data), "looking at pictures", least=100):
            sample = data[row]
            if sample.image is not None and (fault := self._size_fault(sample.image)):
                faults[sample.uid] = fault
        return faults

    def _size_fault(self, image: ImageSource) -> str:
        try:
            height, width = decode(image).shape[:2]
        except (DecodeError, OSError) as error:
            return f"unreadable: {error}"
        short, long = sorted((height, width))
        if short < self.short_side:
            return f"short_side: {short} pixels (expected at least {self.short_side})"
        return f"aspect: {long / short:.2f} (expected at most {self.aspect:g})" if long > self.aspect * short else ""

    def _repeated(self, row_MD: npt.NDArray[Any]) -> dict[int, tuple[int, float]]:
        """Near-duplicate sentences: dropped -> (kept, cosine). Each is compared, in order, with sentences of its two nearest
        clusters."""
        centre_KD = kmeans_centres(row_MD, max(1, math.isqrt(len(row_MD))), seed=self.seed)
        near_NP = nearest_centres(row_MD, centre_KD, min(2, len(centre_KD)))
        return greedy_duplicates(row_MD, range(len(row_MD)), self.alike, near_NP=near_NP)

    def _retrieved(
        self, seen: ImageEmbeddings, row_MD: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
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
        count = min(self.balance_clusters or max(1, len(pair_ND) // 20), len(pair_ND))
        label_N = nearest_centres(pair_ND, kmeans_centres(pair_ND, count, seed=self.seed), 1)[:, 0]
        cap = cap_for(label_N, self.target) if self.target else self.cap
        return cap_clusters(label_N, cap, seed=self.seed, names=list(seen.uids)), cap

    def _writer(self, strings: Sequence[str]) -> TextBackend:
        return fusing.RuleFuser() if self.writer == RULES else self.backend(lambda: strings)

    def _synthetic(
        self,
        data: Dataset,
        row_of: Mapping[str, int],
        retrieved: Mapping[str, Sequence[tuple[str, str, float]]],
        parts: PartStore,
    ) -> GeneratedTexts:
        captions = self._captions(data, row_of, list(retrieved), parts)
        rows = pa.table({"row": pa.array(range(len(retrieved)), pa.int64()), "uid": pa.array(sorted(retrieved), pa.string())})

        def requests(part: pa.Table) -> Iterator[RowRequest]:
            for uid in part["uid"].to_pylist():
                source, sentence, _ = retrieved[uid][0]
                yield self._request(data[row_of[uid]], sentence, source, captions.get(uid, ""))

        def read(request: RowRequest, raw: str) -> tuple[str, str]:
            text = raw.strip().split("\n", 1)[0].strip()
            return text, "" if text else "empty: nothing was written"

        return self.written(rows, requests, self._writer([s for some in retrieved.values() for _, s, _ in some]), read, parts)

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

    def _captions(self, data: Dataset, row_of: Mapping[str, int], uids: list[str], parts: PartStore) -> dict[str, str]:
        """Captions by uid from the captioner; empty without one."""
        if not self.captioner:
            return {}
        model = open_address(self.captioner)
        require(model, Generator, who=f"realsyn with captioner {self.captioner}")

        def work(part: pa.Table) -> pa.Table:
            images = [data[row_of[uid]].image for uid in part["uid"].to_pylist()]
            return pa.table({"uid": part["uid"], "caption": pa.array(model.generate(images, [""] * len(images)), pa.string())})

        table = pa.table({"uid": pa.array(sorted(uids), pa.string())})
        made = PartStore(parts.folder, parts.key, CAPTIONS_AT_ONCE).mapped(table, f"captions-{model.fingerprint[:16]}", work)
        return dict(zip(made["uid"].to_pylist(), made["caption"].to_pylist(), strict=True))

    def _columns(
        self,
        data: Dataset,
        row_of: Mapping[str, int],
        seen: ImageEmbeddings,
        retrieved: Mapping[str, Sequence[tuple[str, str, float]]],
        done: GeneratedTexts | None,
        model: Any,
    ) -> dict[str, Any]:
        if not retrieved:
            return {}
        variants: dict[str, list[dict[str, Any]]] = {}
        for uid, some in retrieved.items():
            made_by = {"language": "", "style": "retrieved", "model": self.model, "terms": "", "prompt": ""}
            variants[uid] = [
                {**made_by, "string": string, "origin": "caption", "source": source, "licence": data[row_of[source]].licence}
                for source, string, _ in some
            ]
        for row in done.used() if done else ():
            shared = {
                "language": "",
                "style": "merged",
                "model": done.backend.name if done else "",
                "licence": data[row_of[row["uid"]]].licence,
            }
            variants[row["uid"]].append(
                {**shared, "string": row["string"], "origin": "synthetic", "source": row["source"], "prompt": row["prompt"],
                 "terms": done.backend.terms if done else ""}
            )  # fmt: skip
        position_of = {uid: number for number, uid in enumerate(seen.uids)}
        pairs = [
            (uid, string)
            for uid in sorted(variants)
            for string in (*(text.string for text in data[row_of[uid]].texts), *(one["string"] for one in variants[uid]))
        ]
        text_MD = embed_texts(model, [string for _, string in pairs], [uid for uid, _ in pairs])
        similarity: dict[str, list[float]] = {}
        for (uid, _), vector_D in zip(pairs, text_MD, strict=True):
            similarity.setdefault(uid, []).append(float(seen.vector_ND[position_of[uid]] @ vector_D))
        return {VARIANTS: variant_column(variants), SIMILARITY: similarity}
