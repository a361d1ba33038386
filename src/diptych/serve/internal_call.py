"""Call a route from inside of the process, with the same limits and the same one-line errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message

from diptych.serve.refusals import RequestError


async def call_route(app: ASGIApp, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """JSON answer of POST `path` inside the process. Raises Refused with its status and line for any error status."""
    content, parts, status = json.dumps(body).encode(), list[bytes](), 0
    unread = [content]

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # it stays until it has its answer
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            parts.append(message.get("body", b""))

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        "state": {},
    }
    try:
        await app(scope, receive, send)
    except Exception:
        if not status:  # the outermost layer raises again what it has logged and answered
            raise
    answer: dict[str, Any] = json.loads(b"".join(parts))
    if status != 200:
        raise RequestError(status, str(answer["error"]["message"]))
    return answer
