"""One JSON line an event on stderr. Never in it: what clients sent (texts, pictures, uids, filters), or their addresses."""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from typing import Any

from starlette.types import Scope

log = logging.getLogger("diptych.serve")


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, event, and the fields that were given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        head = {"time": f"{seconds}.{int(record.msecs):03d}Z", "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(head | getattr(record, "fields", {}))


def to_stderr() -> None:
    """Send the service's log to stderr as JSON lines, instead of wherever logging is configured to go."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def event(name: str, **fields: Any) -> None:
    log.info(name, extra={"fields": fields})


def failed(scope: Scope, error: BaseException) -> None:
    """An error inside the service: its type and where it arose. Its text may quote the request, so it is left out."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    route = getattr(scope.get("route"), "path", "")
    fields = {"request": scope.get("state", {}).get("request_id", ""), "route": route, "error": type(error).__name__, "at": where}
    log.error("failed", extra={"fields": fields})
