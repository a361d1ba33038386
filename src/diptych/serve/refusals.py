"""Error responses in one format: one clear line each, without private details of the machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from diptych.core.errors import DataError, DiptychError, RunError, ShapeError
from diptych.serve.logs import request_error


class RequestError(Exception):
    """A request that cannot be answered: HTTP status, one clear line, and for 429 and 503 the seconds after which to try again."""

    def __init__(self, status: int, message: str, *, retry_after: float = 0.0, headers: Mapping[str, str] | None = None) -> None:
        self.status, self.message, self.headers = status, message, dict(headers or {})
        if retry_after > 0:
            self.headers["Retry-After"] = str(math.ceil(retry_after))
        super().__init__(message)


KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_json(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """``{"error": {"message", "type", "code"}}``, as OpenAI clients read it."""
    kind = "server_error" if status >= 500 else KINDS.get(status, "invalid_request_error")
    error = {"message": " ".join(message.split()), "type": kind, "code": status}
    return SafeJsonResponse({"error": error}, status, headers=dict(headers or {}))


class SafeJsonResponse(Response):
    """JSON of any strings: a lone surrogate, which JSON may spell and UTF-8 may not, is spelled out again."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()


def error_response(error: RequestError) -> Response:
    """The answer to a request that a route refuses, with its status, message and headers."""
    return error_json(error.status, error.message, error.headers)


def internal_error(error: BaseException) -> Response:
    """Response for an internal error; names its type only, since its text may hold paths or what other clients sent."""
    return error_json(500, f"{type(error).__name__} inside the service; its log says more")


def install_error_handlers(app: FastAPI) -> None:
    """Whatever goes wrong becomes a refusal. What is not the client's fault is logged, without what the client sent."""

    @app.exception_handler(RequestError)
    def on_refused(_: Request, error: RequestError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    def on_malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return error_json(400, f"the body is not JSON: {first.get('ctx', {}).get('error', 'it cannot be parsed')}")
        field = ".".join(str(part) for part in first["loc"][1:] if not re.match(r"[A-Z]|list\[|str$|constrained-", str(part)))
        message = str(first["msg"])
        return error_json(422, f"{field or 'the body'}: {message[:1].lower()}{message[1:]}")

    @app.exception_handler(DiptychError)
    def on_wrong(request: Request, error: DiptychError) -> Response:
        if isinstance(error, RunError | ShapeError):
            request_error(request.scope, error)
            return internal_error(error)
        return error_json(404 if isinstance(error, DataError) and error.field == "uid" else 400, public_message(error))

    @app.exception_handler(HTTPException)
    def on_http(request: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = ", ".join(allowed_methods(request))
        return error_json(error.status_code, f"{request.method} {request.url.path}: {str(error.detail).lower()}", headers)

    @app.exception_handler(Exception)
    def on_broken(request: Request, error: Exception) -> Response:
        request_error(request.scope, error)
        return internal_error(error)


def allowed_methods(request: Request) -> list[str]:
    """Methods that some route takes at the path of a request."""
    methods: set[str] = set()
    for route in request.app.router.routes:
        if route.matches(request.scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def public_message(error: DiptychError) -> str:
    """The text of an error without paths of this machine."""
    if isinstance(error, DataError):
        if error.field == "uid":
            return "no item has that uid"
        name = f"{error.file}: " if error.file is not None and "/" not in str(error.file) else ""
        return f"{name}{error.problem}" + (f" (expected {error.expected})" if error.expected else "")
    return re.sub(r"(?<!\w)/[\w./-]+", "the index", str(error))
