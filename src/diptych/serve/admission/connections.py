"""Open connections: limits on their number, by client, and on time. A silent or slow socket costs its own time only.

uvicorn waits for a head for ever, and asyncio, once the descriptors have run out, writes a traceback for each connection that it cannot
take. Here a connection is in one of four phases, and each phase but the idle one (which uvicorn ends) has a deadline.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Literal

from uvicorn.protocols.http.h11_impl import H11Protocol

from diptych.core.errors import ConfigError
from diptych.serve.admission.limits import Limits

Phase = Literal["head", "request", "sending", "idle"]
BACKLOG = 128
"""Connections that the kernel keeps for us, and that asyncio takes at once, before any of them is counted."""
PATIENCE = 0.25
"""Seconds in which nobody is pushed out: an honest head takes less."""
LINGER = 2.0
"""Seconds in which the rest of a refused request is read and dropped."""
SPARE = 128
"""Descriptors for everything else: model, index, data."""
_FULL = b'{"error":{"message":"too many open connections: try again later","type":"server_error","code":503}}'
FULL = b"\r\n".join(
    (
        b"HTTP/1.1 503 Service Unavailable",
        b"Content-Type: application/json",
        b"Retry-After: 1",
        b"Connection: close",
        b"Content-Length: %d" % len(_FULL),
        b"",
        _FULL,
    )
)


class Connections:
    """All that are open.

    refused  is called for each connection that was closed for the sake of the others: "connections", "head" or "request"
    """

    def __init__(self, limits: Limits, refused: Callable[[str], None], *, now: Callable[[], float] = time.monotonic) -> None:
        self.limits, self.refused, self.now = limits, refused, now
        self._open: dict[Connection, None] = {}
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, one: Connection) -> bool:
        """Admit a connection; False where it has to be closed.

        Beyond a client's own limit one of its unfinished heads makes room; beyond the total limit, whichever connection has waited
        longest does. Requests that are under way never do.
        """
        limits, client = self.limits, one.whose
        if self._of[client] >= limits.client_connections and not self._evict("head", client):
            return False
        if len(self._open) >= limits.connections and not (self._evict("head") or self._evict("idle")):
            return False
        self._open[one] = None
        self._of[client] += 1
        return True

    def leave(self, one: Connection) -> None:
        if one in self._open:
            del self._open[one]
            self._of[one.whose] -= 1
            if not self._of[one.whose]:
                del self._of[one.whose]

    def sweep(self) -> None:
        """Close what is over its time."""
        now = self.now()
        for one in list(self._open):
            if (seconds := one.allowed(self.limits)) is not None and now - one.since > seconds:
                self.refused("head" if one.phase == "head" else "request")
                self._close(one)

    def _evict(self, phase: Phase, client: str | None = None) -> bool:
        before = self.now() - PATIENCE
        waiting = [one for one in self._open if one.phase == phase and one.since < before and client in (None, one.whose)]
        if not waiting:
            return False
        self.refused("connections")
        self._close(min(waiting, key=lambda one: one.since))
        return True

    def _close(self, one: Connection) -> None:
        self.leave(one)
        one.transport.abort()  # close() would wait until the other side has read what is still to be sent


class Connection(H11Protocol):
    """An HTTP/1.1 connection with its phase and the time since when it waits.

    head      the head of a request: from the connection or from the first byte on
    request   its body and its answer; the time of its head counts
    sending   the answer is written, and the client has not taken all of it
    idle      the next request; uvicorn's own timer runs
    """

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.all, self.whose = connections, ""
        self.phase: Phase = "head"
        self.since = connections.now()
        self._timed: object = None  # the request that `since` belongs to
        self._refused = False

    def allowed(self, limits: Limits) -> float | None:
        """Seconds that its phase may last; None when another timer runs."""
        if self.phase == "sending":
            self._settle()
        if self.phase == "idle":
            return None
        return limits.header_seconds if self.phase == "head" else limits.request_seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.whose = client_network(self.client[0]) if self.client else ""
        if not self.all.enter(self):
            self.all.refused("connections")
            transport.write(FULL)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.all.leave(self)
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or a head above the limit (431), then read on for a moment without keeping anything: closed with bytes
        unread, the connection would be reset, and the client would lose the answer."""
        status = 431 if getattr(sys.exc_info()[1], "error_status_hint", 400) == 431 else 400
        reason = "the address and the headers are too long" if status == 431 else "this is not an HTTP request"
        body = b'{"error":{"message":"%s","type":"invalid_request_error","code":%d}}' % (reason.encode(), status)
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._refused = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER, self.transport.close)

    def eof_received(self) -> None:
        if self._refused:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        super().data_received(data)
        self._settle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._settle()

    def _settle(self) -> None:
        before, self.phase = self.phase, self._phase()
        continues = self.phase == before or (before, self.phase) in (("head", "request"), ("request", "sending"))
        pipelined = before == self.phase == "request" and self.cycle is not self._timed
        if not continues or pipelined:
            self.since = self.all.now()
        self._timed = self.cycle

    def _phase(self) -> Phase:
        if self.cycle is not None and not self.cycle.response_complete:
            return "request"
        if self.transport.get_write_buffer_size():
            return "sending"
        return "head" if self.timeout_keep_alive_task is None else "idle"  # any byte ends uvicorn's timer


def client_network(address: str) -> str:
    """Who counts as one client: an IPv4 address, or the 64 bits of IPv6 that one customer is given."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 6:
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def raise_open_file_limit(limits: Limits) -> None:
    """Raise the limit of open files to what this many connections need. Raises ConfigError if the system forbids it."""
    needed = limits.connections + BACKLOG + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        most = max(0, hard - BACKLOG - SPARE)
        raise ConfigError(
            f"{limits.connections} connections need {needed} open files, of which the system allows {hard} "
            f"(expected --connections of at most {most}, or a higher `ulimit -n`)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
