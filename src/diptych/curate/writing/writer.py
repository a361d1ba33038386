"""Calls to a text backend: cached answers are looked up, the others requested in batches, several at a time where it allows.

Every call's answers are kept before the next are waited for, so a kill loses at most the calls in the air. On a Ray cluster calls run
where Daft places them, and answers are kept when the part comes back.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import islice
from typing import ClassVar, TypeVar

import pyarrow as pa

from diptych.core.contracts import Reply
from diptych.core.errors import RunError
from diptych.core.terminal.progress import with_bar
from diptych.curate.engine import run
from diptych.curate.writing.requests import TextBackend, TextRequest, prompt_hash
from diptych.models.endpoint.answers import AnswerCache

T = TypeVar("T")
BAR_CALLS = 4
"""Calls that take long enough for a bar."""
SILENT = 8
"""Calls in a row that may come back with nothing but faults of the line before the backend is called dead."""
OFF_LINE = ("unreachable", "timeout", "refused")
"""Faults that are the line's, not the answer's."""


@dataclass(frozen=True)
class BackendWorker:
    """Backend as a worker of the engine: requests and answers travel as JSON."""

    backend: TextBackend

    kind: ClassVar[pa.DataType] = pa.string()

    def __call__(self, *columns: pa.Array) -> pa.Array:
        given = [
            TextRequest(**{**fields, "details": tuple(fields["details"])}) for fields in map(json.loads, columns[0].to_pylist())
        ]
        answers = [answer for some in _calls(given, self.backend.at_once) for answer in self.backend.write(some)]
        return pa.array([json.dumps(asdict(answer)) for answer in answers], pa.string())


def cached_answers(requests: Sequence[TextRequest], backend: TextBackend, cache: AnswerCache | None) -> tuple[list[Reply], int]:
    """Answer of each request, and the number that were cached. Equal requests are sent once.

    Raises RunError if the backend is dead; what came before that is kept.
    """
    hashes = [prompt_hash(backend.identity, request) for request in requests]
    answers = cache.of(list(dict.fromkeys(hashes))) if cache is not None else {}
    looked_up = sum(key in answers for key in hashes)
    missing = {key: request for key, request in zip(hashes, requests, strict=True) if key not in answers}
    if missing and run.current_engine() == "ray":
        answers |= _on_cluster(missing, backend, cache)
    elif missing:
        answers |= _answers_here(missing, backend, cache)
    return [answers[key] for key in hashes], looked_up


def _answers_here(missing: dict[str, TextRequest], backend: TextBackend, cache: AnswerCache | None) -> dict[str, Reply]:
    all_answers: dict[str, Reply] = {}
    calls = _calls(list(missing), backend.at_once)
    for answers in with_bar(
        _answers_of_calls(calls, missing, backend, cache), len(calls), f"{len(missing):,} texts", least=BAR_CALLS
    ):
        all_answers |= answers
    return all_answers


def _answers_of_calls(
    calls: Sequence[Sequence[str]], missing: dict[str, TextRequest], backend: TextBackend, cache: AnswerCache | None
) -> Iterator[dict[str, Reply]]:
    """Answers of one call after another, in the order in which they come back, each kept before it is given out."""
    silent, left = 0, iter(calls)
    with ThreadPoolExecutor(max_workers=max(1, backend.calls)) as pool:
        waiting: dict[Future[list[Reply]], Sequence[str]] = {}
        try:
            while True:
                for keys in islice(left, max(1, backend.calls) - len(waiting)):
                    waiting[pool.submit(backend.write, [missing[key] for key in keys])] = keys
                if not waiting:
                    return
                ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for done in [future for future in waiting if future in ready]:
                    answers = dict(zip(waiting.pop(done), done.result(), strict=True))
                    _keep(backend, missing, answers, cache)
                    faults = [answer.fault for answer in answers.values()]
                    silent = silent + 1 if all(fault.startswith(OFF_LINE) for fault in faults) else 0
                    if silent >= SILENT:
                        raise RunError(
                            f"'{backend.name}' does not answer: {SILENT} calls in a row failed, the last with {faults[-1]}. What was "
                            "answered is kept; run the same command again to go on"
                        )
                    yield answers
        finally:  # what is in the air when this ends early has been paid for
            for done, keys in waiting.items():
                if done.exception() is None:
                    _keep(backend, missing, dict(zip(keys, done.result(), strict=True)), cache)


def _on_cluster(missing: dict[str, TextRequest], backend: TextBackend, cache: AnswerCache | None) -> dict[str, Reply]:
    rows = pa.table(
        {"row": pa.array(range(len(missing)), pa.int64()), "request": [json.dumps(asdict(one)) for one in missing.values()]}
    )
    made = run.mapped(rows, ["request"], BackendWorker(backend), "answer")["answer"].to_pylist()
    answers = {key: Reply(**json.loads(text)) for key, text in zip(missing, made, strict=True)}
    _keep(backend, missing, answers, cache)
    if all(answer.fault.startswith(OFF_LINE) for answer in answers.values()):
        raise RunError(f"'{backend.name}' does not answer: {next(iter(answers.values())).fault}")
    return answers


def _keep(backend: TextBackend, missing: dict[str, TextRequest], answers: dict[str, Reply], cache: AnswerCache | None) -> None:
    if cache is not None:
        cache.keep(backend.name, answers, [missing[key].prompt for key in answers])


def _calls(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
