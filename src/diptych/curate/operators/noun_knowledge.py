"""Builds DesCo's knowledge file about nouns (Li et al., 2023, 2306.14060): the kind of each, its appearance, and similar nouns.
Drops no rows; `knowledge.json` is written beside the tables, for `diptych train desco --knowledge OUT/knowledge.json`.

There are three sources: a grammar that uses only names and box attributes; dictionary definitions (`glosses`); or a language
model (`writer`) that answers in the JSON format of the published files. An answer that is not such JSON, has no kind or repeats
the name is counted in `writing.json` and discarded, so its noun is missing. A noun without a definition falls back to the grammar
and is counted.

The released files were written with GPT-3 and a different prompt; how many answers were discarded is not published.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_seed
from diptych.curate.engine.parts import PartStore
from diptych.curate.text import noun_grammar
from diptych.curate.text.glosses import lemma, read_glosses
from diptych.curate.writing.requests import TextRequest
from diptych.curate.writing.step import RowRequest, WritingStep
from diptych.data.text.captions.phrases import sentences_of
from diptych.data.text.descriptions.description_queries import spoken_name
from diptych.data.text.descriptions.knowledge import parse_noun

FILE, REPORT = "knowledge.json", "writing.json"
PROMPT = """\
For each thing: its type (a more general word), what can be seen of it (parts with "; " between them) and things it could be mistaken for.

thing: cup
{{"type": "vessel", "description": "small and round; open at the top; could have a handle", "similar objects": ["mug", "bowl", "glass"]}}

thing: zebra
{{"type": "animal", "description": "black and white stripes; four legs; a short mane", "similar objects": ["horse", "donkey", "okapi"]}}

