"""TL;DR: selects a quarter of a pool by clusters and regenerates captions (Wang et al., 2023, 2305.20087).

1. A captioner that sees images through a codebook (`recipes.generation.codebook_captioner`) describes every image by the codes
of its patches. 2. Rows are clustered by these codes; a fraction of each cluster is kept, spread over the distances to its centre.
3. A captioner writes a caption for each kept row: "original; generated" is the column ``repaired_text``. The published one is a
separate captioner (`writer`), fine-tuned on human captions, that sees whole images.

Differences: the released code clusters the code *numbers* as if they were coordinates, so relabelling the codes would change its
clusters. Here the code vectors are clustered (`describe="vectors"`); "ids" and "histogram" are for comparison.
"Every fifth of the list" depends on the order of the list (`pick="listed"`); here draws are seeded and stratified. By default the
fraction refers to the rows that agree well enough with their text (`match`), so the result has the requested size;
`share_of="all"` clusters all rows and keeps those that pass both rules, as published. `paper()` has the published settings,
`released()` also the behaviour of the code.
Where all rows together have more than 2^28 values (5,300 rows of 196 vectors of 256 numbers), whitening is fitted to a sample of rows.

Cost: one pass of the captioner over all images, k-means, and one caption per kept row. The default number of clusters grows with the
rows, and k-means with its square: name `clusters` or `max_cluster_size` for a large pool. Memory: the codes of all images, and their
whitened vectors.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset, Generator, PairScorer
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.terminal.progress import with_bar
from diptych.curate.duplicates.cluster_tree import ClusterTree
from diptych.curate.duplicates.clusters import kmeans_centres, nearest_centres, rows_of_clusters
from diptych.curate.duplicates.whitening import Whitening, whitened
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import Faults, Ints, OrderedRows
from diptych.curate.engine.verdicts import ColumnByUid, StringColumn, string_column
from diptych.data.ragged import one_chunk
from diptych.index.embed import readable, text_blocks
from diptych.models.io.open_address import open_address, require

Describe = Literal["vectors", "pooled", "histogram", "ids"]
DESCRIBE: tuple[Describe, ...] = ("vectors", "pooled", "histogram", "ids")
BLOCK = 512
WHITENED_FROM, WHITENED_VALUES = 1_024, 2**28
"""Whitening is fitted to as many rows as have this number of values, or to 1,024 if a row is very long."""


@dataclass(frozen=True)
class TLDR:
    """captioner     address of a trained codebook captioner
    keep          share of each cluster that is kept (published 0.25 in the paper, 0.2 in code); 1 keeps all
    share_of      "matching": the share refers to the rows that pass `match`; "all": to all rows, and rows that do not pass `match` are
                  dropped in addition
    clusters      number of k-means clusters (published 1,000); 0: a fortieth of the number of rows
    max_cluster_size  maximum number of rows of a cluster, which are then those of hierarchical k-means, in linear time; 0 off
    iterations    maximum number of k-means iterations (published 20)
    describe      representation of an image: its code "vectors" concatenated, their mean ("pooled"), a "histogram" of codes, or the "ids"
                  (released)
    whiten        directions kept before k-means (published 256)
    centre        centre of a cluster: a vector of norm 1 ("unit", k-means by cosines), or the "mean" of its rows (by distances, as
                  published)
    pick          selection within a cluster: "spread" over the distances to its centre, from a random start, or "listed", every 1/keep-th
                  in order of uid, starting with the first, as the released code does in the order of its list
    match         address of a model that scores image-text pairs; "" skips this filter
    agreement     "cosine" of the embeddings of `match`, or its own score of a "pair": the matching head of BLIP, as published
    match_share   maximum share of rows, with the highest agreement, that pass `match` (published half)
    repair        generate a caption for kept rows
    writer        address of the model that generates these; "" uses `captioner`
    beams         beams of the caption search, for a `writer` with num_beams (published 3); 1 is greedy decoding
    joint         separator between original and generated text
    max_tokens    maximum number of tokens of a generated caption (published 30)
    seed          seed of k-means and of the draws
    """

    slug: ClassVar[str] = "tldr"

    captioner: str = ""
    keep: float = 0.25
    share_of: Literal["matching", "all"] = "matching"
    clusters: int = 0
    max_cluster_size: int = 0
    iterations: int = 20
    describe: Describe = "vectors"
    whiten: int = 256
    centre: Literal["unit", "mean"] = "unit"
    pick: Literal["spread", "listed"] = "spread"
    match: str = ""
    agreement: Literal["cosine", "pair"] = "cosine"
    match_share: float = 0.5
    repair: bool = True
    writer: str = ""
    beams: int = 1
    joint: str = "; "
    max_tokens: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1 or not 0 < self.match_share <= 1:
            raise ConfigError(f"keep is {self.keep}, match_share {self.match_share} (expected above 0, at most 1)")
        if self.describe not in DESCRIBE:
            raise ConfigError(f"describe is {self.describe!r} (expected {' | '.join(DESCRIBE)})")
        if self.pick not in ("spread", "listed") or self.agreement not in ("cosine", "pair"):
            raise ConfigError(
                f"pick is {self.pick!r}, agreement {self.agreement!r} (expected spread | listed, and cosine | pair)"
            )
        if self.share_of not in ("matching", "all") or self.iterations < 1:
            raise ConfigError(
                f"share_of is {self.share_of!r}, iterations {self.iterations} (expected matching | all, and 1 or more)"
            )
        if self.centre not in ("unit", "mean"):
            raise ConfigError(f"centre is {self.centre!r} (expected unit | mean)")
        if self.max_cluster_size < 0 or (self.max_cluster_size and (self.clusters or self.centre == "mean")):
            raise ConfigError(
                f"max_cluster_size is {self.max_cluster_size}, clusters {self.clusters}, centre {self.centre!r} "
                "(expected 0 or more; above 0 with clusters 0 and centre 'unit')"
            )
        if self.beams < 1 or (self.beams > 1 and not self.writer):
            raise ConfigError(f"beams is {self.beams} (expected 1, or more with --writer MODEL: the codebook captioner has one)")

    @classmethod
    def paper(cls) -> Self:
        """Published settings: a quarter of each of 1,000 clusters, restricted to the better half by the matching head of a BLIP.
        Name the models by `captioner`, `match` and `writer`, the last with `beams=3`."""
        published = cls(keep=0.25, share_of="all", clusters=1000, iterations=20, whiten=256, match_share=0.5, max_tokens=30)
        return replace(published, agreement="pair", centre="mean")

    @classmethod
    def released(cls) -> Self:
        """Settings of the released code: a fifth of each cluster in list order, and clustering of code numbers, which depends on
        the arbitrary numbering of the codes."""
        return replace(cls.paper(), keep=0.2, pick="listed", describe="ids")

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = self._captioner()
        facts = estimate_cost(
            data, lambda image: model.generate([image], [""], max_tokens=self.max_tokens), unit="codes and caption"
        )
        return {**facts, "needs": "clusters of all rows"}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from codes, embeddings and captions that an earlier run finished."""
        start = time.perf_counter()
        if self.share_of == "all" and not self.match:
            raise ConfigError("share_of 'all' keeps rows that agree with their text: name a model that judges it (--match RUN)")
        model = self._captioner()
        rows = OrderedRows.of(data)
        faults = Faults(len(rows))
        there_N = rows.with_image()
        faults.set(np.flatnonzero(~there_N), "no_image: nothing to describe")
        at_M, id_MP = self._codes(rows, np.flatnonzero(there_N), model, parts, faults)
        apart_A, reasons = self._disagreeing(rows, at_M, parts) if self.match else (np.zeros(0, np.int64), ())
        if self.share_of == "matching":
            faults.set_each(apart_A, reasons)
        stays_M = faults.stays()[at_M]
        if self.keep < 1 and stays_M.any():
            at_M, id_MP = at_M[stays_M], id_MP[stays_M]
            self._drop_crowded(at_M, self._cluster_features(id_MP, model), faults)
        del id_MP
        if self.share_of == "all":
            faults.set_each(apart_A, reasons)
        kept, dropped = faults.verdicts(self.slug, rows.uids)
        columns = self._repaired(rows, np.flatnonzero(faults.stays()), model, parts) if self.repair and len(kept) else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _codes(
        self, rows: OrderedRows, described: Ints, model: Any, parts: PartStore, faults: Faults
    ) -> tuple[Ints, npt.NDArray[np.int64]]:
        """Positions [M] of the images that can be read, and the codebook ids of their patches [M, P]. The others get their fault."""

        def work(part: pa.Table) -> pa.Table:
            samples = [rows.data[row] for row in part["row"].to_pylist()]
            good, code_rows, bad = readable(lambda some: list(model.codes([s.image for s in some])), samples)
            uids = [*(sample.uid for sample in good), *(one.uid for one in bad)]
            values = [*(row.tolist() for row in code_rows), *([None] * len(bad))]
            reasons = [*([""] * len(good)), *(one.reason for one in bad)]
            return pa.table(
                [pa.array(uids, pa.string()), pa.array(values, pa.list_(pa.int64())), pa.array(reasons, pa.string())],
                ["uid", "codes", "reason"],
            )

        table = pa.table({"row": rows.row_N[described]})
        made = PartStore(parts.folder, parts.key, BLOCK).mapped(table, f"codes-{model.fingerprint[:16]}", work)
        good, bad = made.filter(pc.is_valid(made["codes"])), made.filter(pc.is_null(made["codes"]))
        faults.set_each(rows.positions(bad["uid"]), (f"unreadable: {reason}" for reason in StringColumn(bad["reason"])))
        flat = one_chunk(good["codes"]).flatten().to_numpy() if good.num_rows else np.zeros(0, np.int64)
        return rows.positions(good["uid"]), flat.reshape(good.num_rows, -1) if good.num_rows else flat.reshape(0, 1)

    def _cluster_features(self, id_NP: npt.NDArray[np.int64], model: Any) -> npt.NDArray[np.float32]:
        """Features to be clustered: whitened rows [N, D] from codebook ids."""
        code_KD = model.model.codebook.code_KD.detach().float().cpu().numpy()
        fitted = max(WHITENED_FROM, WHITENED_VALUES // max(1, self._described(id_NP[:1], code_KD).shape[1]))
        if len(id_NP) <= fitted:
            return whitened(self._described(id_NP, code_KD), self.whiten)
        sample = np.sort(np.random.default_rng(self.seed).permutation(len(id_NP))[:fitted])
        whitening = Whitening.fitted(self._described(id_NP[sample], code_KD), self.whiten)
        starts = range(0, len(id_NP), BLOCK)
        return np.concatenate([whitening(self._described(id_NP[start : start + BLOCK], code_KD)) for start in starts])

    def _described(self, id_NP: npt.NDArray[np.int64], code_KD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Representation of images [N, D] from codebook ids."""
        if self.describe == "ids":
            return id_NP.astype(np.float32)
        if self.describe == "histogram":
            return np.stack([np.bincount(row, minlength=len(code_KD)) for row in id_NP]).astype(np.float32)
        if self.describe == "pooled":
            pooled_ND: npt.NDArray[np.float32] = code_KD[id_NP].mean(1)
            return pooled_ND
        return code_KD[id_NP].reshape(len(id_NP), -1)

    def _drop_crowded(self, at_N: Ints, vector_ND: npt.NDArray[np.float32], faults: Faults) -> None:
        """Drop the rows that exceed the fraction kept of their cluster."""
        label_N, stays_N = spread_over_clusters(
            vector_ND,
            self.keep,
            clusters=self.clusters,
            max_cluster_size=self.max_cluster_size,
            iterations=self.iterations,
            seed=self.seed,
            pick=self.pick,
            centre=self.centre,
        )
        sizes_K, stay_K = np.bincount(label_N), np.bincount(label_N, weights=stays_N).astype(int)
        gone_N = np.flatnonzero(~stays_N)
        labels = label_N[gone_N].tolist()
        faults.set_each(
            at_N[gone_N],
            (f"cluster: {stay_K[label]:,} of {sizes_K[label]:,} rows of cluster {label} stay" for label in labels),
        )

    def _disagreeing(self, rows: OrderedRows, at_M: Ints, parts: PartStore) -> tuple[Ints, Iterable[str]]:
        """Positions outside the best `match_share` by the similarity of image and best text, and the reasons; rows without text come
        last."""
        at_N, agree_N = self._scored_pairs(rows, at_M) if self.agreement == "pair" else self._cosines(rows, at_M, parts)
        order = np.argsort(-agree_N, kind="stable")
        out = order[max(1, round(len(order) * self.match_share)) :]
        level = float(agree_N[order[max(1, round(len(order) * self.match_share)) - 1]]) if len(order) else 0.0
        return at_N[out], (
            f"match: {value:.3f} (the best {self.match_share:.0%} have at least {level:.3f})" for value in agree_N[out]
        )

    def _cosines(self, rows: OrderedRows, at_M: Ints, parts: PartStore) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Cosine of each image and its best text, with the positions."""
        model = open_embedder(self.match)
        embeddings = embed_pool(rows.selected(at_M), model, parts)
        at_N = rows.positions(embeddings.uids)
        owner_R, strings = rows.strings(at_N, lambda sample: (text.string for text in sample.positives()))
        agree_N = np.full(len(at_N), -1.0)
        for row_B, number_B, vector_BD in text_blocks(model, strings, lambda row: embeddings.uids[int(owner_R[row])]):
            for owner, number in zip(owner_R[row_B].tolist(), number_B.tolist(), strict=True):
                agree_N[owner] = max(agree_N[owner], float(embeddings.vector_ND[owner] @ vector_BD[number]))
        return at_N, agree_N

    def _scored_pairs(self, rows: OrderedRows, at_M: Ints) -> tuple[Ints, npt.NDArray[np.float64]]:
        """Pair score of each image and its best text by the model, with the positions."""
        model = open_address(self.match)
        if not isinstance(model, PairScorer):
            raise ConfigError(f"{self.match} does not read pairs (expected a model with a matching head, or agreement 'cosine')")
        agree_N = np.full(len(at_M), -np.inf)
        for number, sample in enumerate(with_bar(rows.samples(at_M), len(at_M), "scoring pairs", least=100)):
            texts = [text.string for text in sample.positives()]
            if texts and sample.image is not None:
                agree_N[number] = float(model.score_pairs([sample.image], texts, query="text").max())
        return at_M, agree_N

    def _repaired(self, rows: OrderedRows, at_N: Ints, model: Any, parts: PartStore) -> dict[str, Any]:
        if self.writer:
            model = open_address(self.writer)
            require(model, Generator, who="tldr's writer")
        search = {"num_beams": self.beams} if self.beams > 1 else {}

        def work(part: pa.Table) -> pa.Table:
            samples = [rows.data[row] for row in part["row"].to_pylist()]
            images: list[ImageSource] = [sample.image for sample in samples if sample.image is not None]
            written = model.generate(images, [""] * len(images), max_tokens=self.max_tokens, **search)
            return pa.table({"uid": pa.array([s.uid for s in samples], pa.string()), "generated": pa.array(written, pa.string())})

        key = f"captions-{model.fingerprint[:16]}" + (f"-{self.beams}" if search else "")
        made = PartStore(parts.folder, parts.key, BLOCK).mapped(pa.table({"row": rows.row_N[at_N]}), key, work)
        first = (next((text.string for text in sample.positives()), "") for sample in rows.samples(at_N))
        generated = StringColumn(made["generated"])
        repaired = string_column(self.joint.join(filter(None, pair)) for pair in zip(first, generated, strict=True))
        generated_table = pa.table({"uid": made["uid"], "generated_caption": made["generated"]})
        repaired_table = pa.table({"uid": made["uid"], "repaired_text": repaired}).filter(pc.not_equal(repaired, ""))
        return {"generated_caption": ColumnByUid(generated_table), "repaired_text": ColumnByUid(repaired_table)}

    def _captioner(self) -> Any:
        if not self.captioner:
            raise ConfigError("tldr needs a trained codebook captioner (--captioner RUN)")
        model = open_address(self.captioner)
        if not hasattr(model, "codes"):
            raise ConfigError(f"{self.captioner} is not a codebook captioner (expected what recipes.codebook_captioner trains)")
        return model


def spread_over_clusters(
    vector_ND: npt.NDArray[np.float32],
    keep: float,
    *,
    clusters: int = 0,
    max_cluster_size: int = 0,
    iterations: int = 20,
    seed: int = 0,
    pick: Literal["spread", "listed"] = "spread",
    centre: Literal["unit", "mean"] = "unit",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Cluster [N] of each row, and a keep mask: every 1/keep-th row of a cluster by distance to its centre, from a seeded start,
    or "listed" in the given order, from the first; at least one per cluster. `clusters` 0 uses a fortieth of the number of
    rows; with `max_cluster_size` clusters are those of a `ClusterTree`, of rows of norm 1."""
    if max_cluster_size and len(vector_ND):
        tree = ClusterTree.fitted(vector_ND, max_cluster_size, seed=seed)
        count, label_N, centre_KD = tree.leaves, tree.label_N, tree.means(vector_ND)
    else:
        count = min(clusters or max(1, len(vector_ND) // 40), len(vector_ND))
        unit = centre == "unit"
        centre_KD = kmeans_centres(vector_ND, count, seed=seed, iterations=iterations, unit=unit)
        label_N = nearest_centres(vector_ND, centre_KD, 1, unit=unit)[:, 0].astype(np.int64)
    stays_N = np.zeros(len(vector_ND), bool)
    for cluster, rows in enumerate(rows_of_clusters(label_N, count)):
        if pick == "listed":
            stays_N[rows[:: round(1 / keep)]] = True
        elif len(rows):
            rows = rows[np.argsort(-(vector_ND[rows] @ centre_KD[cluster]), kind="stable")]
            stay = max(1, round(len(rows) * keep))
            begin = float(keyed_rng(seed, "tldr", cluster).random())
            stays_N[rows[((np.arange(stay) + begin) * len(rows) / stay).astype(int)]] = True
    return label_N, stays_N
