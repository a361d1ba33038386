"""uvicorn with a graceful end: at the first SIGTERM or Ctrl-C nothing new comes in, what is under way is answered, then it is over."""

from __future__ import annotations

import signal
import socket
import warnings
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np
import uvicorn

from diptych.core.errors import RunError
from diptych.core.image import ArrayImage
from diptych.serve import logs
from diptych.serve.service import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


class Server(uvicorn.Server):
    """Tells the service that it stops, before connections are closed."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.service.draining:
            logs.event("stopping", signal=int(sig), waiting=self.service.batcher.waiting)
        self.service.draining = True
        self.force_exit = self.should_exit and sig == signal.SIGINT  # Ctrl-C twice
        self.should_exit = True  # uvicorn's own handler would also raise the signal again at the end


def listen(app: FastAPI, host: str, port: int, said: Callable[[str], None]) -> None:
    """`said` gets the address once the port is taken. Raises RunError when it cannot be."""
    service: Service = app.state.service
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        line = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise RunError(f"{host}:{port} cannot be listened on: {(error.strerror or str(error)).lower()}") from error
    _warm(service)
    said(f"http://{f'[{host}]' if ':' in host else host}:{line.getsockname()[1]}/")
    logs.to_stderr()
    warnings.filterwarnings("ignore", module="PIL")  # what it thinks of clients' pictures is no line of JSON
    config = uvicorn.Config(
        app,
        log_config=None,  # uvicorn's own lines hold addresses and query strings
        access_log=False,
        server_header=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=max(1, round(service.limits.drain_seconds)),
        proxy_headers=False,  # anybody could write another client into them; the rate limit counts connections' own addresses
    )
    logs.event("starting", models=len(service.sides), items=service.first.facts.count if service.first.facts else 0)
    Server(config, service).run(sockets=[line])
    logs.event("stopped")


def _warm(service: Service) -> None:
    """Embed something, so that the first client does not pay for what libraries put off until they are used."""
    grey = ArrayImage(np.full((64, 64, 3), 128, np.uint8), "grey")
    for side in service.sides.values():
        if side.embeds:
            side.model.embed_texts(["a"])
            side.model.embed_images([grey])
