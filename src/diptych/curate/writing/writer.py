"""Asks a backend: what is known is looked up, the rest goes out in calls of the backend's size, several at a time where it allows.

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
from diptych.curate.writing.requests import Request, TextBackend, prompt_hash
from diptych.models.endpoint.answers import Answers

T = TypeVar("T")
BAR_CALLS = 4
"""Calls that take long enough for a bar."""
SILENT = 8
"""Calls in a row that may come back with nothing but faults of the line before the backend is called dead."""
OFF_LINE = ("unreachable", "timeout", "refused")
"""Faults that are the line's, not the answer's."""


@dataclass(frozen=True)
class Remote:
    """A backend as a worker of the engine: requests and answers travel as JSON."""

    backend: TextBackend

    kind: ClassVar[pa.DataType] = pa.string()

    def __call__(self, *columns: pa.Array) -> pa.Array:
        given = [Request(**{**fields, "details": tuple(fields["details"])}) for fields in map(json.loads, columns[0].to_pylist())]
        found = [answer for some in _calls(given, self.backend.at_once) for answer in self.backend.write(some)]
        return pa.array([json.dumps(asdict(answer)) for answer in found], pa.string())


def answers_of(requests: Sequence[Request], backend: TextBackend, known: Answers | None) -> tuple[list[Reply], int]:
    """An answer for each request, and how many of them were looked up. Equal requests are asked once.

    Raises RunError where the backend is dead; what came before that is kept.
    """
    hashes = [prompt_hash(backend.identity, request) for request in requests]
    found = known.of(list(dict.fromkeys(hashes))) if known is not None else {}
    looked_up = sum(key in found for key in hashes)
    missing = {key: request for key, request in zip(hashes, requests, strict=True) if key not in found}
    if missing and run.current_engine() == "ray":
        found |= _on_cluster(missing, backend, known)
    elif missing:
        found |= _here(missing, backend, known)
    return [found[key] for key in hashes], looked_up


def _here(missing: dict[str, Request], backend: TextBackend, known: Answers | None) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    calls = _calls(list(missing), backend.at_once)
    for answers in with_bar(
        _answers_of_calls(calls, missing, backend, known), len(calls), f"{len(missing):,} texts", least=BAR_CALLS
    ):
        found |= answers
    return found


def _answers_of_calls(
    calls: Sequence[Sequence[str]], missing: dict[str, Request], backend: TextBackend, known: Answers | None
) -> Iterator[dict[str, Reply]]:
    """The answers of one call after another, in the order in which they come back, each kept before it is given out."""
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
                    _keep(backend, missing, answers, known)
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
                    _keep(backend, missing, dict(zip(keys, done.result(), strict=True)), known)


def _on_cluster(missing: dict[str, Request], backend: TextBackend, known: Answers | None) -> dict[str, Reply]:
    rows = pa.table(
        {"row": pa.array(range(len(missing)), pa.int64()), "request": [json.dumps(asdict(one)) for one in missing.values()]}
    )
    made = run.mapped(rows, ["request"], Remote(backend), "answer")["answer"].to_pylist()
    found = {key: Reply(**json.loads(text)) for key, text in zip(missing, made, strict=True)}
    _keep(backend, missing, found, known)
    if all(answer.fault.startswith(OFF_LINE) for answer in found.values()):
        raise RunError(f"'{backend.name}' does not answer: {next(iter(found.values())).fault}")
    return found


def _keep(backend: TextBackend, missing: dict[str, Request], found: dict[str, Reply], known: Answers | None) -> None:
    if known is not None:
        known.keep(backend.name, found, [missing[key].prompt for key in found])


def _calls(items: Sequence[T], size: int) -> list[list[T]]:
    return [list(items[start : start + size]) for start in range(0, len(items), size)]
