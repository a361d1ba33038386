"""Start the service: ``create_app`` for any ASGI server, ``run`` to listen at once. Needs the extra ``[serve]``.

GET  /              search page
GET  /healthz       is it up, which model, how many items
POST /v1/embeddings texts or images to vectors, in the shape that OpenAI clients read
GET  /search?q=     by text
POST /search        by text, image, both (image + weight * text), or an item that is there
GET  /image/UID     thumbnail, when the service has the pool
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from diptych.core.contracts import Dataset, Embedder, Unit
from diptych.core.errors import ConfigError, MissingExtra
from diptych.core.image import ImageSource

if TYPE_CHECKING:
    from fastapi import FastAPI

PACKAGES = ("fastapi", "uvicorn")


class Found(Protocol):
    """One answer of an index."""

    @property
    def uid(self) -> str: ...

    @property
    def score(self) -> float: ...

    @property
    def payload(self) -> Mapping[str, Any]: ...


class Index(Protocol):
    """What the service asks of an index."""

    def __len__(self) -> int: ...

    def search_text(self, text: str, k: int = 10, *, where: Mapping[str, Any] | None = None) -> Sequence[Found]: ...

    def search_image(self, image: ImageSource, k: int = 10, *, where: Mapping[str, Any] | None = None) -> Sequence[Found]: ...

    def search_vectors(
        self, query_QD: Unit, k: int = 10, *, where: Mapping[str, Any] | None = None
    ) -> Sequence[Sequence[Found]]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request may ask for. A larger one is refused with 413 (bytes, pixels) or 422 (counts)."""

    body_bytes: int = 32 << 20
    image_pixels: int = 50_000_000
    inputs: int = 256  # texts or images in one request
    text_characters: int = 8192
    k: int = 200


@dataclass(frozen=True)
class Service:
    """What all routes share. `lock` lets one request at a time into model and index: neither is safe to enter twice."""

    embedder: Embedder
    index: Index | None = None
    pool: Dataset | None = None
    limits: Limits = field(default_factory=Limits)
    lock: threading.Lock = field(default_factory=threading.Lock)


def create_app(
    embedder: Embedder, index: Index | None = None, *, pool: Dataset | None = None, limits: Limits | None = None
) -> FastAPI:
    """The service as an ASGI application.

    index  makes /search answer; it must have been built with this model
    pool   makes /image/UID answer, so that the page shows pictures
    """
    _needs("fastapi")
    from diptych.serve.routes import build

    return build(Service(embedder, index, pool, limits or Limits()))


def run(
    embedder: Embedder,
    index: Index | None = None,
    *,
    pool: Dataset | None = None,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
) -> None:
    """Listen until interrupted. The default host is this machine only; there is no login, so think before you open it wider."""
    for package in PACKAGES:
        _needs(package)
    import uvicorn

    if not 0 <= port <= 65535:
        raise ConfigError(f"port is {port} (expected 0..65535)")
    uvicorn.run(create_app(embedder, index, pool=pool, limits=limits), host=host, port=port, log_level="warning")


def _needs(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package, "serve", needed_for="the HTTP service")
