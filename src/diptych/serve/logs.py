"""One JSON line per event on stderr, never with client input (texts, pictures, uids, filters) or client addresses.

Lines are short for any request, and their number per second is limited: further ones are counted in the next line of their kind
(`left_out`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections import Counter
from typing import Any

from starlette.types import Scope

from diptych.serve.admission.rate import RateLimiter

log = logging.getLogger("diptych.serve")
LONGEST = 200
"""Characters of a message."""
OURS, FOREIGN = (100.0, 1000), (0.2, 5)
"""Lines a second and at once, of each event of the service, and of each kind of line of the libraries under it."""


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, event, and the fields that were given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        message = record.getMessage()[:LONGEST]
        head = {"time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "event": message}
        return json.dumps(head | getattr(record, "fields", {}))


class LogRateFilter(logging.Filter):
    """Limits the log lines of each kind. A kind is an event of ours, or a place in the code of others."""

    def __init__(self, rate: float, burst: int) -> None:
        super().__init__()
        self._rate = RateLimiter(rate, burst)
        self._left_out: Counter[tuple[str, int, str]] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        kind = (record.pathname, record.lineno, str(record.msg) if record.name == log.name else "")
        if self._rate.wait(kind):
            self._left_out[kind] += 1
            return False
        if missing := self._left_out.pop(kind, 0):
            record.fields = {**getattr(record, "fields", {}), "left_out": missing}
        return True


def to_stderr() -> None:
    """Send the service's log to stderr as JSON lines, instead of wherever logging is configured to go; and the warnings of the server
    and of its event loop, of which only the message is taken."""
    for name, level, often in (
        (log.name, logging.INFO, OURS),
        ("uvicorn.error", logging.WARNING, FOREIGN),
        ("asyncio", logging.WARNING, FOREIGN),
    ):
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(JsonLines())
        handler.addFilter(LogRateFilter(*often))
        one = logging.getLogger(name)
        one.handlers, one.propagate = [handler], False
        one.setLevel(level)


def event(name: str, **fields: Any) -> None:
    """One line of the log: what happened, and its fields."""
    log.info(name, extra={"fields": fields})


def loop_error(error: str) -> None:
    """Something outside of any request; `error` is a type."""
    log.warning("trouble", extra={"fields": {"error": error}})


def request_error(scope: Scope, error: BaseException) -> None:
    """An error inside the service: its type and where it arose. Its text may quote the request, so it is left out."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    route = getattr(scope.get("route"), "path", "")
    fields = {"request": scope.get("state", {}).get("request_id", ""), "route": route, "error": type(error).__name__, "at": where}
    log.error("failed", extra={"fields": fields})
