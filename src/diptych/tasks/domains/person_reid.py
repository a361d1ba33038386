"""Image-to-image person re-identification.  Protocol `person_reid`, version 1.

Where the data say who asks (the extra `role`, "query" or "gallery", as the reader of Market-1501 writes it), those ask and these are
ranked; where nobody says it, every picture asks all others. Relevant is what shows the same identity (`group`). `cmc@K` is the share of
queries with a match among the first K, `map` the mean average precision, `minp` the mean of (number of matches) / (rank of the last match).

The camera rule of Market-1501: a picture of the same identity from the query's own camera is junk, neither right nor wrong, and leaves
the query's list before it is ranked (`same_camera="junk"`); distractors stay. The picture that asks is never in its own list. A query
without a match that is left is left out and counted. Published code sorts ties by place in the file, and some of it takes the average of
neighbouring precisions for AP; here ties are worth their mean over all orders, and AP is the mean precision at the matches. No re-ranking.
The unit of the intervals is the identity.

Letters: N queries, M pictures of the gallery, B queries of one block, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.index.embed import embedded_images
from diptych.tasks._scoring.intervals import Floats
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.ranking.identity_lists import list_metrics, list_values
from diptych.tasks._scoring.ranking.ranked_lists import RankedList
from diptych.tasks._scoring.records import facts_of, with_facts

ROLE, CAMERA = "role", "camera"
SHOWN = 5


@dataclass(frozen=True, slots=True)
class PersonReid:
    """Image-to-image re-identification: mAP, mINP and CMC at rank K.

    same_camera  "junk": matches from the query's own camera are removed from the list; "kept": they count. Without the extra `camera`
                 nothing is removed
    """

    name: ClassVar[str] = "person_reid"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "map"

    same_camera: Literal["junk", "kept"] = "junk"
    ks: tuple[int, ...] = (1, 5, 10)
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not self.ks or min(self.ks) < 1:
            raise ConfigError(f"ks is {self.ks} (expected whole numbers from 1)")
        if self.same_camera not in ("junk", "kept"):
            raise ConfigError(f"same_camera is {self.same_camera!r} (expected junk | kept)")

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per query."""
        shown = embedded_images(model, data, batch_size=self.batch_size, wanted="pictures of persons")
        samples, vector_ND = shown.samples, shown.vectors_ND
        asks_N, shown_M = _roles(samples, data.name)
        person = {group: at for at, group in enumerate(dict.fromkeys(s.group or s.uid for s in samples))}
        key = np.array([person[s.group or s.uid] for s in samples], np.int64)
        cameras = ["" if (seen := s.extras.get(CAMERA)) is None else str(seen) for s in samples]
        code = {name: at for at, name in enumerate(dict.fromkeys(filter(None, cameras)))}
        camera = np.array([code.get(name, -1) for name in cameras], np.int64)
        scorer, key_M, camera_M = rk.cosine(vector_ND[shown_M]), key[shown_M], camera[shown_M]
        rows: dict[str, list[Any]] = {
            name: [] for name in ("query", "group", "camera", "gallery", "junk", "blocks", "top", "top_score")
        }
        without = 0
        size = max(1, rk.CELLS // len(shown_M))
        for start in range(0, len(asks_N), size):
            asked_B = asks_N[start : start + size]
            for row, score_M in zip(asked_B, scorer(vector_ND[asked_B]).astype(np.float32), strict=True):
                same_M = key_M == key[row]
                junk_M = same_M & (camera_M == camera[row]) & (camera[row] >= 0) & (self.same_camera == "junk")
                left_M = ~junk_M & (shown_M != row)
                if not (same_M & left_M).any():
                    without += 1
                    continue
                candidates = np.flatnonzero(left_M)
                best = candidates[np.argsort(-score_M[candidates], kind="stable")[:SHOWN]]
                rows["query"].append(samples[row].uid)
                rows["group"].append(samples[row].group or samples[row].uid)
                rows["camera"].append(cameras[row])
                rows["gallery"].append(int(left_M.sum()))
                rows["junk"].append(int(junk_M.sum() - junk_M[shown_M == row].sum()))
                rows["blocks"].append([list(b) for b in RankedList.of(score_M[left_M], same_M[left_M]).blocks])
                rows["top"].append([samples[shown_M[at]].uid for at in best])
                rows["top_score"].append(score_M[best].astype(float).tolist())
        if not rows["query"]:
            raise DataError(
                f"no query picture of '{data.name}' has a match",
                field="group",
                expected="another picture of its person, from another camera unless same_camera is kept",
            )
        return with_facts(
            pa.table(rows),
            options=asdict(self),
            images=len(shown_M),
            identities=len(person),
            queries_without_match=without,
            unreadable=[asdict(one) for one in shown.unreadable],
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        metrics = list_metrics(records, self.ks, draws=self.draws, seed=self.seed)
        groups = records.column("group").to_pylist()
        notes = {
            **facts_of(records),
            "ties": "expected",
            "interval": f"95 % percentile, {self.draws} draws of identities, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(groups), len(set(groups)), notes=notes)

    @staticmethod
    def item_values(records: pa.Table, metric: str) -> Floats | None:
        """Values [N, 1] of a metric by query."""
        return list_values(records, metric)


def _roles(samples: Sequence[Sample], name: str) -> tuple[rk.Ints, rk.Ints]:
    """Query rows and gallery rows."""
    role = [str(sample.extras.get(ROLE) or "") for sample in samples]
    if not any(role):
        every = np.arange(len(samples))
        return every, every
    wrong = next((at for at, value in enumerate(role) if value not in ("query", "gallery")), None)
    if wrong is not None:
        raise DataError(
            f"sample '{samples[wrong].uid}' of '{name}' is {role[wrong]!r} while others say who asks",
            field=ROLE,
            expected="query or gallery for every picture, or for none",
        )
    asks, shown = (np.array([at for at, value in enumerate(role) if value == kind], np.int64) for kind in ("query", "gallery"))
    if not len(asks) or not len(shown):
        kind = "query" if not len(asks) else "gallery"
        raise DataError(f"no picture of '{name}' is a {kind}", field=ROLE, expected="pictures of both roles")
    return asks, shown
