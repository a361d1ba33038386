"""POST /caption, /ask and /tokens: a caption, an answer in free text or the most likely of given ones, and the patches that image tokens
stand for."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response

from diptych.api import ask
from diptych.core.prompt import EMPTY_TEXT
from diptych.data.text.prompts.comprehension_prompts import with_description
from diptych.pipelines.token_sources import TokenSources, reduces_tokens, token_sources
from diptych.serve.answers import jsonable
from diptych.serve.chat_schema import AskAnswer, AskRequest, CaptionAnswer, CaptionRequest
from diptych.serve.generation import GenerationRequest, GenerationStream, reads_images
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.routes.chat import max_new_tokens
from diptych.serve.schema import TokensAnswer, TokensRequest, text_of, texts_of
from diptych.serve.service import Service


def add(app: FastAPI, service: Service) -> None:
    @app.post("/caption", response_model=CaptionAnswer)
    async def write_caption(request: CaptionRequest) -> Response:
        """Caption of a picture by a generative model."""
        side, tokens = service.writer(request.model), max_new_tokens(service, request.max_tokens)
        prompt = text_of(request.prompt, "prompt", service.limits) if request.prompt else ""
        picture = await service.request_picture(request.image, request.uid)
        text = await GenerationStream(service, side, GenerationRequest(picture, prompt, max_tokens=tokens)).whole()
        return SafeJsonResponse({"model": side.name, "caption": text, **_note(text)})

    @app.post("/ask", response_model=AskAnswer)
    async def answer(request: AskRequest) -> Response:
        """Answer to a question about a picture: generated text, or the most likely of given choices. Models that read text alone are asked
        without a picture."""
        side, limits = service.writer(request.model), service.limits
        tokens, question = max_new_tokens(service, request.max_tokens), text_of(request.question, "question", limits)
        choices = texts_of(request.choices, "choices", limits.names, limits)
        if choices and not side.ranks:
            raise RequestError(422, f"'{side.name}' does not rank answers (expected no choices)")
        describe = text_of(request.describe, "describe", limits) if request.describe else ""
        if describe and not reads_images(side):
            raise RequestError(422, f"'{side.name}' reads text alone (expected no describe)")
        if reads_images(side):
            picture = await service.request_picture(request.image, request.uid)
        elif request.image is None and request.uid is None:
            picture = None
        else:
            raise RequestError(422, f"'{side.name}' reads text alone (expected neither image nor uid)")
        if describe:
            described = GenerationRequest(picture, describe, max_tokens=limits.tokens)
            question = with_description(question, await GenerationStream(service, side, described).whole())
        if not choices:
            text = await GenerationStream(service, side, GenerationRequest(picture, question, max_tokens=tokens)).whole()
            return SafeJsonResponse({"model": side.name, "answer": text, "shares": None, "nats": None, **_note(text)})

        def rank(texts: Any, images: Any) -> Any:
            return ask(side.model, picture, question, choices=choices, compared=request.compared)

        choice = await service.submit(side.model, rank, inside=[picture] if picture else [], times=len(choices))
        return SafeJsonResponse(
            jsonable({"model": side.name, "answer": choice.text, "shares": choice.shares, "nats": choice.nats})
        )

    @app.post("/tokens", response_model=TokensAnswer)
    async def tokens_of(request: TokensRequest) -> Response:
        """Patches of a picture that each image token of a language model stands for, where the model reduces them."""
        side = service.writer(request.model)
        if not reduces_tokens(side.model):
            raise RequestError(422, f"'{side.name}' reduces no image tokens (expected a model such as simvlg or mono_internvl)")
        picture = await service.request_picture(request.image, request.uid)
        sources: TokenSources = await service.submit(
            side.model, lambda texts, images: token_sources(side.model, [picture]), inside=[picture]
        )
        rows, columns = sources.owners.shape[1:]
        owner = sources.owners[0].tolist()  # a model of clips has the picture in every frame
        return SafeJsonResponse(
            {"tokens": len(sources.share_KTHW), "rows": rows, "columns": columns, "box": list(sources.box), "owner": owner}
        )


def _note(text: str) -> dict[str, str]:
    return {} if text.strip() else {"note": EMPTY_TEXT}