thing: {name}
"""


@dataclass(frozen=True, kw_only=True)
class NounKnowledge(WritingStep):
    """names     file of nouns, one per line; "" uses labels of boxes and the last words of phrases
    glosses   definitions: a folder of WordNet, LVIS's JSON, or {noun: definition} (`curate.text.glosses`); "" uses none
    similar   maximum number of similar nouns; from a dictionary only those in the list of names
    share     minimum share of the boxes of a noun with an attribute, for the grammar to mention it
    parts     maximum number of attributes that the grammar mentions
    """

    slug: ClassVar[str] = "noun_knowledge"
    paths: ClassVar[tuple[str, ...]] = ("names", "glosses")

    names: str = ""
    glosses: str = ""
    similar: int = 5
    share: float = 0.25
    parts: int = 4
    max_tokens: int = 160

    def __post_init__(self) -> None:
        if self.similar < 0 or not 0 < self.share <= 1 or self.parts < 0:
            raise ConfigError(
                f"similar is {self.similar}, share {self.share}, parts {self.parts} (expected 0 or more, above 0 to 1, 0 or more)"
            )
        if self.glosses and self.writer != "grammar":
            raise ConfigError(f"glosses is {self.glosses!r} and writer {self.writer!r} (expected one of the two)")
        if self.writer.startswith("ngram"):
            raise ConfigError(f"writer is {self.writer!r} (expected grammar, or a language model, which answers in JSON)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        rows = self._rows(_NounStatistics.of(data, self.names))
        if self.writer == "grammar":
            return {"items": rows.num_rows, "unit": "noun", "seconds": 0.0}
        return self.planned(list(self._requests(rows)), rows.num_rows, self.backend(lambda: ()))

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from the entries that an earlier run wrote."""
        start = time.perf_counter()
        seen = _NounStatistics.of(data, self.names)
        notes: tuple[str, ...] = ()
        made: Mapping[str, Any]
        if self.writer != "grammar":
            done = self.written(self._rows(seen), self._requests, self.backend(lambda: ()), _read, parts)
            made = {row["uid"]: json.loads(row["string"]) for row in done.used()}
            report, notes = done.report(), done.notes()
        else:
            made, counts = self._from_data(seen)
            report = (json.dumps(counts, indent=1) + "\n").encode()
            notes = (", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in counts.items()),)
        entries = {name: {**entry, "frequency": seen.captions[name]} for name, entry in sorted(made.items())}
        text = json.dumps(entries, ensure_ascii=False, indent=1) + "\n"
        kept = tuple(sorted(data.uids))
        return CurationStepResult(kept, (), {}, time.perf_counter() - start, {FILE: text.encode(), REPORT: report}, notes)

    def _from_data(self, seen: _NounStatistics) -> tuple[Mapping[str, Any], dict[str, int]]:
        """Entries written by the grammar, and from definitions where available."""
        options = {"share": self.share, "parts": self.parts, "similar": self.similar}
        made = noun_grammar.knowledge_entries(seen.names, seen.attributes, seen.boxes, **options)  # type: ignore[arg-type]
        if not self.glosses:
            return made, {"by_the_grammar": len(made)}
        defined, hits = read_glosses(Path(self.glosses)), 0
        by_lemma = {lemma(spoken_name(name)): name for name in reversed(seen.names)}
        for name in seen.names:
            key = next((k for k in (lemma(name), lemma(spoken_name(name))) if k in defined), "")
            if key:
                entry = defined[key].entry()
                alike = [by_lemma[one] for one in map(lemma, entry["similar objects"]) if by_lemma.get(one, name) != name]
                made[name] = {**entry, "similar objects": (alike or made[name]["similar objects"])[: self.similar]}
                hits += 1
        if not hits:
            raise DataError(f"defines none of {len(made)} nouns, {seen.names[0]!r} among them", file=Path(self.glosses))
        return made, {"from_definitions": hits, "by_the_grammar": len(made) - hits}

    @staticmethod
    def _rows(seen: _NounStatistics) -> pa.Table:
        return pa.table({"uid": list(seen.names), "row": list(range(len(seen.names)))})

    def _requests(self, part: pa.Table) -> Iterator[RowRequest]:
        for name in part["uid"].to_pylist():
            seed = keyed_seed(self.seed, self.slug, name)
            yield RowRequest(
                name, 0, "name", TextRequest(name, PROMPT.format(name=spoken_name(name)), name, style="knowledge", seed=seed)
            )


def _read(request: RowRequest, raw: str) -> tuple[str, str]:
    """Answer as one line of JSON, or the reason why it is invalid."""
    noun = parse_noun(raw.strip())
    if noun is None:
        return raw, 'malformed: no JSON with "type" and "description"'
    kind = noun.kind.removeprefix("a kind of ").strip()
    if not kind or not noun.description:
        return raw, "empty: no type or no description"
    if kind.casefold() == spoken_name(request.uid).casefold():
        return raw, "circular: the type is the name"
    entry = {"type": kind, "description": "; ".join(noun.description), "similar objects": list(noun.similar)}
    return json.dumps(entry, ensure_ascii=False), ""


@dataclass(frozen=True, slots=True)
class _NounStatistics:
    """Nouns in order, boxes and attributes of each, and the number of caption mentions of each."""

    names: tuple[str, ...]
    boxes: Counter[str]
    attributes: Mapping[str, Counter[str]]
    captions: Counter[str]

    @classmethod
    def of(cls, data: Dataset, file: str) -> _NounStatistics:
        boxes: Counter[str] = Counter()
        attributes: dict[str, Counter[str]] = {}
        phrases: set[str] = set()
        texts: Counter[str] = Counter()
        for row in range(len(data)):
            sample = data[row]
            for region in sample.regions:
                boxes[region.label] += 1
                attributes.setdefault(region.label, Counter()).update(dict.fromkeys(region.attributes, 1))
            for sentence in sentences_of(sample):
                texts[sentence.text] += 1
                marked = sentence.marked
                ends = [" ".join(marked.words(index)).split() for index in range(len(sentence.phrases))]
                phrases.update(words[-1] for words in ends if words)
            texts.update(text.string for text in sample.texts if text.origin in ("alt", "caption"))
        names = _read_names(Path(file)) if file else sorted({*boxes, *phrases})
        if not names:
            raise DataError(f"'{data.name}' has no label and no phrase", field="regions", expected="boxes, or a file of names")
        return cls(tuple(names), boxes, attributes, _count_names(names, texts.items()))


def _read_names(path: Path) -> list[str]:
    try:
        names = sorted({line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()})
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"is not a readable file of names ({error})", file=path, expected="UTF-8, one name per line") from error
    if not names:
        raise DataError("has no name", file=path, expected="one name per line")
    return names


def _count_names(names: Iterable[str], texts: Iterable[tuple[str, int]]) -> Counter[str]:
    """Counts of each name in the texts as whole words, in any case."""
    by_lemma: dict[str, list[str]] = {}
    for name in names:
        by_lemma.setdefault(lemma(spoken_name(name)), []).append(name)
    longest = max((len(words.split()) for words in by_lemma), default=0)
    counts: Counter[str] = Counter()
    for text, times in texts:
        words = [word.strip('.,;:!?"()') for word in text.lower().split()]
        for start in range(len(words)):
            for stop in range(start + 1, min(start + longest, len(words)) + 1):
                for name in by_lemma.get(" ".join(words[start:stop]), ()):
                    counts[name] += times
    return counts
