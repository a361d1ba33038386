"""The application: routes by theme, around them what guards and observes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from diptych import __version__
from diptych.serve.admission.body import BodyLimitMiddleware
from diptych.serve.admission.deadline import DeadlineMiddleware
from diptych.serve.admission.guard import AccessLogMiddleware, GuardMiddleware
from diptych.serve.admission.head import HeadMiddleware
from diptych.serve.agents import agent_server
from diptych.serve.refusals import install_error_handlers
from diptych.serve.routes import answers as answer_routes
from diptych.serve.routes import chat as chat_routes
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
    404: {"model": ErrorResponse, "description": "No such item or model, or the service was started without what this needs"},
    413: {"model": ErrorResponse, "description": "More bytes, pixels or characters than the limits allow"},
    422: {"model": ErrorResponse, "description": "A field holds what it cannot hold"},
    429: {"model": ErrorResponse, "description": "Too much at once; the header Retry-After says when to try again"},
    503: {"model": ErrorResponse, "description": "The service stops, or the answer took too long"},
}
AGENTS = "/mcp"


def build(
    service: Service, *, token: str = "", cors: Sequence[str] = (), hosts: Sequence[str] = (), agents: bool = False
) -> FastAPI:
    """All routes over one service, which is closed when the application ends; with `agents` also /mcp."""
    server = agent_server(internal_app(service), service) if agents else None

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with nullcontext() if server is None else server.session_manager.run():
            yield
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
    page_routes.add(app, token=bool(token))
    _routes(app, service)
    if server is not None:  # hosts and token are the guard's; without sessions, a call is a request like any other
        from mcp.server.transport_security import TransportSecuritySettings

        trusted = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        spoken = server.streamable_http_app(
            streamable_http_path=AGENTS, stateless_http=True, json_response=True, transport_security=trusted
        )
        app.router.routes.extend(spoken.routes)
    app.add_middleware(GuardMiddleware, service=service, token=token, hosts=hosts)
    if cors:
        headers = ["Retry-After", "X-Request-Id"]
        app.add_middleware(
            CORSMiddleware, allow_origins=list(cors), allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=headers
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
    app.add_middleware(HeadMiddleware)
    # The last one added is the outermost.
    app.add_middleware(DeadlineMiddleware, service=service, passed=(AGENTS,))  # each tool has its own
    app.add_middleware(BodyLimitMiddleware, limits=service.limits, memory=service.memory)
