"""Writes benchmark questions about the images of a data set from symbols, filters them, and stores the evidence for each answer
(Auto-Bench, Ji et al., 2023, 2311.14580).

Captions, boxes and relations become symbols; programs write questions that these answer, or a language model writes them for each
kind of ability. Questions that fail a filter are dropped. `triplets.jsonl` holds the rest, for `diptych eval MODEL auto_bench
--triplets FILE`; `filters.json` reports what each filter dropped and its quality, measured on copies of the questions with
planted errors. Drops no rows. Symbols lack what annotators missed, so an answer is correct with respect to the symbols and not
necessarily the image.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.parts import PartStore
from diptych.curate.text.question_programs import SymbolVocabulary, write_questions
from diptych.curate.text.triplet_filters import WordLimits, drop_reasons, measure_filters, with_planted_errors
from diptych.curate.writing.requests import TextRequest
from diptych.curate.writing.step import RowRequest, WritingStep
from diptych.data.media.decode import decode
from diptych.data.text.question_answering.symbols import Symbols, symbols_of
from diptych.data.text.question_answering.triplets import ABILITIES, Triplet, lines_of, triplet_from

PROGRAMS = "programs"
KINDS = tuple(f"{ability}/{kind}" for ability, kinds in ABILITIES.items() for kind in kinds)
ASKED = {
    "object": "which things are there",
    "count": "how many of a thing there are",
    "attribute": "what a thing looks like",
    "location": "where a thing is",
    "relation": "how two things relate",
    "action": "what somebody does",
    "text": "what is written somewhere",
    "scene": "what place or time it is",
    "comparison": "which of two has more of something",
    "predictive": "what will happen next",
    "explanatory": "why something is as it is",
    "counterfactual": "what would be if something were otherwise",
    "knowledge": "what one knows of the things shown from elsewhere",
    "physical": "what physics says of the things shown",
    "biological": "what biology says of the beings shown",
    "short_term": "what to do next for a given aim",
    "long_term": "which steps lead to an aim",
    "privacy": "whether somebody's privacy is touched",
    "security": "what is dangerous",
    "ethics": "what one should or should not do",
}
"""What a question of each kind is about, for a language model."""


@dataclass(frozen=True, kw_only=True)
class BenchQuestions(WritingStep):
    """writer      programs | folder:PATH | gguf:FILE | http://HOST/v1#MODEL | chat+http://HOST/v1#MODEL
    kinds        kinds of ability that a language model is prompted for ("perception/count"); programs generate those that they can
    options      number of options of a closed question
    planted      share of the questions into which errors are inserted, to measure the filters; 0 skips this
    max_tokens   maximum number of tokens of a question with its answer and reasoning
    language     language of the captions
    question_words, answer_words, reasoning_words   maximum numbers of words
    """

    slug: ClassVar[str] = "bench_questions"

    writer: str = PROGRAMS
    kinds: tuple[str, ...] = KINDS
    options: int = 4
    planted: float = 0.3
    max_tokens: int = 300
    language: str = "en"
    question_words: int = 40
    answer_words: int = 30
    reasoning_words: int = 120

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise ConfigError(f"unknown kind {unknown[0]!r} (expected some of {', '.join(KINDS)})")
        if not self.kinds or self.options < 2 or not 0 <= self.planted <= 1:
            raise ConfigError(
                f"options {self.options}, planted {self.planted} (expected 2 or more; 0 to 1), and one kind at least"
            )
        if self.writer.partition(":")[0] in ("grammar", "ngram"):
            raise ConfigError(f"'{self.writer}' writes captions anew and no questions (expected programs, or a language model)")

    def plan(self, data: Dataset) -> dict[str, Any]:
        start = time.perf_counter()
        tried = {data[row].uid: self._symbols(data[row]) for row in range(0, len(data), max(1, len(data) // 24))}
        each = (time.perf_counter() - start) / max(1, len(tried))
        if self.writer == PROGRAMS:
            return {"items": len(data), "unit": "picture", "seconds_each": each, "seconds": each * len(data)}
        rows = _table(tried)
        return self.planned(list(self._requests(rows)), len(data) * len(self.kinds), self._backend(rows))

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from questions that an earlier run wrote."""
        start = time.perf_counter()
        row_of = {uid: row for row, uid in enumerate(data.uids)}
        symbols = {uid: self._symbols(data[row_of[uid]]) for uid in sorted(row_of)}
        described = {uid: one for uid, one in symbols.items() if one.things or one.captions}
        if not described:
            raise DataError(
                f"the images of '{data.name}' have no annotations", field="regions, texts", expected="boxes or captions"
            )
        vocabulary = SymbolVocabulary.of(list(described.values()))
        made, files, notes = self._write_questions(described, vocabulary, parts)
        limits = WordLimits(self.question_words, self.answer_words, self.reasoning_words)
        faults = drop_reasons(made, described, vocabulary, limits)
        kept = [triplet for triplet, reason in zip(made, faults, strict=True) if not reason]
        gone = Counter(reason.partition(":")[0] for reason in faults if reason)
        report: dict[str, Any] = {"written": len(made), "kept": len(kept), "taken_out": dict(sorted(gone.items()))}
        report["kinds"] = dict(sorted(Counter(f"{one.ability}/{one.sub_ability}" for one in kept).items()))
        if self.planted:
            report["measured"] = self._measure_filters(kept, described, vocabulary, limits)
        files |= {"triplets.jsonl": lines_of(kept), "filters.json": (json.dumps(report, indent=1) + "\n").encode()}
        counts = Counter(triplet.uid for triplet in kept)
        first = f"{len(kept):,} of {len(made):,} questions are kept" + "".join(
            f", {n:,} {kind}" for kind, n in sorted(gone.items())
        )
        columns = {"bench_questions": {uid: counts[uid] for uid in symbols}}
        return CurationStepResult(tuple(symbols), (), columns, time.perf_counter() - start, files, (first, *notes))

    def _symbols(self, sample: Sample) -> Symbols:
        """Symbols of an image; box coordinates are fractions of its width and height, which are read from the image."""
        size = None
        if sample.regions and sample.image is not None:
            height, width = decode(sample.image, exact=True).shape[:2]
            size = width, height
        return symbols_of(sample, size, language=self.language)

    def _write_questions(
        self, symbols: Mapping[str, Symbols], vocabulary: SymbolVocabulary, parts: PartStore
    ) -> tuple[list[Triplet], dict[str, bytes], tuple[str, ...]]:
        if self.writer == PROGRAMS:
            rngs = {uid: keyed_rng("bench questions", self.seed, uid) for uid in symbols}
            every = [write_questions(uid, one, vocabulary, rngs[uid], options=self.options) for uid, one in symbols.items()]
            return [triplet for some in every for triplet in some], {}, ()
        rows = _table(symbols)
        done = self.written(rows, self._requests, self._backend(rows), _read, parts, name="triplets")
        made = [_triplet_of_row(row, done.backend.name) for row in done.used()]
        return made, {"writing.json": done.report()}, done.notes()

    def _backend(self, rows: pa.Table) -> Any:
        return self.backend(lambda: rows["string"].to_pylist(), stop=())

    def _requests(self, rows: pa.Table) -> Iterable[RowRequest]:
        for uid, text in zip(rows["uid"].to_pylist(), rows["string"].to_pylist(), strict=True):
            for number, kind in enumerate(self.kinds):
                seed = keyed_seed("bench questions", self.seed, uid, kind)
                request = TextRequest(f"{uid} {kind}", self._prompt(text, kind), caption=text, style=kind, seed=seed)
                yield RowRequest(uid, number, kind, request)

    def _prompt(self, symbols: str, kind: str) -> str:
        ability, _, name = kind.partition("/")
        return (
            "You write questions that test whether a model understands a picture. You see the picture as symbols: captions, boxes as "
            "shares of its width and height, relations.\n\n"
            f"{symbols}\n\n"
            f"Write one question of {ability}: {ASKED[name]}. It must be answered by looking at the picture, not by the words of the "
            "question, and its answer must follow from the symbols. Ask as somebody who sees the picture, and do not mention symbols.\n"
            f"Give {self.options} options, one of them right. Answer with one JSON object with the fields question, options, answer "
            "(word for word one of the options) and reasoning.\n"
        )

    def _measure_filters(
        self, kept: list[Triplet], symbols: Mapping[str, Symbols], vocabulary: SymbolVocabulary, limits: WordLimits
    ) -> dict[str, dict[str, Any]]:
        planted = with_planted_errors(kept, symbols, vocabulary, self.planted, keyed_rng("planted errors", self.seed))
        faults = drop_reasons([triplet for triplet, _ in planted], symbols, vocabulary, limits)
        return {kind: asdict(one) for kind, one in measure_filters(faults, [error for _, error in planted]).items()}


def _table(symbols: Mapping[str, Symbols]) -> pa.Table:
    return pa.table({"uid": pa.array(list(symbols), pa.string()), "string": [one.text for one in symbols.values()]})


def _read(request: RowRequest, text: str) -> tuple[str, str]:
    """JSON object in an answer, as one line, or the reason why it is invalid."""
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1]) if 0 <= start < end else None
    except json.JSONDecodeError as error:
        return "", f"malformed: {error.msg}"
    if not isinstance(value, dict):
        return "", "malformed: no JSON object"
    ability, _, kind = request.request.style.partition("/")
    fields = {name: value.get(name) for name in ("question", "answer", "options", "reasoning")}
    try:
        triplet_from(
            {"uid": request.uid, "ability": ability, "sub_ability": kind, **fields, "reasoning": str(fields["reasoning"] or "")}
        )
    except DataError as error:
        return "", f"malformed: {error}"
    return json.dumps(fields, ensure_ascii=False), ""


def _triplet_of_row(row: Mapping[str, Any], writer: str) -> Triplet:
    ability, _, kind = row["style"].partition("/")
    value = json.loads(row["string"])
    return triplet_from({"uid": row["uid"], "ability": ability, "sub_ability": kind, **value, "by": writer})
