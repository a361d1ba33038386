"""Summary of a tagging run: counts and kinds left by each stage, accuracy, speed.

`TaggingResult` is what is kept of one image while the run goes on; it travels as JSON. The summary is `tagging.json` beside the tables,
and the lines that the command prints; seconds are printed alone, so that equal work gives equal files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from diptych.core.config import from_plain
from diptych.core.scene_graph import Relation
from diptych.curate.tagging.caption_triplets import Spans
from diptych.curate.tagging.relation_tags import StageCounts, TaggingTrace

Triple = tuple[int, str, int]
LISTED = 12
"""Predicates that a line lists."""


@dataclass(frozen=True, slots=True)
class TaggingResult:
    """Result of one image. `reason` is why it leaves, "" when it stays; counts and trace are None if it could not be tagged.

    seconds  seconds of the whole tagging
    """

    reason: str = ""
    relations: tuple[Relation, ...] = ()
    counts: StageCounts | None = None
    trace: TaggingTrace | None = None
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> TaggingResult:
        return from_plain(cls, json.loads(text))


@dataclass(frozen=True, slots=True)
class TaggingSummary:
    """Summary of a run; `against` holds counts where the data had relations of their own."""

    images: int
    kept: int
    stages: dict[str, int]
    kinds: dict[str, int]
    predicates: dict[str, int]
    scored: int
    seconds: float
    against: dict[str, int]

    @classmethod
    def of(
        cls, answers: Sequence[TaggingResult], labels: Sequence[Sequence[str]], truths: Sequence[frozenset[Triple] | None]
    ) -> TaggingSummary:
        """Summary of results. `labels` of the regions of each image; `truths` its own relations, None if the data have none at all."""
        stages: Counter[str] = Counter(dict.fromkeys(StageCounts.__dataclass_fields__, 0))
        predicates: Counter[str] = Counter()
        kinds: dict[str, set[Spans]] = {"parsed": set(), "linked": set(), "relations": set()}
        against: Counter[str] = Counter()
        for answer, named, truth in zip(answers, labels, truths, strict=True):
            stages.update(asdict(answer.counts) if answer.counts else {})
            predicates.update(relation.predicate for relation in answer.relations)
            kinds["relations"] |= {(named[r.subject], r.predicate, named[r.object]) for r in answer.relations}
            if answer.trace:
                kinds["parsed"] |= {spans for spans, _ in answer.trace.parsed}
                kinds["linked"] |= set(answer.trace.linked)
            if truth is not None:
                tagged = {(r.subject, r.predicate, r.object) for r in answer.relations}
                against.update({"tagged": len(tagged), "true": len(truth), "right": len(tagged & truth)})
        ranked = dict(sorted(predicates.items(), key=lambda item: (-item[1], item[0])))
        return cls(
            len(answers),
            sum(not answer.reason for answer in answers),
            dict(stages),
            {name: len(tagged) for name, tagged in kinds.items()},
            ranked,
            sum(answer.trace.scored for answer in answers if answer.trace),
            sum(answer.seconds for answer in answers),
            dict(against),
        )

    @property
    def precision(self) -> float:
        """Share of the tagged relations that the data have too; 0 where nothing was tagged."""
        return self.against["right"] / max(1, self.against["tagged"])

    @property
    def recall(self) -> float:
        return self.against["right"] / max(1, self.against["true"])

    def file(self) -> bytes:
        """Content of tagging.json: everything but the seconds."""
        plain = {name: value for name, value in asdict(self).items() if name != "seconds"}
        if self.against:
            plain["against"] |= {"precision": self.precision, "recall": self.recall}
        return (json.dumps(plain, indent=1, ensure_ascii=False) + "\n").encode()

    def lines(self) -> list[str]:
        s, k = self.stages, self.kinds
        lines = [
            f"captions {s['captions']:,} -> triplets {s['parsed']:,} in {k['parsed']:,} kinds -> in the picture {s['linked']:,} in "
            f"{k['linked']:,} kinds -> pairs {s['pairs']:,} -> proposed {s['proposed']:,} -> relations {s['relations']:,} in "
            f"{k['relations']:,} kinds",
        ]
        if self.predicates:
            first = list(self.predicates.items())[:LISTED]
            more = f" and {len(self.predicates) - LISTED:,} more" if len(self.predicates) > LISTED else ""
            lines.append(f"predicates: {', '.join(f'{name} {count:,}' for name, count in first)}{more}")
        if self.against:
            lines.append(
                f"against the relations of the data: precision {self.precision:.3f}, recall {self.recall:.3f} "
                f"({self.against['right']:,} right of {self.against['tagged']:,} tagged and {self.against['true']:,} true)"
            )
        if self.seconds > 0 and self.scored:
            hours = 1e6 * self.seconds / self.images / 3600
            lines.append(
                f"{self.scored / self.seconds:,.0f} pairs per second, {self.images / self.seconds:,.1f} images per second: a million such "
                f"images take {hours:,.1f} hours of one process like this"
            )
        return lines


def drift(before: Iterable[tuple[str, int]], after: Iterable[tuple[str, int]]) -> float:
    """Total variation between two distributions of predicates, 0 (equal) to 1; 1 when one of them is empty and the other is not."""
    one, other = dict(before), dict(after)
    total, sums = 0.0, (max(1, sum(one.values())), max(1, sum(other.values())))
    for name in one.keys() | other.keys():
        total += abs(one.get(name, 0) / sums[0] - other.get(name, 0) / sums[1])
    return total / 2 if one and other else float(bool(one) != bool(other))
