"""Base of the steps that write texts: options, requests part by part, counting, and the plan of tokens and money."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_seed
from diptych.core.sample import Sample
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.rows import OrderedRows
from diptych.curate.engine.verdicts import StringColumn, dictionaries, made_column
from diptych.curate.writing.backend_address import BackendOptions, Corpus, open_backend
from diptych.curate.writing.requests import Sampling, TextBackend, TextRequest, prompt_hash
from diptych.curate.writing.writer import OFF_LINE, cached_answers
from diptych.data.text.captions.variants import VARIANT, VARIANTS
from diptych.models.endpoint.answers import AnswerCache

PART_ROWS, KEPT_PART_ROWS = 4_096, 256
"""Rows per part: for fast backends, and for those whose answers are cached one by one."""
TRIED, TIMED = 200, 2
"""Requests of which a plan counts tokens, and those that a local model is timed on."""
WRITTEN = pa.schema(
    [
        ("uid", pa.string()),
        ("number", pa.int32()),
        ("source", pa.string()),
        ("style", pa.string()),
        ("string", pa.string()),
        ("fault", pa.string()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("written_tokens", pa.int64()),
    ]
)
RUNTIME = {"runtime": True}
"""Metadata of fields that do not affect the output: they are not part of the stored configuration."""


@dataclass(frozen=True)
class RowRequest:
    """Request for a text of a row.

    source  name of the text of the row that is used ("alt 0")
    """

    uid: str
    number: int
    source: str
    request: TextRequest


Read = Callable[[RowRequest, str], tuple[str, str]]
"""(request, raw answer) -> (text, fault). A fault is "kind: reason", "" if there is no fault."""


@dataclass(frozen=True, kw_only=True)
class WritingStep:
    """writer       grammar | ngram | ngram:FILE | folder:PATH | gguf:FILE | http://HOST/v1#MODEL | chat+http://HOST/v1#MODEL
    temperature  sampling temperature; 0 is greedy decoding
    top_p        nucleus sampling: share of probability to sample from
    max_tokens   maximum number of generated tokens
    context      maximum number of tokens of a prompt, for a local model; 0: the model's limit. A longer prompt is counted as "too long"
    attempts     number of attempts if an answer is malformed or unfaithful, each with another seed
    terms        licence or terms of the model, for the provenance of its texts
    seed         seed of all draws
    at_once      batch size of a local model
    calls        number of parallel requests to an endpoint
    tries        number of attempts of a request that times out, is temporarily refused or breaks off
    timeout      seconds per attempt
    price_in     price per million input tokens
    price_out    price per million output tokens
    """

    writer: str = "grammar"
    temperature: float = 0.9
    top_p: float = 0.95
    max_tokens: int = 77
    context: int = 0
    attempts: int = 1
    terms: str = ""
    seed: int = 0
    at_once: int = field(default=16, metadata=RUNTIME)
    calls: int = field(default=8, metadata=RUNTIME)
    tries: int = field(default=4, metadata=RUNTIME)
    timeout: float = field(default=60.0, metadata=RUNTIME)
    price_in: float = field(default=0.0, metadata=RUNTIME)
    price_out: float = field(default=0.0, metadata=RUNTIME)

    def backend(self, corpus: Corpus, *, stop: tuple[str, ...] = ("\n",)) -> TextBackend:
        """Opens the text backend; `corpus` gives the texts that it may learn from."""
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts} (expected 1 or more)")
        options = BackendOptions(
            "",
            Sampling(self.temperature, self.top_p, self.max_tokens, stop),
            corpus,
            context=self.context,
            at_once=self.at_once,
            calls=self.calls,
            tries=self.tries,
            timeout=self.timeout,
            terms=self.terms,
        )
        return open_backend(self.writer, options)

    def written(
        self,
        rows: pa.Table,
        requests: Callable[[pa.Table], Iterable[RowRequest]],
        backend: TextBackend,
        read: Read,
        parts: PartStore,
        name: str = "written",
    ) -> GeneratedTexts:
        """Texts for every request of every part of `rows`, which are in order of uid; resumes where an earlier run stopped."""
        start, looked_up = time.perf_counter(), [0]
        size = KEPT_PART_ROWS if backend.kept else PART_ROWS
        with AnswerCache() as cache:
            kept = cache if backend.kept else None

            def work(part: pa.Table) -> pa.Table:
                return self._part(list(requests(part)), backend, read, kept, looked_up)

            made = PartStore(parts.folder, parts.key, size).mapped(rows, f"{name}-{backend.identity}", work)
        return GeneratedTexts(made, backend, looked_up[0], time.perf_counter() - start, self.price_in, self.price_out)

    def _part(
        self,
        row_requests: Sequence[RowRequest],
        backend: TextBackend,
        read: Read,
        cache: AnswerCache | None,
        looked_up: list[int],
    ) -> pa.Table:
        done: dict[int, dict[str, Any]] = {}
        open_places, tokens = list(range(len(row_requests))), Counter[int]()
        written: Counter[int] = Counter()
        for attempt in range(self.attempts):
            attempts = [_retry(row_requests[index].request, attempt) for index in open_places]
            answers, hits = cached_answers(attempts, backend, cache)
            looked_up[0] += hits
            for index, request, answer in zip(open_places, attempts, answers, strict=True):
                tokens[index] += answer.prompt_tokens
                written[index] += answer.written_tokens
                done[index] = _row(row_requests[index], request, answer, read, backend)
            open_places = [index for index in open_places if (f := done[index]["fault"]) and not f.startswith(OFF_LINE)]
        rows = [
            {**done[index], "prompt_tokens": tokens[index], "written_tokens": written[index]}
            for index in range(len(row_requests))
        ]
        return pa.Table.from_pylist(rows, schema=WRITTEN)

    def planned(self, row_requests: Sequence[RowRequest], total: int, backend: TextBackend) -> dict[str, Any]:
        """Estimated cost of `total` requests, by counting the tokens of some of them. An endpoint is not called: nothing is spent."""
        some = [row_request.request for row_request in row_requests[:: max(1, len(row_requests) // TRIED)][:TRIED]]
        if not some:
            return {"items": 0, "unit": "text", "seconds": 0.0}
        read = sum(backend.tokens(request.prompt or request.caption) for request in some) / len(some)
        about = sum(min(self.max_tokens, backend.tokens(request.caption)) for request in some) / len(some)
        facts: dict[str, Any] = {
            "items": total,
            "unit": f"text by {backend.name}",
            "tokens_read": round(read * total),
            "tokens_written": f"about {round(about * total):,} (as long as the captions), at most {self.max_tokens * total:,}",
        }
        if self.price_in or self.price_out:
            cost = [(read * self.price_in + out * self.price_out) * total / 1e6 for out in (about, self.max_tokens)]
            facts["cost"] = f"about {cost[0]:,.2f}, at most {cost[1]:,.2f}"
        if not backend.name.startswith("http"):
            tried = some if not backend.kept else some[:TIMED]
            start = time.perf_counter()
            backend.write(tried)
            each = (time.perf_counter() - start) / len(tried)
            facts |= {"seconds_each": each, "seconds": each * total}
        return facts


@dataclass(frozen=True)
class GeneratedTexts:
    """Written texts, one row per request (`WRITTEN`), and their cost."""

    rows: pa.Table
    backend: TextBackend
    looked_up: int
    seconds: float
    price_in: float
    price_out: float

    def used_rows(self) -> pa.Table:
        """Rows without a fault, in order of uid and number."""
        return self.rows.filter(pc.equal(self.rows["fault"], ""))

    def used(self) -> Iterator[dict[str, Any]]:
        """The same as one dictionary a row, made one block after another."""
        return dictionaries(self.used_rows())

    def variants(
        self, rows: OrderedRows, texts: Callable[[Sample, list[dict[str, Any]]], list[dict[str, Any]]]
    ) -> pa.Table | None:
        """The column ``text_variants`` of the used texts, None if there are none.

        texts  (sample, its used rows) -> its texts, at least one, as `VARIANT`
        """
        used = self.used_rows()
        if not used.num_rows:
            return None
        at_R = rows.positions(used["uid"])
        by_row = groupby(zip(at_R.tolist(), dictionaries(used), strict=True), key=lambda pair: pair[0])
        lists = (texts(rows.data[int(rows.row_N[at])], [row for _, row in some]) for at, some in by_row)
        starts = np.flatnonzero(np.diff(at_R, prepend=-1))
        return pa.table({"uid": rows.uids.take(pa.array(at_R[starts])), VARIANTS: made_column(lists, pa.list_(VARIANT))})

    def counts(self) -> dict[str, Any]:
        """Counts for the file of the step: they depend on the rows alone."""
        kinds = Counter(fault.split(":")[0] for fault in StringColumn(self.rows["fault"]) if fault)
        return {
            "writer": self.backend.name,
            "terms": self.backend.terms,
            "asked": self.rows.num_rows,
            "used": self.rows.num_rows - kinds.total(),
            "not_used": dict(sorted(kinds.items())),
            "tokens_read": pc.sum(self.rows["prompt_tokens"], min_count=0).as_py(),
            "tokens_written": pc.sum(self.rows["written_tokens"], min_count=0).as_py(),
        }

    def report(self) -> bytes:
        return (json.dumps(self.counts(), indent=1, ensure_ascii=False) + "\n").encode()

    def notes(self) -> tuple[str, ...]:
        """Notes for the terminal, after the run."""
        counts = self.counts()
        out = ", ".join(f"{count:,} {kind}" for kind, count in counts["not_used"].items())
        notes = [
            f"{counts['used']:,} of {counts['asked']:,} texts by {counts['writer']} are used"
            + (f"; not used: {out}" if out else "")
        ]
        tokens = f"{counts['tokens_read']:,} tokens read and {counts['tokens_written']:,} written"
        if self.price_in or self.price_out:
            cost = (counts["tokens_read"] * self.price_in + counts["tokens_written"] * self.price_out) / 1e6
            tokens += f", {cost:,.2f} in money if none had been looked up"
        notes.append(
            f"{tokens}; {self.looked_up:,} answers were looked up; {counts['asked'] / max(self.seconds, 1e-9):,.0f} texts per second"
        )
        return tuple(notes)


def _retry(request: TextRequest, attempt: int) -> TextRequest:
    return request if not attempt else replace(request, seed=keyed_seed("again", request.seed, attempt))


def _row(row_request: RowRequest, request: TextRequest, answer: Reply, read: Read, backend: TextBackend) -> dict[str, Any]:
    text, fault = ("", answer.fault) if answer.fault else read(row_request, answer.text)
    return {
        "uid": row_request.uid,
        "number": row_request.number,
        "source": row_request.source,
        "style": request.style,
        "string": "" if fault else text,
        "fault": fault,
        "prompt": prompt_hash(backend.identity, request),
    }
