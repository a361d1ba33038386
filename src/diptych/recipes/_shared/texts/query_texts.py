"""Detection queries of class descriptions: knowledge about classes, and every text that may stand in a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from diptych.core.contracts import Dataset
from diptych.core.sample import Sample
from diptych.data.text.captions.phrases import sentences_of
from diptych.data.text.descriptions.description_queries import spoken_name
from diptych.data.text.descriptions.knowledge import Knowledge, parse_knowledge


@dataclass(frozen=True, slots=True)
class ReiterableSamples:
    """The samples of a data set, gone through as often as is wanted and never held together."""

    data: Dataset

    def __iter__(self) -> Iterator[Sample]:
        return (self.data[row] for row in range(len(self.data)))


@lru_cache(maxsize=8)
def knowledge_from(text: str) -> Knowledge:
    """Class knowledge from the JSON that a prepared recipe keeps; empty for "" and "{}"."""
    return parse_knowledge(text, "known") if text not in ("", "{}") else Knowledge({})


def every_text(before: str, names: Sequence[str], knowledge: Knowledge, samples: Iterable[Sample]) -> Iterator[str]:
    """Every text that a query may be made of."""
    yield before
    for name in names:
        yield f"{spoken_name(name)}, "
    for noun in knowledge.values():
        yield ", ".join((noun.kind, *noun.description)) + ". "
    for sample in samples:
        for sentence in sentences_of(sample):
            yield sentence.text
            if sentence.written:
                yield from (*sentence.written.descriptions.values(), *sentence.written.confusable.values())
                yield from sentence.written.captions
