"""POST /caption and /ask: a caption, and an answer in free words or the likeliest of given ones."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

from diptych.api import ask
from diptych.serve.answers import plain
from diptych.serve.chat_schema import AskAnswer, AskRequest, CaptionAnswer, CaptionRequest
from diptych.serve.refusals import Json, Refused
from diptych.serve.routes.chat import tokens_of
from diptych.serve.schema import text_of, texts_of
from diptych.serve.service import Service
from diptych.serve.writing import Wanted, Writing


def add(app: FastAPI, service: Service) -> None:
    @app.post("/caption", response_model=CaptionAnswer)
    async def write_caption(request: CaptionRequest) -> Response:
        """What a model writes about a picture."""
        side, tokens = service.writer(request.model), tokens_of(service, request.max_tokens)
        prompt = text_of(request.prompt, "prompt", service.limits) if request.prompt else ""
        picture = await service.asked_picture(request.image, request.uid)
        text = await Writing(service, side, Wanted(picture, prompt, max_tokens=tokens)).whole()
        return Json({"model": side.name, "caption": text})

    @app.post("/ask", response_model=AskAnswer)
    async def answer(request: AskRequest) -> Response:
        """An answer about a picture: in the model's words, or of given choices the likeliest."""
        side, limits = service.writer(request.model), service.limits
        tokens, question = tokens_of(service, request.max_tokens), text_of(request.question, "question", limits)
        choices = texts_of(request.choices, "choices", limits.names, limits)
        if choices and not side.ranks:
            raise Refused(422, f"'{side.name}' does not rank answers (expected no choices)")
        picture = await service.asked_picture(request.image, request.uid)
        if not choices:
            text = await Writing(service, side, Wanted(picture, question, max_tokens=tokens)).whole()
            return Json({"model": side.name, "answer": text, "shares": None, "nats": None})

        def rank(texts: Any, images: Any) -> Any:
            return ask(side.model, picture, question, choices=choices, compared=request.compared)

        found = await service.ask(side.model, rank, inside=[picture], times=len(choices))
        return Json(plain({"model": side.name, "answer": found.text, "shares": found.shares, "nats": found.nats}))
