"""Caption rewriting in several styles (LaCLIP; Fan et al., 2023, 2305.20088). Drops no rows.

For each row and style the row's caption is written differently by a backend (`curate.writing`): a language model that is shown three
example pairs of the style and continues the list, as published, or a grammar that needs no model. What comes back is read as published
(the rest of the line, up to a further arrow), held against the caption, and stored as the column ``text_variants`` with style, model, hash
of the prompt, source text and licence. Answers that are empty, copies, or say something else are counted by kind in ``writing.json`` and
never used. `diptych train laclip --data OUT` draws one of caption and rewrites at a step.

Where this departs from the released script: texts are keyed by uid and not by line number, so a lost line shifts nothing; a prompt that is
longer than `context` is counted as "too long" where the script cuts its end, and with it the caption; each draw has a seed of its own where
the script has one a process; by default a rewrite has to keep numbers, names and negations (`check="none"` takes any, as published) and to
differ from the caption (`copies`). The published example lists are the authors': name them by `examples`.

Cost: a text of the writer a row and style. `--match MODEL` embeds every image and text once, for draws by similarity.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import OrderedRows
from diptych.curate.engine.verdicts import StringColumn
from diptych.curate.text.texts import texts_of
from diptych.curate.writing import in_context
from diptych.curate.writing.backends.grammar import STYLES
from diptych.curate.writing.faithful import fault
from diptych.curate.writing.requests import TextRequest
from diptych.curate.writing.step import TRIED, GeneratedTexts, RowRequest, WritingStep
from diptych.data.ragged import one_chunk, starts_of_runs
from diptych.data.text.captions.variants import SIMILARITY, VARIANTS

PUBLISHED = ("chatgpt", "bard", "coco", "human")
"""The four sources of examples in the paper."""


@dataclass(frozen=True, kw_only=True)
class Rewrite(WritingStep):
    """styles     styles of rewriting, one rewrite each: those of the grammar, and of the examples
    each       number of rewrites per style
    examples   file of example pairs by style (see `writing.in_context`); "" uses the built-in ones
    ask        "in_context": examples that the model continues, as published; "instruction": for models that follow instructions
    check      "facts": numbers, names and negations must be kept; "none": any text is used, as published
    copies     use an answer that repeats the caption
    language   language of captions to rewrite; captions of unknown language are included; "" rewrites all
    origins    origins of the caption: the row's first text of the first available origin
    min_words  captions with fewer words are not rewritten
    match      address of a model that embeds images and texts: the similarity of every text becomes the column text_similarity
    """

    slug: ClassVar[str] = "rewrite"
    paths: ClassVar[tuple[str, ...]] = ("examples",)

    styles: tuple[str, ...] = STYLES
    each: int = 1
    examples: str = ""
    ask: Literal["in_context", "instruction"] = "in_context"
    check: Literal["facts", "none"] = "facts"
    copies: bool = False
    language: str = "en"
    origins: tuple[str, ...] = ("alt", "caption", "label")
    min_words: int = 2
    match: str = ""

    def __post_init__(self) -> None:
        if not self.styles or self.each < 1 or self.min_words < 1:
            raise ConfigError(
                f"styles {list(self.styles)}, each {self.each}, min_words {self.min_words} (expected one or more of each)"
            )
        if self.ask not in ("in_context", "instruction") or self.check not in ("facts", "none"):
            raise ConfigError(f"ask is {self.ask!r}, check {self.check!r} (expected in_context | instruction, facts | none)")

    @classmethod
    def paper(cls) -> Self:
        """A rewrite of every caption from each of four sources by LLaMA-7B at temperature 0.9: name the model (`writer`) and the lists
        (`examples`). An answer without a word leaves its row a text short, where the release has an empty one, which training then
        replaces by the caption."""
        return cls(
            writer="folder:llama-7b",
            styles=PUBLISHED,
            temperature=0.9,
            top_p=0.95,
            max_tokens=77,
            context=395,
            check="none",
            copies=True,
            min_words=1,
        )

    def plan(self, data: Dataset) -> dict[str, Any]:
        rows = self._rows(data)
        backend = self.backend(lambda: StringColumn(rows["string"]))
        step = max(1, rows.num_rows * len(self.styles) * self.each // TRIED)
        some = list(self._requests(rows.take(pa.array(range(0, rows.num_rows, step)))))
        return self.planned(some, rows.num_rows * len(self.styles) * self.each, backend)

    def __call__(self, data: Dataset) -> CurationStepResult:
        return self.run(data, PartStore())

    def run(self, data: Dataset, parts: PartStore) -> CurationStepResult:
        """Result of the step, resuming from texts that an earlier run wrote."""
        start = time.perf_counter()
        captions, rows = self._rows(data), OrderedRows.of(data)
        backend = self.backend(lambda: StringColumn(captions["string"]))
        done = self.written(captions, self._requests, backend, self._read, parts)
        variants = self._variants(rows, captions, done)
        columns: dict[str, Any] = {} if variants is None else {VARIANTS: variants}
        if self.match:
            from diptych.curate.engine.agreement import agreements  # brings torch

            columns[SIMILARITY] = agreements(rows, self.match, variants, parts)
        files = {"writing.json": done.report()}
        return CurationStepResult(StringColumn(rows.uids), (), columns, time.perf_counter() - start, files, done.notes())

    def _rows(self, data: Dataset) -> pa.Table:
        """Caption of each row that has one worth rewriting: uid, string, language, origin, in order of uid."""
        for style in self.styles:
            in_context.style(style, self.examples)
            if self.writer == "grammar" and style not in STYLES:
                raise ConfigError(f"the grammar has no style {style!r} (expected of {', '.join(STYLES)}; or another --writer)")
        texts = texts_of(data, language=self.language, origins=self.origins)
        rank = pc.index_in(texts["origin"], value_set=pa.array(self.origins))
        texts = texts.append_column("rank", rank).sort_by([("uid", "ascending"), ("rank", "ascending"), ("row", "ascending")])
        texts = texts.filter(pa.array(starts_of_runs(texts["uid"])))
        words = (len(text.split()) for text in StringColumn(texts["string"]))
        long_N = np.fromiter((count >= self.min_words for count in words), bool, texts.num_rows)
        captions = texts.filter(pa.array(long_N)).select(["uid", "string", "language", "origin"])
        if not captions.num_rows:
            raise DataError(
                f"'{data.name}' has no caption of {self.min_words} words or more in language '{self.language}'",
                field="texts",
                expected=f"texts of origin {' or '.join(self.origins)} (--origins, --language, --min-words)",
            )
        return captions.append_column("row", pa.array(np.arange(captions.num_rows)))

    def _requests(self, part: pa.Table) -> Iterator[RowRequest]:
        form = in_context.prompt if self.ask == "in_context" else in_context.instruction
        for row in part.to_pylist():
            for number, (style, again) in enumerate((style, again) for style in self.styles for again in range(self.each)):
                key = (row["uid"], style, again)
                prompt = ""
                if self.writer not in ("grammar", "ngram"):
                    pairs = in_context.style(style, self.examples).draw(keyed_rng(self.seed, "examples", *key))
                    prompt = form(pairs, row["string"])
                request = TextRequest(
                    "/".join(map(str, key)), prompt, row["string"], style=style, seed=keyed_seed(self.seed, "rewrite", *key)
                )
                yield RowRequest(row["uid"], number, f"{row['origin']} 0", request)

    def _read(self, request: RowRequest, raw: str) -> tuple[str, str]:
        text, caption = in_context.caption_of_reply(raw), request.request.caption
        if not text:
            return "", "empty: nothing on the answer's line"
        if not self.copies and " ".join(text.split()).casefold() == " ".join(caption.split()).casefold():
            return text, "copy: of the caption"
        return text, fault(caption, text) if self.check == "facts" else ""

    def _variants(self, rows: OrderedRows, captions: pa.Table, done: GeneratedTexts) -> pa.Table | None:
        """Used texts with their origin; equal ones of a row once."""
        backend = done.backend
        languages = captions["language"].take(pc.index_in(done.used_rows()["uid"], value_set=one_chunk(captions["uid"])))
        language = iter(StringColumn(languages))

        def texts(sample: Sample, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
            tags = [next(language) for _ in written]
            strings = [row["string"] for row in written]
            return [
                {
                    "string": row["string"],
                    "language": tag,
                    "origin": "rewrite",
                    "source": row["source"],
                    "style": row["style"],
                    "model": backend.name,
                    "terms": backend.terms,
                    "prompt": row["prompt"],
                    "licence": sample.licence,
                }
                for number, (row, tag) in enumerate(zip(written, tags, strict=True))
                if self.copies or row["string"] not in strings[:number]
            ]

        return done.variants(rows, texts)
