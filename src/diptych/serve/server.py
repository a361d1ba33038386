"""uvicorn with graceful shutdown: after the first SIGTERM or Ctrl-C, new connections are refused, pending requests are answered,
then the server exits."""

from __future__ import annotations

import asyncio
import signal
import socket
import warnings
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn

from diptych.core.errors import RunError
from diptych.core.image import ArrayImage
from diptych.serve import logs
from diptych.serve.admission.connections import BACKLOG, Connection, Connections, raise_open_file_limit
from diptych.serve.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI

SWEEP_SECONDS = 0.5


class Server(uvicorn.Server):
    """Uvicorn server that limits connections, and tells the service to stop before they are closed."""

    def __init__(self, app: FastAPI) -> None:
        self.service: Service = app.state.service
        limits = self.service.limits
        self.connections = Connections(limits, self.service.metrics.refused)
        config = uvicorn.Config(
            app,
            http=partial(Connection, self.connections),  # type: ignore[arg-type]  # called like the class that it makes
            ws="none",
            log_config=None,  # uvicorn's own lines hold addresses and query strings
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=max(1, round(limits.idle_seconds)),
            timeout_graceful_shutdown=max(1, round(limits.drain_seconds)),
            proxy_headers=False,  # anybody could write another client into them; limits count connections' own addresses
        )
        self.ended_by = 0
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(_log_loop_error)
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self._sweep())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logs.event("stopping", signal=self.ended_by, waiting=self.service.waiting)
        await super().shutdown(sockets)
        self._sweeper.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Only flags: a signal that interrupts a line of the log cannot write another, and would be lost with the error.
        self.service.draining = True
        self.ended_by = self.ended_by or int(sig)
        self.force_exit = self.should_exit and sig == signal.SIGINT  # Ctrl-C twice
        self.should_exit = True  # uvicorn's own handler would also raise the signal again at the end

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.connections.sweep()


def listen(app: FastAPI, host: str, port: int, announce: Callable[[str], None]) -> int:
    """`announce` gets the address once the port is taken. Returns the number of the signal that ended it. Raises RunError when the
    port cannot be taken."""
    service: Service = app.state.service
    raise_open_file_limit(service.limits)
    line = bind_port(host, port)
    _warm_up(service)
    announce(f"http://{f'[{host}]' if ':' in host else host}:{line.getsockname()[1]}/")
    logs.to_stderr()
    warnings.filterwarnings("ignore", module="PIL")  # what it thinks of clients' pictures is no line of JSON
    logs.event("starting", models=len(service.sides), items=service.first.facts.count if service.first.facts else 0)
    server = Server(app)
    with service.open_to_others():
        server.run(sockets=[line])
    logs.event("stopped")
    return server.ended_by


def bind_port(host: str, port: int) -> socket.socket:
    """A bound, listening socket. Raises RunError when the port cannot be taken."""
    try:
        return listening_socket(host, port)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise RunError(f"{host}:{port} cannot be used: {why} (--port 0 chooses a free port)") from error


def listening_socket(host: str, port: int) -> socket.socket:
    """A TCP socket that knows that it is one. `create_server` leaves the protocol number at 0, accepted connections inherit that, and
    asyncio sets TCP_NODELAY only on protocol 6: then the body of each answer on a kept-alive connection waits some 40 ms, for the
    client's delayed acknowledgement of its head."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    line = socket.create_server((host, port), family=family, backlog=BACKLOG)
    return socket.socket(fileno=line.detach())  # asks the system for the number


def _log_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log errors of the event loop without addresses and tracebacks: broken connections, exhausted file descriptors."""
    logs.loop_error(type(context.get("exception")).__name__)


def _warm_up(service: Service) -> None:
    """Embed something, so that the first client does not pay for what libraries put off until they are used."""
    grey = ArrayImage(np.full((64, 64, 3), 128, np.uint8), "grey")
    for side in service.sides.values():
        if side.embeds:
            side.model.embed_texts(["a"])
            side.model.embed_images([grey])
