"""Translates captions into other languages (RS-M-CLIP; Silva et al., 2024, 2410.23370). Drops no rows.

Every caption of the source language is translated by a language model (`curate.writing`), once per language, and stored in the
column ``text_variants`` with its language, model, hash of the prompt, source text and licence. Answers that are empty, repeat the
caption or lose a number are counted by kind in ``writing.json`` and never used. `diptych train rs_m_clip --data OUT` draws one
language per step.

The languages are the published ones; the translator (`writer`) can be any language model that follows instructions. Split the
data by image before translating: translations of one caption are nearly the same text.

Cost: one text of the writer per caption and language.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import OrderedRows
from diptych.curate.engine.verdicts import StringColumn
from diptych.curate.text.texts import texts_of
from diptych.curate.writing.requests import TextRequest
from diptych.curate.writing.step import TRIED, GeneratedTexts, RowRequest, WritingStep
from diptych.data.ragged import starts_of_runs
from diptych.data.text.captions.variants import VARIANTS
from diptych.data.text.languages import NAMES

PUBLISHED = ("pt", "es", "fr", "de", "nl", "it", "zh", "ko", "ru")
PROMPT = (
    "Translate the image caption from {source} into {target}. Keep every number and name, add nothing, and answer with the translation "
    "alone, on one line.\n\n{source}: {caption}\n{target}:"
)
_DIGITS = re.compile(r"\d+")


@dataclass(frozen=True, kw_only=True)
class Translate(WritingStep):
    """languages  target languages, by tag
    language   language of captions to translate; captions of unknown language are included
    origins    origins of the captions
    prompt     prompt of the model; {source} and {target} are the languages' English names, {caption} the caption on one line
    numbers    a translation must contain the caption's numbers
    """

    slug: ClassVar[str] = "translate"

    writer: str = ""
    temperature: float = 0.0
    max_tokens: int = 128
    languages: tuple[str, ...] = PUBLISHED
    language: str = "en"
    origins: tuple[str, ...] = ("alt", "caption", "label")
    prompt: str = PROMPT
    numbers: bool = True

    def __post_init__(self) -> None:
        for tag in (*self.languages, self.language):
            if tag not in NAMES:
                raise UnknownName("language", tag, NAMES)
        if not self.languages or self.language in self.languages or len(set(self.languages)) < len(self.languages):
            raise ConfigError(
                f"languages are {list(self.languages)}, from '{self.language}' (expected one or more others, each once)"
            )
        if "{target}" not in self.prompt or "{caption}" not in self.prompt:
            raise ConfigError(f"prompt is {self.prompt[:60]!r} (expected {{target}} and {{caption}} in it)")

    @classmethod
    def paper(cls) -> Self:
        """Nine languages: name the model (`writer`)."""
        return cls()

    def plan(self, data: Dataset) -> dict[str, Any]:
        rows = self._rows(data)
        total = rows.num_rows * len(self.languages)
        some = list(self._requests(rows.take(pa.array(range(0, rows.num_rows, max(1, total // TRIED))))))
        return self.planned(some, total, self._translator())

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from texts that an earlier run wrote."""
        start = time.perf_counter()
        rows = OrderedRows.of(data)
        done = self.written(self._rows(data), self._requests, self._translator(), self._read, parts)
        variants = self._variants(rows, done)
        columns = {} if variants is None else {VARIANTS: variants}
        files = {"writing.json": done.report()}
        return CurationStepResult(StringColumn(rows.uids), (), columns, time.perf_counter() - start, files, done.notes())

    def _translator(self) -> Any:
        if not self.writer or self.writer.partition(":")[0] in ("grammar", "ngram"):
            problem = f"'{self.writer}' does not translate" if self.writer else "translate needs a model"
            raise ConfigError(f"{problem} (expected --writer folder:PATH, gguf:FILE or http://HOST/v1#MODEL)")
        return self.backend(list)

    def _rows(self, data: Dataset) -> pa.Table:
        """Captions to translate: uid, string, origin, and index among its row's captions, in order of uid."""
        captions = texts_of(data, language=self.language, origins=self.origins).select(["uid", "string", "origin"])
        if not captions.num_rows:
            raise DataError(
                f"'{data.name}' has no caption in language '{self.language}'",
                field="texts",
                expected=f"texts of origin {' or '.join(self.origins)} (--origins, --language)",
            )
        row_R = np.arange(captions.num_rows)
        first_R = np.maximum.accumulate(np.where(starts_of_runs(captions["uid"]), row_R, 0))
        return captions.append_column("place", pa.array(row_R - first_R)).append_column("row", pa.array(row_R))

    def _requests(self, part: pa.Table) -> Iterator[RowRequest]:
        for row in part.to_pylist():
            for number, tag in enumerate(self.languages):
                key = (row["uid"], row["place"], tag)
                caption = " ".join(row["string"].split())
                seed = keyed_seed(self.seed, "translate", *key)
                request = TextRequest("/".join(map(str, key)), self._filled_prompt(tag, caption), caption, style=tag, seed=seed)
                source = f"{row['origin']} {row['place']}"
                yield RowRequest(row["uid"], row["place"] * len(self.languages) + number, source, request)

    def _filled_prompt(self, tag: str, caption: str) -> str:
        """Prompt with its fields filled in; braces in the caption are left unchanged."""
        fields = {"source": NAMES[self.language], "target": NAMES[tag], "caption": caption}
        return re.sub(r"\{(source|target|caption)\}", lambda match: fields[match[1]], self.prompt)

    def _read(self, request: RowRequest, raw: str) -> tuple[str, str]:
        text, caption = " ".join(raw.split("\n", 1)[0].split()), request.request.caption
        if not text:
            return "", "empty: nothing on the answer's line"
        if text.casefold() == caption.casefold():
            return text, "copy: of the caption"
        if self.numbers and sorted(_DIGITS.findall(text)) != sorted(_DIGITS.findall(caption)):
            return text, f"number: not those of '{caption[:60]}'"
        return text, ""

    def _variants(self, rows: OrderedRows, done: GeneratedTexts) -> pa.Table | None:
        """Accepted translations with their origin, without duplicates per row and language."""

        def texts(sample: Sample, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
            distinct = {(row["string"], row["style"]): row for row in reversed(written)}
            return [
                {
                    "string": row["string"],
                    "language": row["style"],
                    "origin": "rewrite",
                    "source": row["source"],
                    "style": "translation",
                    "model": done.backend.name,
                    "terms": done.backend.terms,
                    "prompt": row["prompt"],
                    "licence": sample.licence,
                }
                for row in written
                if distinct[row["string"], row["style"]] is row
            ]

        return done.variants(rows, texts)
