"""Cleans tracker identities: PLIP's seed filter (2305.08386) for noisy person labels.

Within an identity, the image least similar to the mean of the others is removed until all are similar; a removed image joins a
neighbouring identity that it resembles; neighbouring identities with nearly the same mean are merged. Neighbours are identities
with close numbers, as a tracker assigns them. Then images with too many unknown attributes are dropped, as are identities whose
images disagree on the gender or that have too few images; the largest identities are subsampled. The new identity is the column
``person``: read the pool with ``group=person``. Cost: one embedding per row. Each drop reason names its rule; rows without an
image are dropped.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diptych.core.contracts import CurationStepResult, Dataset, Drop
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.curate.engine.costs import estimate_cost
from diptych.curate.engine.embedding import embed_pool, open_embedder
from diptych.curate.engine.parts import PartStore

COLUMN = "person"
UNKNOWN = "unknown"
GENDER, UPPER, LOWER = 0, 2, 3
"""Indices into the six attributes of SYNTH-PEDES."""
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class IdentitySeed:
    """model     address of a model that embeds persons
    column     column of integer identities from a tracker; without it identities are numbered in the order of their group names
    alike      minimum cosine of a picture to the mean of the others of its identity, to stay in it
    joins      minimum cosine of a removed picture to the mean of a neighbouring identity, to join it
    merges     identities are merged if the cosine of their means is above this
    reach      maximum difference between the numbers of neighbouring identities
    unknown    number of unknown attributes from which a picture is dropped, also if upper and lower clothes are unknown; 0 turns this off
    gender     share of an identity's pictures that must agree on the gender, more than this; 0 turns this off
    fewest, most  minimum and maximum number of pictures of an identity: smaller ones are dropped, larger ones are sampled
    seed       seed of that sampling
    """

    slug: ClassVar[str] = "identity_seed"
    paths: ClassVar[tuple[str, ...]] = ()

    model: str = ""
    column: str = "identity"
    alike: float = 0.6
    joins: float = 0.65
    merges: float = 0.62
    reach: int = 2
    unknown: int = 3
    gender: float = 0.7
    fewest: int = 5
    most: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("alike", "joins", "merges", "gender"):
            if not -1 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)} (expected a number up to 1)")
        if self.fewest < 1 or self.most < self.fewest or self.reach < 0:
            raise ConfigError(
                f"fewest {self.fewest}, most {self.most}, reach {self.reach} (expected 1 or more, not below it, 0 or more)"
            )

    def plan(self, data: Dataset) -> dict[str, Any]:
        model = open_embedder(self.model)
        return estimate_cost(data, lambda image: model.embed_images([image]), unit="embedding (one at a time)")

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from embeddings that an earlier run finished."""
        start = time.perf_counter()
        numbers = self._numbers(data)
        embeddings = embed_pool(data, open_embedder(self.model), parts)
        reasons = {uid: f"unreadable: {reason}" for uid, reason in embeddings.unreadable.items()}
        embedded = {*embeddings.uids}
        reasons |= {uid: "no image" for uid in data.uids if uid not in embeddings.unreadable and uid not in embedded}
        vectors = dict(zip(embeddings.uids, embeddings.vector_ND, strict=True))
        person, left = final_identities(
            vectors, numbers, alike=self.alike, joins=self.joins, merges=self.merges, reach=self.reach
        )
        reasons |= left
        row_of = {uid: row for row, uid in enumerate(data.uids)}
        attributes = {uid: data[row_of[uid]].extras.get("attributes") for uid in person}
        reasons |= self._unknown(person, attributes)
        reasons |= self._disagreeing({u: p for u, p in person.items() if u not in reasons}, attributes)
        reasons |= self._odd_identities({u: p for u, p in person.items() if u not in reasons})
        kept = tuple(uid for uid in sorted(data.uids) if uid not in reasons)
        dropped = tuple(Drop(uid, self.slug, reasons[uid]) for uid in sorted(reasons))
        columns = {COLUMN: {uid: f"person-{person[uid]}" for uid in kept}} if kept else {}
        return CurationStepResult(kept, dropped, columns, time.perf_counter() - start)

    def _numbers(self, data: Dataset) -> dict[str, int]:
        samples = [data[row] for row in range(len(data))]
        given = [sample.extras.get(self.column) for sample in samples]
        if all(value is None for value in given):
            order = {group: at for at, group in enumerate(sorted({*data.groups}))}
            return {sample.uid: order[group] for sample, group in zip(samples, data.groups, strict=True)}
        for row, value in enumerate(given):
            if not isinstance(value, int) or isinstance(value, bool):
                raise DataError(f"the identity is {value!r}", row=row, field=self.column, expected="a whole number in every row")
        return {sample.uid: int(value) for sample, value in zip(samples, given, strict=True) if value is not None}

    def _unknown(self, person: Mapping[str, int], attributes: Mapping[str, Sequence[str] | None]) -> dict[str, str]:
        faults: dict[str, str] = {}
        for uid in person:
            of_row = attributes[uid]
            if not self.unknown or of_row is None:
                continue
            if len(of_row) != 6:
                raise DataError(
                    f"sample '{uid}' has {len(of_row)} attributes",
                    field="attributes",
                    expected="six: gender, head, upper, lower, shoes, belongings",
                )
            missing = sum(value == UNKNOWN for value in of_row)
            if missing >= self.unknown:
                faults[uid] = f"{missing} attributes are unknown"
            elif of_row[UPPER] == of_row[LOWER] == UNKNOWN:
                faults[uid] = "neither upper nor lower clothes are known"
        return faults

    def _disagreeing(self, person: Mapping[str, int], attributes: Mapping[str, Sequence[str] | None]) -> dict[str, str]:
        if not self.gender:
            return {}
        votes: dict[int, Counter[str]] = {}
        for uid, number in person.items():
            of_row = attributes[uid]
            if of_row is not None and of_row[GENDER] != UNKNOWN:
                votes.setdefault(number, Counter())[of_row[GENDER]] += 1
        split = {number for number, of_person in votes.items() if max(of_person.values()) / of_person.total() <= self.gender}
        return {
            uid: f"pictures of person {number} do not agree on the gender" for uid, number in person.items() if number in split
        }

    def _odd_identities(self, person: Mapping[str, int]) -> dict[str, str]:
        members: dict[int, list[str]] = {}
        for uid in sorted(person):
            members.setdefault(person[uid], []).append(uid)
        faults: dict[str, str] = {}
        for number, uids in members.items():
            if len(uids) < self.fewest:
                faults |= {uid: f"person {number} has {len(uids)} pictures" for uid in uids}
            elif len(uids) > self.most:
                drawn = keyed_rng("identity seed", self.seed, number).permutation(len(uids))[: self.most]
                chosen = {uids[index] for index in drawn}
                faults |= {uid: f"not among the {self.most} drawn of person {number}" for uid in uids if uid not in chosen}
        return faults


