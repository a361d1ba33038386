"""CoCu: concepts that an image shows and its caption leaves out (Xing et al., 2023, 2309.13505, "Rewrite Caption Semantics"). No row leaves
but those whose image cannot be read.

1. Vision-driven expansion: the L images nearest to an image, here or in another data set (`index`), lend it the concepts of their captions,
n-grams of up to four words that a gallery lists, in singular or plural: its archive.
2. Text-to-vision-guided ranking: for a concept c let R be the neighbours whose caption has c and, last, the image itself, s = c . R the
cosines with the text "a photo of a {c}". Its score is s_last / S + s_last / mean(s), S the largest s of any concept of the archive: how
well c fits at all, and whether it fits the image better than those that brought it.
3. Clusters of the archive's concept vectors, ceil(|A| / 2) by k-means, for cluster-guided sampling.

Columns, lists in order of score: ``concepts``, ``concept_scores``, ``concept_clusters``; they become extras of the rows, and
`diptych train concept_texts --data OUT` draws three concepts as further positive texts. Files: cocu.json.

Where this departs from the released code: a neighbour has a concept when its list has it; there "cat" is found in the string
"cattle, dog" (`membership="substring"` does that). Captions are cut into words by our rule and not by the Penn Treebank's (`words`). An
image is no neighbour of itself (`itself`). The gallery of 1,921 concepts is the authors': `gallery` names a file; without one, labels of
regions and texts of origin "label" are the gallery. Its plurals are ours, where the release asks TextBlob, which has other ones for 81 of
them ("kine" of "cow", "volcanoes"); a gallery that brings plurals along takes `--no-plurals`. Neighbours are exact; for a large pool
`max_cluster_size` looks for them in the clusters near an image, and some of those beyond are missed.

Cost: an embedding of every image, a k-means a row, and N x M dot products for M images of the index, which is quadratic without an index of
its own; with `max_cluster_size` N x `probes` x `max_cluster_size` of them, which is linear. Memory: the embeddings, and the concepts of
every caption as numbers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.cluster_tree import ClusterTree, neighbours_in_clusters
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import Ints, OrderedRows
from diptych.curate.engine.verdicts import DropTable, uids_without
from diptych.curate.text.gallery import Gallery, Words, row_of_name
from diptych.index.embed import embed_texts
from diptych.worlds.address import open_data

BLOCK = 1024
"""Images whose neighbours are looked for at once."""
POOL_BLOCK = 16_384
"""Images of the index that they are compared with at a time."""
KMEANS = {"random_state": 0, "n_init": 5, "max_iter": 100}
"""As released."""


@dataclass(frozen=True, kw_only=True)
class CoCu:
    """model       address of a model that embeds images and texts (published: CLIP ViT-B/16)
    gallery     file of concepts, one per line, or JSON of lists; "" uses the labels of the data
    plurals     also add the plurals of the gallery's names
    index       address of another data set in which neighbours are searched; "" searches the same data
    max_cluster_size  0 compares an image with all of the index; else with those of the `probes` nearest clusters of at most so many images
    probes      number of clusters that are searched, with `max_cluster_size`
    neighbours  number of images whose concepts are used (published 8 in the code, 16 in its script)
    itself      an image can be its own neighbour, as released
    membership  "word": a caption has a concept if it is in its list of words; "substring": if it occurs in the joined list, as released
    words       tokenisation of captions: "plain", or that of the Penn "treebank", as released
    clusters    cluster the concepts
    template    template for a concept's text
    language    language of captions that are searched; "" any
    """

    slug: ClassVar[str] = "cocu"
    paths: ClassVar[tuple[str, ...]] = ("gallery",)

    model: str = ""
    gallery: str = ""
    plurals: bool = True
    index: str = ""
    max_cluster_size: int = 0
    probes: int = 4
    neighbours: int = 8
    itself: bool = False
    membership: Literal["word", "substring"] = "word"
    words: Words = "plain"
    clusters: bool = True
    template: str = "a photo of a {}"
    language: str = "en"

    def __post_init__(self) -> None:
        if self.neighbours < 1 or self.template.count("{}") != 1:
            raise ConfigError(f"neighbours {self.neighbours}, template {self.template!r} (expected 1 or more, one {{}} in it)")
        if self.max_cluster_size < 0 or self.probes < 1:
            raise ConfigError(
                f"max_cluster_size is {self.max_cluster_size}, probes {self.probes} (expected 0 or more, and 1 or more)"
            )
        if self.membership not in ("word", "substring"):
            raise ConfigError(f"membership is {self.membership!r} (expected word | substring)")
        if self.words not in ("plain", "treebank"):
            raise ConfigError(f"words is {self.words!r} (expected plain | treebank)")

    @classmethod
    def paper(cls) -> Self:
        """Eight neighbours, an image among its own, concepts found as letters, no clusters (the release leaves them off): name `model`
        and `gallery`."""
        return cls(neighbours=8, itself=True, membership="substring", words="treebank", clusters=False)

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = self._model()
        return {
            **estimate_cost(data, lambda image: model.embed_images([image]), unit="embedding"),
            "needs": "all images of the index",
        }

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings that an earlier run finished."""
        start = time.perf_counter()
        model = self._model()
        other = open_data(self.index) if self.index else data
        gallery = self._gallery(other)
        own = embed_pool(data, model, parts)
        pool = (
            embed_pool(other, model, PartStore(parts.folder, f"{parts.key}-index", embeddings=parts.embeddings))
            if self.index
            else own
        )
        start_N1, name_C = self._captions(other, pool, gallery)
        concept_KD = embed_texts(model, [self.template.format(name) for name in gallery.names], gallery.names)
        row_of = row_of_name(gallery.names)

        def concepts(row: int) -> tuple[str, ...]:
            return tuple(gallery.names[name] for name in name_C[start_N1[row] : start_N1[row + 1]].tolist())

        def ranked() -> Iterator[tuple[list[str], list[float], list[int]]]:
            for anchor_D, near in with_bar(self._near(own, pool), len(own.uids), "ranking concepts", least=100):
                captions = [concepts(row) for row in near.tolist()]
                best = curated_concepts(anchor_D, pool.vector_ND[near], captions, concept_KD, row_of, membership=self.membership)
                labels = clustered(concept_KD[[row_of[name] for name, _ in best]]) if self.clusters else [-1] * len(best)
                yield [name for name, _ in best], [score for _, score in best], labels

        columns = columns_of(own.uids, ranked())
        lengths = pc.list_value_length(columns["concepts"]["concepts"])
        filled, count = pc.sum(pc.greater(lengths, 0), min_count=0).as_py(), pc.sum(lengths, min_count=0).as_py()
        if len(own.uids) and not filled:
            raise DataError(
                f"no caption near an image of '{data.name}' has a concept of the gallery ({len(gallery.names):,} names)",
                field="texts",
                expected="--gallery FILE with words of these captions",
            )
        bad = own.unreadable.table.sort_by("uid")
        drops = DropTable.of_step(self.slug, bad["uid"], pc.binary_join_element_wise("unreadable: ", bad["reason"], ""))
        facts = {"gallery": len(gallery.names), "rows": len(own.uids), "with_concepts": filled, "concepts": count}
        files = {"cocu.json": (json.dumps(facts, indent=1) + "\n").encode()}
        note = f"{count:,} concepts for {filled:,} of {len(own.uids):,} images, from a gallery of {facts['gallery']:,} names"
        kept = uids_without(data, drops.table["uid"])
        return CurationStepResult(kept, drops, columns, time.perf_counter() - start, files, (note,))

    def _model(self) -> Any:
        if not self.model:
            raise ConfigError("cocu needs a model that embeds images and texts (--model MODEL)")
        return open_embedder(self.model)

    def _gallery(self, data: Dataset) -> Gallery:
        if self.gallery:
            return Gallery.load(Path(self.gallery), plurals=self.plurals)
        labels = set[str]()
        for sample in (data[row] for row in range(len(data))):
            labels |= {region.label for region in sample.regions}
            labels |= {text.string for text in sample.texts if text.origin == "label"}
        if not labels:
            raise DataError(
                f"'{data.name}' has no labels", field="regions, texts", expected="--gallery FILE, one concept per line"
            )
        return Gallery.of(sorted(labels), plurals=self.plurals)

    def _captions(self, data: Dataset, pool: ImageEmbeddings, gallery: Gallery) -> tuple[Ints, npt.NDArray[np.int32]]:
        """Concepts in the captions of each embedded row, as numbers of the gallery's names: where those of a row start [N + 1], and the
        numbers [C]."""
        rows, row_of = OrderedRows.of(data), row_of_name(gallery.names)
        counts, blocks = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
        at_N = rows.positions(pool.uids)
        for start in range(0, len(at_N), BLOCK):
            samples = rows.samples(at_N[start : start + BLOCK])
            texts = ([text.string for text in sample.positives(self.language)] for sample in samples)
            names = [
                [row_of[name] for name in dict.fromkeys(name for text in some for name in gallery.concepts_in(text, self.words))]
                for some in texts
            ]
            counts.append(np.array([len(some) for some in names], np.int64))
            blocks.append(np.array([name for some in names for name in some], np.int32))
        return np.cumsum(np.concatenate(counts)), np.concatenate(blocks)

    def _near(self, own: ImageEmbeddings, pool: ImageEmbeddings) -> Iterator[tuple[npt.NDArray[Any], Ints]]:
        """Vector and nearest images of the pool by row, the nearest first, ties by row."""
        itself = pc.index_in(pa.array(own.uids, pa.string()), value_set=pa.array(pool.uids, pa.string())).fill_null(-1)
        itself_N = np.full(len(own.uids), -1) if self.itself else itself.to_numpy(zero_copy_only=False)
        if self.max_cluster_size:
            tree = ClusterTree.fitted(pool.vector_ND, self.max_cluster_size)
            near_NT, _ = neighbours_in_clusters(
                own.vector_ND, pool.vector_ND, tree, probes=self.probes, top=self.neighbours, itself_Q=itself_N
            )
            yield from ((own_D, near_T[near_T >= 0]) for own_D, near_T in zip(own.vector_ND, near_NT, strict=True))
            return
        for start in range(0, len(own.uids), BLOCK):
            own_BD = own.vector_ND[start : start + BLOCK]
            near = nearest_rows(own_BD, pool.vector_ND, self.neighbours, itself_N[start : start + BLOCK])
            yield from zip(own_BD, near, strict=True)


