"""Refuse request bodies that are too large before they fill the memory, with or without a declared length, and those that never end."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.serve.admission.connections import LINGER
from diptych.serve.admission.limits import Limits
from diptych.serve.admission.memory import MemoryBudget
from diptych.serve.refusals import RequestError, error_response


class BodyLimitMiddleware:
    """ASGI middleware: reads at most this many bytes of a body in this many seconds, then passes it on in one piece. What it
    reads counts as memory of the request until that ends."""

    def __init__(self, app: ASGIApp, limits: Limits, memory: MemoryBudget) -> None:
        self.app, self.limits, self.memory = app, limits, memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with self.memory.request():
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self.app(scope, receive, send)
                return
            parts: list[bytes] = []
            try:
                declared = dict(scope["headers"]).get(b"content-length", b"0")
                if declared.isdigit() and int(declared[:20]) > self.limits.body_bytes:
                    raise self._too_large()
                there = await self._read_in_time(receive, parts)
            except RequestError as error:
                await refuse(error, scope, receive, send)
                return
            if there:
                await self.app(scope, _replay(b"".join(parts), receive), send)

    async def _read_in_time(self, receive: Receive, parts: list[bytes]) -> bool:
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await self._read(receive, parts)
        except TimeoutError:
            text = f"the body did not arrive within {self.limits.body_seconds:g} seconds"
            raise RequestError(408, text) from None

    async def _read(self, receive: Receive, parts: list[bytes]) -> bool:
        """The body, piece by piece, into `parts`; False when the client left."""
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return False
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.limits.body_bytes:
                raise self._too_large()
            self.memory.take(len(parts[-1]))
            more = message.get("more_body", False)
        return True

    def _too_large(self) -> RequestError:
        return RequestError(413, f"the body has more than {self.limits.body_bytes:,} bytes")


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error and close. What is still on its way of the body is read and dropped first, for a moment: closed with bytes
    unread, the connection would be reset, and the client would lose the answer."""
    error.headers["Connection"] = "close"

    async def keep_open(message: Message) -> None:
        last = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send({**message, "more_body": True} if last else message)

    await error_response(error)(scope, receive, keep_open)
    if b"expect" not in dict(scope["headers"]):  # a client that asks first sends no body now
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                message: Message = {"more_body": scope["method"] not in ("GET", "HEAD", "OPTIONS")}
                while message.get("more_body", False):
                    message = await receive()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