def final_identities(
    vectors: Mapping[str, Floats], numbers: Mapping[str, int], *, alike: float, joins: float, merges: float, reach: int
) -> tuple[dict[str, int], dict[str, str]]:
    """Final identity of each image, and the drop reasons of the others. Independent of the order of rows.

    vectors  unit-norm, by uid
    numbers  the person that each picture is filed under
    """
    members: dict[int, list[str]] = {}
    for uid in sorted(vectors):
        members.setdefault(numbers[uid], []).append(uid)
    outcast: list[str] = []
    for uids in members.values():
        while len(uids) > 1:
            cosine = [float(vectors[uid] @ _centre([vectors[u] for u in uids if u != uid])) for uid in uids]
            if min(cosine) >= alike:
                break
            outcast.append(uids.pop(int(np.argmin(cosine))))
    centres = {number: _centre([vectors[uid] for uid in uids]) for number, uids in members.items()}
    reasons: dict[str, str] = {}
    for uid in sorted(outcast):
        near = [n for n in centres if n != numbers[uid] and abs(n - numbers[uid]) <= reach]
        best = max(near, key=lambda n: (float(vectors[uid] @ centres[n]), -n), default=None)
        if best is not None and float(vectors[uid] @ centres[best]) >= joins:
            members[best].append(uid)
        else:
            reasons[uid] = f"unlike the other pictures of person {numbers[uid]}, and like none of a neighbour's"
    root = {number: number for number in members}
    centres = {number: _centre([vectors[uid] for uid in uids]) for number, uids in members.items()}
    for number in sorted(members):
        for other in sorted(n for n in members if number < n <= number + reach):
            if float(centres[number] @ centres[other]) > merges:
                first, second = sorted((_root(root, number), _root(root, other)))
                root[second] = first
    person = {uid: _root(root, number) for number, uids in members.items() for uid in uids}
    return person, reasons


def _centre(rows: Sequence[Floats]) -> Floats:
    mean_D: Floats = np.mean(np.stack(rows).astype(np.float64), axis=0)
    centre_D: Floats = mean_D / max(float(np.linalg.norm(mean_D)), 1e-12)
    return centre_D


def _root(root: Mapping[int, int], number: int) -> int:
    while root[number] != number:
        number = root[number]
    return number
