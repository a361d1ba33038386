"""Health, readiness, contents and metrics of the service."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import FastAPI, Path, Response

from diptych import __version__
from diptych.core.contracts import Streamer
from diptych.pipelines.token_sources import reduces_tokens
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.schema import InfoAnswer, ModelInfo, ModelList, ModelObject, ServiceStatus, WriterInfo
from diptych.serve.service import ServedModel, Service


def add(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def health() -> ServiceStatus:
        """The process is up. Says nothing about what it serves."""
        return ServiceStatus(status="ok", version=__version__)

    @app.get("/readyz", responses={503: {"model": ServiceStatus}})
    async def ready() -> Response:
        """Readiness probe: 503 while the queue is full or the service stops."""
        status = "stopping" if service.draining else "busy" if service.busy else "ready"
        return SafeJsonResponse({"status": status, "version": __version__}, 200 if status == "ready" else 503)

    @app.get("/info")
    async def info() -> InfoAnswer:
        """Models, their indexes, the columns that can be filtered by, and the limits."""
        detector = service.detector
        models = await service.aside(lambda: [_model(service, side) for side in service.sides.values()])
        return InfoAnswer(
            models=models,
            writers=[
                WriterInfo(
                    name=side.name,
                    streams=isinstance(side.model, Streamer),
                    ranks=side.ranks,
                    reduces=reduces_tokens(side.model),
                )
                for side in service.writers.values()
            ],
            data=bool(service.data),
            detector=None if detector is None else str(getattr(detector, "name", "detector")),
            objects=list(getattr(detector, "objects", ())),
            relations=list(getattr(detector, "relations", ())),
            limits=asdict(service.limits),
        )

    @app.get("/v1/models")
    async def models() -> ModelList:
        """The models, as OpenAI clients list them."""
        names = dict.fromkeys((*service.sides, *service.writers))
        objects = [ModelObject(id=name, object="model", created=0, owned_by="diptych") for name in names]
        return ModelList(object="list", data=objects)

    @app.get("/v1/models/{model_id:path}")
    async def model(model_id: Annotated[str, Path(min_length=1, max_length=1000)]) -> ModelObject:
        """One model, as OpenAI clients look it up."""
        side = service.sides.get(model_id) or service.writers.get(model_id)
        if side is None:
            names = " or ".join(f"'{name}'" for name in dict.fromkeys((*service.sides, *service.writers)))
            raise RequestError(404, f"unknown model '{model_id[:80]}'; this service has {names}")
        return ModelObject(id=side.name, object="model", created=0, owned_by="diptych")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(service: Service, side: ServedModel) -> ModelInfo:
    facts: dict[str, Any] = {"index": None, "count": None}
    if side.facts is not None:
        facts = {"index": side.facts.kind, "count": side.facts.count}
    return ModelInfo(
        name=side.name,
        fingerprint=str(getattr(side.model, "fingerprint", "")),
        embeds=side.embeds,
        aligns=side.aligns,  # type: ignore[arg-type]
        lexical=side.lexical,
        modes=[] if side.index is None else list(side.index.modes),
        combines=side.index is not None and side.index.combines,
        columns=service.facets(side),
        examples=service.examples(side),
        **facts,
    )


def unique_id(route: Any) -> str:
    """Names of operations in the OpenAPI description: method and path."""
    return re.sub(r"\W+", "_", f"{sorted(route.methods)[0].lower()}{route.path_format}").strip("_")
