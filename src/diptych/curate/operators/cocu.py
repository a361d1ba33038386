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
them ("kine" of "cow", "volcanoes"); a gallery that brings plurals along takes `--no-plurals`. Neighbours are exact.

Cost: an embedding of every image, N x M dot products for M images of the index, and a k-means a row.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Unit
from diptych.core.errors import ConfigError, DataError
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import ImageEmbeddings, embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.text.gallery import Gallery, Words, row_of_name
from diptych.index.embed import embed_texts
from diptych.worlds.address import open_data

BLOCK = 1024
"""Images whose neighbours are looked for at once."""
KMEANS = {"random_state": 0, "n_init": 5, "max_iter": 100}
"""As released."""


@dataclass(frozen=True, kw_only=True)
class CoCu:
    """model       address of a model that embeds images and texts (published: CLIP ViT-B/16)
    gallery     file of concepts, one per line, or JSON of lists; "" uses the labels of the data
    plurals     also add the plurals of the gallery's names
    index       address of another data set in which neighbours are searched; "" searches the same data
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
        caption_concepts = self._captions(other, pool, gallery)
        concept_KD = embed_texts(model, [self.template.format(name) for name in gallery.names], gallery.names)
        row_of = row_of_name(gallery.names)
        lists: dict[str, list[tuple[str, float, int]]] = {}
        for uid, anchor_D, near in self._near(own, pool):
            ranked = curated_concepts(
                anchor_D,
                pool.vector_ND[near],
                [caption_concepts[n] for n in near.tolist()],
                concept_KD,
                row_of,
                membership=self.membership,
            )
            labels = clustered(concept_KD[[row_of[name] for name, _ in ranked]]) if self.clusters else [-1] * len(ranked)
            lists[uid] = [(name, score, label) for (name, score), label in zip(ranked, labels, strict=True)]
        if lists and not any(lists.values()):
            raise DataError(
                f"no caption near an image of '{data.name}' has a concept of the gallery ({len(gallery.names):,} names)",
                field="texts",
                expected="--gallery FILE with words of these captions",
            )
        unread = {uid: f"unreadable: {reason}" for uid, reason in own.unreadable.items()}
        kept = tuple(sorted(set(data.uids) - set(unread)))
        drops = tuple(Drop(uid, self.slug, unread[uid]) for uid in sorted(unread))
        filled = sum(bool(some) for some in lists.values())
        facts = {
            "gallery": len(gallery.names),
            "rows": len(lists),
            "with_concepts": filled,
            "concepts": sum(map(len, lists.values())),
        }
        files = {"cocu.json": (json.dumps(facts, indent=1) + "\n").encode()}
        note = f"{facts['concepts']:,} concepts for {filled:,} of {len(lists):,} images, from a gallery of {facts['gallery']:,} names"
        return CurationStepResult(kept, drops, columns_of(lists), time.perf_counter() - start, files, (note,))

    def _model(self) -> Any:
        if not self.model:
            raise ConfigError("cocu needs a model that embeds images and texts (--model MODEL)")
        return open_embedder(self.model)

    def _gallery(self, data: Dataset) -> Gallery:
        if self.gallery:
            return Gallery.load(Path(self.gallery), plurals=self.plurals)
        samples = [data[row] for row in range(len(data))]
        labels = [region.label for sample in samples for region in sample.regions]
        labels += [text.string for sample in samples for text in sample.texts if text.origin == "label"]
        if not labels:
            raise DataError(
                f"'{data.name}' has no labels", field="regions, texts", expected="--gallery FILE, one concept per line"
            )
        return Gallery.of(sorted(set(labels)), plurals=self.plurals)

    def _captions(self, data: Dataset, pool: ImageEmbeddings, gallery: Gallery) -> list[tuple[str, ...]]:
        """Concepts in the captions of each embedded row."""
        row_of = row_of_name(data.uids)
        texts = ([text.string for text in data[row_of[uid]].positives(self.language)] for uid in pool.uids)
        return [tuple(dict.fromkeys(name for text in some for name in gallery.concepts_in(text, self.words))) for some in texts]

    def _near(self, own: ImageEmbeddings, pool: ImageEmbeddings) -> Any:
        """Nearest images of the pool by row: uid, vector and rows, nearest first, ties by row."""
        row_of = row_of_name(pool.uids)
        for start in range(0, len(own.uids), BLOCK):
            score_BM = own.vector_ND[start : start + BLOCK] @ pool.vector_ND.T
            for number, score_M in enumerate(score_BM):
                uid = own.uids[start + number]
                if not self.itself and uid in row_of:
                    score_M[row_of[uid]] = -np.inf
                order = np.argsort(-score_M, kind="stable")[: self.neighbours]
                yield uid, own.vector_ND[start + number], order[np.isfinite(score_M[order])]


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


def columns_of(lists: Mapping[str, Sequence[tuple[str, float, int]]]) -> dict[str, Any]:
    """Three columns of lists of equal lengths, in order of uid."""
    uids = pa.array(sorted(lists), pa.string())
    kinds = {"concepts": pa.string(), "concept_scores": pa.float64(), "concept_clusters": pa.int64()}
    return {
        name: pa.table(
            {"uid": uids, name: pa.array([[one[index] for one in lists[uid]] for uid in uids.to_pylist()], pa.list_(kind))}
        )
        for index, (name, kind) in enumerate(kinds.items())
    }
