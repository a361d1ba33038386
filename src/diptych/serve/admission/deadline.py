"""Every request is answered within `limits.seconds`, or gets an error."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.serve.refusals import RequestError, error_response
from diptych.serve.service import Service


class DeadlineMiddleware:
    """ASGI middleware: ends what takes too long, with all that it waits for. How long a client takes to read its answer is not counted;
    the connection's own deadline is for that.

    passed  paths that set a deadline for what they ask
    """

    def __init__(self, app: ASGIApp, service: Service, passed: Collection[str] = ()) -> None:
        self.app, self.service, self.passed = app, service, passed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self.passed:
            await self.app(scope, receive, send)
            return
        seconds, started = self.service.limits.seconds, False
        try:
            async with asyncio.timeout(seconds) as timeout:

                async def answered(message: Message) -> None:
                    nonlocal started
                    started = True
                    timeout.reschedule(None)
                    await send(message)

                await self.app(scope, receive, answered)
        except TimeoutError:
            if not timeout.expired():  # another one, from inside
                raise
            self.service.metrics.refused("time")
            await error_response(RequestError(503, f"no answer within {seconds:g} seconds", retry_after=5))(scope, receive, send)
        except asyncio.CancelledError:  # by the server, when the time to drain is over
            task = asyncio.current_task()
            if started or task is None or not self.service.draining:
                raise
            task.uncancel()
            await error_response(RequestError(503, "the service stopped before it had an answer", retry_after=5))(
                scope, receive, send
            )
