"""Access checks: host name, token, rate limit, load, and whether the service is stopping.

And around all of it, what is written down about a request: route, status, time; never what was in it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from diptych.serve.admission.access import OPEN_TO_ALL, Access, AccessRules
from diptych.serve.admission.body import refuse
from diptych.serve.admission.rate import RateLimiter
from diptych.serve.logs import event, request_error
from diptych.serve.refusals import RequestError, internal_error
from diptych.serve.service import Service

OPEN = ("/", "/healthz", "/readyz")
"""What anybody may ask, with the parts of the page: none of it tells anything about models or data."""
LIGHT = (*OPEN, "/info", "/metrics", "/openapi.json", "/v1/models")
"""What costs next to nothing, and so counts for no limit; pictures of items do not count for the rate."""
PAGE, PICTURES = "/page/", "/image/"
CHANGING, CHANGED = ("POST", "PUT", "PATCH", "DELETE"), ("/items", "/admin/")
"""Methods and paths of requests that change something, which needs the right to write."""


class GuardMiddleware:
    """ASGI middleware that refuses before anything of a body is read.

    access  tokens and their rights
    hosts  names under which the service may be asked; empty takes any. On the loopback address this keeps web pages out that were
           given the address by their own name server
    """

    def __init__(self, app: ASGIApp, service: Service, access: AccessRules = OPEN_TO_ALL, hosts: Sequence[str] = ()) -> None:
        self.app, self.service = app, service
        self._access, self._hosts = access, frozenset(hosts)
        self._rate = RateLimiter(service.limits.rate, service.limits.burst)
        self._rates = {one.name: RateLimiter(one.rate, one.burst) for one in access.tokens if one.rate}
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            self._check(scope)
        except RequestError as error:
            await refuse(error, scope, receive, send)  # a body may still be on its way
            return
        generation = self.service.generation
        self._open += 1
        self.service.open_requests[generation] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._open -= 1
            self.service.open_requests[generation] -= 1

    def _check(self, scope: Scope) -> None:
        headers, path, limits = dict(scope["headers"]), scope["path"], self.service.limits
        host = headers.get(b"host", b"").decode("latin-1").rpartition("@")[2]
        if self._hosts and _name(host) not in self._hosts:
            raise RequestError(403, "this service does not go by that host name")
        open_to_all = path in OPEN or path.startswith(PAGE)
        access = self._access.of(headers.get(b"authorization", b""))
        changes = scope["method"] in CHANGING and path.startswith(CHANGED)
        if access is None and not open_to_all and (changes or not self._access.reading_is_open):
            if changes and not self._access.takes_changes:
                raise RequestError(403, "this service does not accept changes (expected diptych serve ... with a write token)")
            self.service.metrics.refused("token")
            raise RequestError(401, "a bearer token is needed", headers={"WWW-Authenticate": "Bearer"})
        if changes and access is not None and not access.write:
            self.service.metrics.refused("right")
            raise RequestError(403, "that token may read, not change (expected a token with the right to write)")
        if open_to_all or path in LIGHT:
            return
        if self.service.draining:
            raise RequestError(503, "the service is stopping", retry_after=5)
        if self._open >= limits.requests:
            self.service.metrics.refused("requests")
            raise RequestError(429, "too many requests are open: try again later", retry_after=1)
        if not path.startswith(PICTURES):
            self._check_rate(scope["client"][0] if scope.get("client") else "", access)

    def _check_rate(self, client: str, access: Access | None) -> None:
        """By the rate of the token, if it has one of its own; else by the address of the client."""
        if access is not None and access.name in self._rates:
            if wait := self._rates[access.name].wait(access.name):
                self.service.metrics.refused("rate")
                raise RequestError(429, f"more than {access.rate:g} requests per second with that token", retry_after=wait)
        elif wait := self._rate.wait(client):
            self.service.metrics.refused("rate")
            rate = self.service.limits.rate
            raise RequestError(429, f"more than {rate:g} requests per second from one client", retry_after=wait)


def _name(host: str) -> str:
    """Host without port, in small letters: ``[::1]:8000`` is ``::1``."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


class AccessLogMiddleware:
    """ASGI middleware, the outermost: gives each request a number, counts it, and writes one line about it."""

    def __init__(self, app: ASGIApp, service: Service, quiet: Sequence[str] = ("/healthz", "/readyz", "/metrics")) -> None:
        self.app, self.service, self.quiet = app, service, quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, number = time.perf_counter(), 499, uuid.uuid4().hex[:16]  # 499: the client left before its answer
        scope.setdefault("state", {})["request_id"] = number

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", number.encode())]
            await send(message)

        try:
            await self.app(scope, receive, observed)
        except Exception as error:  # what was answered already has been logged there; nothing goes to the server's own log
            if status == 499:
                request_error(scope, error)
                await internal_error(error)(scope, receive, observed)
        finally:
            seconds = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "") or "none"  # the pattern, never the requested path
            self.service.metrics.answered(route, scope["method"], status, seconds)
            if route not in self.quiet or status >= 400:
                fields = {"route": route, "method": scope["method"], "status": status, "ms": round(1000 * seconds, 1)}
                event("request", request=number, **fields)
