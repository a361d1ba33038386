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

Cost: one pass of the captioner over all images, k-means, and one caption per kept row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Generator, PairScorer
from diptych.core.errors import ConfigError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.curate.duplicates.clusters import kmeans_centres, nearest_centres
from diptych.curate.duplicates.whitening import whitened
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore
from diptych.index.embed import embed_texts, readable
from diptych.models.io.open_address import open_address, require

Describe = Literal["vectors", "pooled", "histogram", "ids"]
DESCRIBE: tuple[Describe, ...] = ("vectors", "pooled", "histogram", "ids")
BLOCK = 512


@dataclass(frozen=True)
class TLDR:
    """captioner     address of a trained codebook captioner
    keep          share of each cluster that is kept (published 0.25 in the paper, 0.2 in code); 1 keeps all
    share_of      "matching": the share refers to the rows that pass `match`; "all": to all rows, and rows that do not pass `match` are
                  dropped in addition
    clusters      number of k-means clusters (published 1,000); 0: a fortieth of the number of rows
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
        rows = {uid: row for row, uid in enumerate(data.uids)}
        with_image = [uid for uid in sorted(rows) if data[rows[uid]].image is not None]
        faults = {uid: "no_image: nothing to describe" for uid in rows if data[rows[uid]].image is None}
        codes, unreadable = self._codes(data.select([rows[uid] for uid in with_image]), model, parts)
        faults |= unreadable
        apart = self._disagreeing(data.select([rows[uid] for uid in codes]), parts) if self.match else {}
        there = [uid for uid in codes if uid not in faults and (self.share_of == "all" or uid not in apart)]
        if self.keep < 1 and there:
            vectors = self._cluster_features(np.stack([codes[uid] for uid in there]), model)
            faults |= self._crowded(there, vectors)
        faults |= apart
        kept = tuple(uid for uid in there if uid not in faults)
        columns: dict[str, Any] = {}
        if self.repair and kept:
            columns = self._repaired(data.select([rows[uid] for uid in kept]), model, parts)
        dropped = tuple(Drop(uid, self.slug, faults[uid]) for uid in sorted(faults))
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _codes(self, data: Dataset, model: Any, parts: PartStore) -> tuple[dict[str, npt.NDArray[np.int64]], dict[str, str]]:
        """Codebook ids of the patches by uid, in order of uid; and the images that cannot be read."""

        def work(part: pa.Table) -> pa.Table:
            samples = [data[row] for row in part["row"].to_pylist()]
            good, code_rows, bad = readable(lambda some: list(model.codes([s.image for s in some])), samples)
            uids = [*(sample.uid for sample in good), *(one.uid for one in bad)]
            values = [*(row.tolist() for row in code_rows), *([None] * len(bad))]
            reasons = [*([""] * len(good)), *(one.reason for one in bad)]
            return pa.table(
                [pa.array(uids, pa.string()), pa.array(values, pa.list_(pa.int64())), pa.array(reasons, pa.string())],
                ["uid", "codes", "reason"],
            )

        rows = pa.table({"row": pa.array(range(len(data)), pa.int64())})
        made = PartStore(parts.folder, parts.key, BLOCK).mapped(rows, f"codes-{model.fingerprint[:16]}", work).to_pylist()
        codes = {
            row["uid"]: np.array(row["codes"], np.int64)
            for row in sorted(made, key=lambda r: r["uid"])
            if row["codes"] is not None
        }
        return codes, {row["uid"]: f"unreadable: {row['reason']}" for row in made if row["codes"] is None}

    def _cluster_features(self, id_NP: npt.NDArray[np.int64], model: Any) -> npt.NDArray[np.float32]:
        """Features to be clustered: whitened rows [N, D] from codebook ids."""
        code_KD = model.model.codebook.code_KD.detach().float().cpu().numpy()
        if self.describe == "ids":
            raw = id_NP.astype(np.float32)
        elif self.describe == "histogram":
            raw = np.stack([np.bincount(row, minlength=len(code_KD)) for row in id_NP]).astype(np.float32)
        elif self.describe == "pooled":
            raw = code_KD[id_NP].mean(1)
        else:
            raw = code_KD[id_NP].reshape(len(id_NP), -1)
        return whitened(raw, self.whiten)

    def _crowded(self, uids: list[str], vector_ND: npt.NDArray[np.float32]) -> dict[str, str]:
        """Rows dropped because they exceed the fraction kept of their cluster."""
        label_N, stays_N = spread_over_clusters(
            vector_ND,
            self.keep,
            clusters=self.clusters,
            iterations=self.iterations,
            seed=self.seed,
            pick=self.pick,
            centre=self.centre,
        )
        sizes_K, stay_K = np.bincount(label_N), np.bincount(label_N, weights=stays_N).astype(int)
        return {
            uids[row]: f"cluster: {stay_K[label]:,} of {sizes_K[label]:,} rows of cluster {label} stay"
            for row, label in enumerate(label_N.tolist())
            if not stays_N[row]
        }

    def _disagreeing(self, data: Dataset, parts: PartStore) -> dict[str, str]:
        """Rows outside the best `match_share` by the similarity of image and best text; rows without text come last."""
        uids, agree_N = self._scored_pairs(data) if self.agreement == "pair" else self._cosines(data, parts)
        order = np.argsort(-agree_N, kind="stable")
        out = order[max(1, round(len(order) * self.match_share)) :]
        level = float(agree_N[order[max(1, round(len(order) * self.match_share)) - 1]]) if len(order) else 0.0
        return {
            uids[row]: f"match: {agree_N[row]:.3f} (the best {self.match_share:.0%} have at least {level:.3f})"
            for row in out.tolist()
        }

    def _cosines(self, data: Dataset, parts: PartStore) -> tuple[Sequence[str], npt.NDArray[np.float64]]:
        """Cosine of each image and its best text, with the uids."""
        model = open_embedder(self.match)
        embeddings = embed_pool(data, model, parts)
        row_of = {uid: row for row, uid in enumerate(data.uids)}
        pairs = [(row, text.string) for row, uid in enumerate(embeddings.uids) for text in data[row_of[uid]].positives()]
        text_MD = embed_texts(model, [text for _, text in pairs], [embeddings.uids[row] for row, _ in pairs])
        agree_N = np.full(len(embeddings.uids), -1.0)
        for (row, _), vector in zip(pairs, text_MD, strict=True):
            agree_N[row] = max(agree_N[row], float(embeddings.vector_ND[row] @ vector))
        return embeddings.uids, agree_N

    def _scored_pairs(self, data: Dataset) -> tuple[Sequence[str], npt.NDArray[np.float64]]:
        """Pair score of each image and its best text by the model, with the uids."""
        model = open_address(self.match)
        if not isinstance(model, PairScorer):
            raise ConfigError(f"{self.match} does not read pairs (expected a model with a matching head, or agreement 'cosine')")
        agree_N = np.full(len(data), -np.inf)
        for row in range(len(data)):
            sample = data[row]
            texts = [text.string for text in sample.positives()]
            if texts and sample.image is not None:
                agree_N[row] = float(model.score_pairs([sample.image], texts, query="text").max())
        return data.uids, agree_N

    def _repaired(self, data: Dataset, model: Any, parts: PartStore) -> dict[str, Any]:
        if self.writer:
            model = open_address(self.writer)
            require(model, Generator, who="tldr's writer")
        search = {"num_beams": self.beams} if self.beams > 1 else {}

        def work(part: pa.Table) -> pa.Table:
            samples = [data[row] for row in part["row"].to_pylist()]
            images: list[ImageSource] = [sample.image for sample in samples if sample.image is not None]
            written = model.generate(images, [""] * len(images), max_tokens=self.max_tokens, **search)
            return pa.table({"uid": pa.array([s.uid for s in samples], pa.string()), "generated": pa.array(written, pa.string())})

        rows = pa.table({"row": pa.array(range(len(data)), pa.int64())})
        key = f"captions-{model.fingerprint[:16]}" + (f"-{self.beams}" if search else "")
        made = PartStore(parts.folder, parts.key, BLOCK).mapped(rows, key, work)
        generated = dict(zip(made["uid"].to_pylist(), made["generated"].to_pylist(), strict=True))
        first = {
            sample.uid: next((text.string for text in sample.positives()), "")
            for sample in (data[row] for row in range(len(data)))
        }
        repaired = {uid: self.joint.join(text for text in (first[uid], generated[uid]) if text) for uid in generated}
        return {"generated_caption": generated, "repaired_text": {uid: text for uid, text in repaired.items() if text}}

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
    iterations: int = 20,
    seed: int = 0,
    pick: Literal["spread", "listed"] = "spread",
    centre: Literal["unit", "mean"] = "unit",
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Cluster [N] of each row, and a keep mask: every 1/keep-th row of a cluster by distance to its centre, from a seeded start,
    or "listed" in the given order, from the first; at least one per cluster. `clusters` 0 uses a fortieth of the number of
    rows."""
    count = min(clusters or max(1, len(vector_ND) // 40), len(vector_ND))
    unit = centre == "unit"
    centre_KD = kmeans_centres(vector_ND, count, seed=seed, iterations=iterations, unit=unit)
    label_N = nearest_centres(vector_ND, centre_KD, 1, unit=unit)[:, 0].astype(np.int64)
    stays_N = np.zeros(len(vector_ND), bool)
    for cluster in range(count):
        rows = np.flatnonzero(label_N == cluster)
        if pick == "listed":
            stays_N[rows[:: round(1 / keep)]] = True
        elif len(rows):
            rows = rows[np.argsort(-(vector_ND[rows] @ centre_KD[cluster]), kind="stable")]
            stay = max(1, round(len(rows) * keep))
            begin = float(keyed_rng(seed, "tldr", cluster).random())
            stays_N[rows[((np.arange(stay) + begin) * len(rows) / stay).astype(int)]] = True
    return label_N, stays_N
