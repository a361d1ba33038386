"""uvicorn with a graceful end: at the first SIGTERM or Ctrl-C nothing new comes in, what is under way is answered, then it is over."""

from __future__ import annotations

import signal
import warnings
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

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


def listen(app: FastAPI, host: str, port: int) -> None:
    service: Service = app.state.service
    logs.to_stderr()
    warnings.filterwarnings("ignore", module="PIL")  # what it thinks of clients' pictures is no line of JSON
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,  # uvicorn's own lines hold addresses and query strings
        access_log=False,
        server_header=False,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=max(1, round(service.limits.drain_seconds)),
        proxy_headers=False,  # anybody could write another client into them; the rate limit counts connections' own addresses
    )
    logs.event("starting", models=len(service.sides), items=service.first.facts.count if service.first.facts else 0)
    Server(config, service).run()
    logs.event("stopped")
