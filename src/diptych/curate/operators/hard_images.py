"""Hard negative images: similar images of other groups, that NegCLIP (2210.01936) puts beside each image in a batch.

Nobody leaves the pool. The column ``hard_images`` holds the uids of the nearest rows by cosine of a model's image vectors, the nearest
first; rows of the same group, which show the same, are none, and neither are equal vectors. `diptych train negclip --hard-images
hard_images` reads it. Cost: an embedding a row, then every row with every other, a block at a time: a million rows are hours.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from diptych.core.contracts import CurationStepResult, Dataset, Drop, Unit
from diptych.core.errors import ConfigError
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore

COLUMN = "hard_images"
BLOCK = 512
EQUAL = 1 - 1e-6


@dataclass(frozen=True)
class HardImages:
    """model   address of an image embedding model (published: the CLIP that is then fine-tuned)
    count   neighbours per row (published 3)
    """

    slug: ClassVar[str] = "hard_images"
    paths: ClassVar[tuple[str, ...]] = ()

    model: str = ""
    count: int = 3

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"count is {self.count} (expected 1 or more)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = self._model()
        facts = estimate_cost(data, lambda image: model.embed_images([image]), unit="embedding (one at a time)")
        return {**facts, "needs": "every embedding with every other"}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings that an earlier run finished."""
        start = time.perf_counter()
        embeddings = embed_pool(data, self._model(), parts)
        groups = dict(zip(data.uids, data.groups, strict=True))
        near = nearest_others(embeddings.vector_ND, [groups[uid] for uid in embeddings.uids], self.count)
        column = {uid: [embeddings.uids[row] for row in rows] for uid, rows in zip(embeddings.uids, near, strict=True) if rows}
        dropped = [Drop(uid, self.slug, f"unreadable: {reason}") for uid, reason in embeddings.unreadable.items()]
        kept = tuple(uid for uid in sorted(data.uids) if uid not in embeddings.unreadable)
        return CurationStepResult(kept, tuple(dropped), {COLUMN: column} if column else {}, time.perf_counter() - start)

    def _model(self) -> Any:
        if not self.model:
            raise ConfigError("hard_images needs a model that embeds images (--model RUN, hf:NAME, open_clip:ARCH/FILE)")
        return open_embedder(self.model)


def nearest_others(vector_ND: Unit, groups: list[str], count: int) -> list[list[int]]:
    """Rows of the highest cosine of another group and not of an equal vector, the nearest first; of equal cosines the earlier row."""
    _, group_N = np.unique(np.asarray(groups), return_inverse=True)
    neighbours: list[list[int]] = []
    for start in range(0, len(vector_ND), BLOCK):
        score_BN = vector_ND[start : start + BLOCK] @ vector_ND.T
        own_B1 = group_N[start : start + BLOCK, None]
        score_BN[(own_B1 == group_N) | (score_BN >= EQUAL)] = -np.inf
        for score_N in score_BN:
            best_K = np.argsort(-score_N, kind="stable")[:count]
            neighbours.append([int(row) for row in best_K if np.isfinite(score_N[row])])
    return neighbours
