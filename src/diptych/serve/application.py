"""The application: routes by theme, wrapped in middleware for access control and logging."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from diptych import __version__
from diptych.serve.admission.access import OPEN_TO_ALL, AccessRules
from diptych.serve.admission.body import BodyLimitMiddleware
from diptych.serve.admission.deadline import DeadlineMiddleware
from diptych.serve.admission.guard import AccessLogMiddleware, GuardMiddleware
from diptych.serve.admission.head import HeadMiddleware
from diptych.serve.agents import agent_server
from diptych.serve.collection.reloading import Reloader
from diptych.serve.refusals import install_error_handlers
from diptych.serve.routes import answers as answer_routes
from diptych.serve.routes import changes as change_routes
from diptych.serve.routes import chat as chat_routes
from diptych.serve.routes import clouds as cloud_routes
from diptych.serve.routes import embeddings as embedding_routes
from diptych.serve.routes import items as item_routes
from diptych.serve.routes import page as page_routes
from diptych.serve.routes import pictures as picture_routes
from diptych.serve.routes import search as search_routes
from diptych.serve.routes import status as status_routes
from diptych.serve.schema import ErrorResponse
from diptych.serve.service import Service

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "The request cannot be understood, or a picture cannot be read"},
    401: {"model": ErrorResponse, "description": "A bearer token is needed"},
    403: {"model": ErrorResponse, "description": "The token may not do that, or the service takes no changes"},
    404: {"model": ErrorResponse, "description": "No such item or model, or the service was started without what this needs"},
    409: {"model": ErrorResponse, "description": "It is there already with another content, or its data cannot be changed"},
    410: {"model": ErrorResponse, "description": "The item was removed or taken down"},
    413: {"model": ErrorResponse, "description": "More bytes, pixels or characters than the limits allow"},
    422: {"model": ErrorResponse, "description": "A field holds what it cannot hold"},
    429: {"model": ErrorResponse, "description": "Too much at once; the header Retry-After says when to try again"},
    503: {"model": ErrorResponse, "description": "The service stops, or the answer took too long"},
    507: {"model": ErrorResponse, "description": "The disk is full, and nothing was stored"},
}
AGENTS, RELOAD = "/mcp", "/admin/reload"


def build(
    service: Service,
    *,
    access: AccessRules = OPEN_TO_ALL,
    cors: Sequence[str] = (),
    hosts: Sequence[str] = (),
    agents: bool = False,
    reloader: Reloader | None = None,
) -> FastAPI:
    """All routes over one service, which is closed when the application ends; with `agents` also /mcp, with `reloader` /admin/reload."""
    server = agent_server(internal_app(service), service) if agents else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        watching = None if reloader is None or not reloader.watches else asyncio.create_task(reloader.watch())
        async with nullcontext() if server is None else server.session_manager.run():
            yield
        if watching is not None:
            watching.cancel()
        await service.close()

    # The interactive pages of FastAPI load scripts from elsewhere; /openapi.json says the same.
    app = FastAPI(
        title="Diptych",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses=REFUSALS,
        generate_unique_id_function=status_routes.unique_id,
    )
    page_routes.add(app, token=not access.reading_is_open)
    _routes(app, service)
    change_routes.add(app, service, reloader)
    if server is not None:  # hosts and token are the guard's; without sessions, a call is a request like any other
        from mcp.server.transport_security import TransportSecuritySettings

        trusted = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        spoken = server.streamable_http_app(
            streamable_http_path=AGENTS, stateless_http=True, json_response=True, transport_security=trusted
        )
        app.router.routes.extend(spoken.routes)
    app.add_middleware(GuardMiddleware, service=service, access=access, hosts=hosts)
    if cors:
        headers = ["Retry-After", "X-Request-Id"]
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors),
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["*"],
            expose_headers=headers,
        )
    app.add_middleware(AccessLogMiddleware, service=service)
    return app


def internal_app(service: Service) -> FastAPI:
    """The same routes for callers inside of the process: with limits on bodies, memory and time, without access checks."""
    app = FastAPI(title="Diptych", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    _routes(app, service)
    return app


def _routes(app: FastAPI, service: Service) -> None:
    install_error_handlers(app)
    status_routes.add(app, service)
    embedding_routes.add(app, service)
    chat_routes.add(app, service)
    answer_routes.add(app, service)
    search_routes.add(app, service)
    picture_routes.add(app, service)
    item_routes.add(app, service)
    cloud_routes.add(app, service)
    app.add_middleware(HeadMiddleware)
    # The last one added is the outermost.
    app.add_middleware(DeadlineMiddleware, service=service, passed=(AGENTS, RELOAD))  # each tool has its own; loading takes long
    app.add_middleware(BodyLimitMiddleware, limits=service.limits, memory=service.memory)