def nearest_rows(own_BD: Unit, pool_MD: Unit, count: int, itself_B: Ints) -> list[Ints]:
    """For each of B rows the `count` rows of the pool with the largest cosines, the nearest first, ties by row, without its own.

    itself_B  number of a row in the pool; -1 if it is not there
    """
    best: list[tuple[npt.NDArray[Any], Ints]] = [(np.zeros(0, np.float32), np.zeros(0, np.int64))] * len(own_BD)
    for start in range(0, len(pool_MD), POOL_BLOCK):
        score_BM = own_BD @ pool_MD[start : start + POOL_BLOCK].T
        for number, (score_M, itself) in enumerate(zip(score_BM, itself_B.tolist(), strict=True)):
            if start <= itself < start + len(score_M):
                score_M[itself - start] = -np.inf
            top = _largest(score_M, count)
            scores = np.concatenate([best[number][0], score_M[top]])
            rows = np.concatenate([best[number][1], top + start])
            kept = np.argsort(-scores, kind="stable")[:count]
            best[number] = scores[kept], rows[kept]
    return [rows[np.isfinite(scores)] for scores, rows in best]


def _largest(score_M: npt.NDArray[Any], count: int) -> Ints:
    """Positions of the `count` largest numbers, the largest first, ties by position."""
    if len(score_M) > count:
        least = np.partition(score_M, -count)[-count]
        there = np.flatnonzero(score_M >= least)
    else:
        there = np.arange(len(score_M))
    top: Ints = there[np.argsort(-score_M[there], kind="stable")[:count]]
    return top


def curated_concepts(
    anchor_D: npt.NDArray[Any],
    near_LD: npt.NDArray[Any],
    concepts: Sequence[Sequence[str]],
    concept_KD: npt.NDArray[Any],
    row_of: Mapping[str, int],
    *,
    membership: Literal["word", "substring"] = "word",
) -> list[tuple[str, float]]:
    """Concepts of the neighbours with their scores, the best first; of equal scores in alphabetical order.

    Where no cosine of the archive is above 0, the first term is the cosine itself, and where the mean is 0, the second term is 0: the
    released code divides by zero there.

    near_LD  unit vectors of the neighbours, `concepts` those of their captions
    """
    archive = sorted({name for names in concepts for name in names})
    joined = [", ".join(names) for names in concepts]
    cosines = []
    for name in archive:
        has = [n for n in range(len(concepts)) if (name in joined[n] if membership == "substring" else name in concepts[n])]
        fits = np.concatenate([near_LD[has], anchor_D[None]]) @ concept_KD[row_of[name]]
        cosines.append((float(fits[-1]), float(fits.mean()), float(fits.max())))
    most = max((largest for _, _, largest in cosines), default=1.0)
    most = most if most > 0 else 1.0
    scores = [own / most + (own / mean if mean else 0.0) for own, mean, _ in cosines]
    return sorted(zip(archive, scores, strict=True), key=lambda pair: (-pair[1], pair[0]))


def clustered(concept_AD: Unit) -> list[int]:
    """Cluster of each of A concepts, ceil(A / 2) of them; of two or fewer one each."""
    if len(concept_AD) <= 2:
        return list(range(len(concept_AD)))
    from sklearn.cluster import KMeans

    labels: list[int] = KMeans(math.ceil(len(concept_AD) / 2), **KMEANS).fit(concept_AD).labels_.tolist()
    return labels


def columns_of(uids: Sequence[str], ranked: Iterable[tuple[list[str], list[float], list[int]]]) -> dict[str, Any]:
    """Three columns of lists of equal lengths: names, scores and clusters of the concepts of each uid, which are made one by one."""
    kinds = {"concepts": pa.string(), "concept_scores": pa.float64(), "concept_clusters": pa.int64()}
    blocks: dict[str, list[pa.Array]] = {name: [pa.array([], pa.list_(kind))] for name, kind in kinds.items()}
    left = iter(ranked)
    while block := list(islice(left, BLOCK)):
        for (name, kind), lists in zip(kinds.items(), zip(*block, strict=True), strict=True):
            blocks[name].append(pa.array(lists, pa.list_(kind)))
    return {name: pa.table({"uid": pa.array(uids, pa.string()), name: pa.chunked_array(blocks[name])}) for name in kinds}
