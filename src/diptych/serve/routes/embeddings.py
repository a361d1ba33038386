"""POST /v1/embeddings: texts and pictures to vectors, in the shape that OpenAI clients read."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Response

from diptych.core.contracts import Unit
from diptych.data.text.tokenize import Tokenizer
from diptych.index.vectors import unit_rows
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.schema import EmbeddingAnswer, EmbeddingRequest, ImageInput, TextInput, text_of
from diptych.serve.service import ServedModel, Service


def add(app: FastAPI, service: Service) -> None:
    @app.post("/v1/embeddings", response_model=EmbeddingAnswer)
    async def embeddings(request: EmbeddingRequest) -> Response:
        """Unit-norm vectors of texts and images, in the order of the input."""
        side = service.side(request.model)
        if not side.embeds:
            raise RequestError(422, f"'{side.name}' does not embed images and texts")
        given: Any = request.input
        several = isinstance(given, list) and not (given and isinstance(given[0], int))
        inputs = [_as_text(side, value) for value in (given if several else [given])]
        if not 1 <= len(inputs) <= service.limits.inputs:
            raise RequestError(422, f"input has {len(inputs)} entries (expected 1..{service.limits.inputs})")
        named = [(f"input[{i}]" if several else "input", value) for i, value in enumerate(inputs)]
        texts = [text_of(value, name, service.limits) for name, value in named if isinstance(value, str)]
        images = [await service.picture(v.image, name) for name, v in named if isinstance(v, ImageInput)]
        both: tuple[Unit, Unit] = await service.submit(side.model, lambda t_ND, i_ND: (t_ND, i_ND), texts=texts, images=images)
        rows = _in_order(inputs, *(_prefixes(side, rows_ND, request.dimensions) for rows_ND in both))
        encode = _base64 if request.encoding_format == "base64" else _floats
        data = [{"object": "embedding", "index": index, "embedding": encode(row_D)} for index, row_D in enumerate(rows)]
        tokens = sum(map(_token_counter(side), texts))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "texts": len(texts), "images": len(images)}
        return SafeJsonResponse({"object": "list", "model": side.name, "data": data, "usage": usage})


def _as_text(side: ServedModel, value: Any) -> Any:
    """A text for ids of the model's tokenizer and for an object with a text; anything else as it is."""
    if isinstance(value, TextInput):
        return value.text
    if not isinstance(value, list):
        return value
    tokenizer = getattr(side.model, "tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise RequestError(422, f"input holds token ids, and '{side.name}' has no tokenizer for them (expected texts)")
    if max(value) >= tokenizer.vocab_size:
        raise RequestError(422, f"input has the token id {max(value)} ('{side.name}' has {tokenizer.vocab_size:,} of its own)")
    return tokenizer.decode(value)


def _token_counter(side: ServedModel) -> Callable[[str], int]:
    """Number of tokens of a text as the model reads it, marks and what is cut off not counted; words where the tokenizer is not ours."""
    tokenizer = getattr(side.model, "tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        return lambda text: len(text.split())
    length = getattr(side.model, "text_length", 0)
    return lambda text: min(tokenizer.count(text), length or tokenizer.count(text))


def _in_order(inputs: Sequence[Any], text_ND: Unit, image_ND: Unit) -> list[Unit]:
    texts, images = iter(text_ND), iter(image_ND)
    return [next(texts if isinstance(value, str) else images) for value in inputs]


def _prefixes(side: ServedModel, rows_ND: Unit, dimensions: int | None) -> Unit:
    """The first dimensions of each vector, normalised again, for models whose prefixes are embeddings (Matryoshka)."""
    if dimensions is None or not len(rows_ND) or dimensions == rows_ND.shape[1]:
        return rows_ND
    valid = sorted({*getattr(side.model, "dims", ()), rows_ND.shape[1]})
    if dimensions not in valid:
        raise RequestError(422, f"dimensions is {dimensions} ('{side.name}' gives {' or '.join(map(str, valid))})")
    return unit_rows(rows_ND[:, :dimensions])


def _base64(row_D: Unit) -> str:
    return base64.b64encode(np.asarray(row_D, "<f4").tobytes()).decode()


def _floats(row_D: Unit) -> list[float]:
    values: list[float] = np.asarray(row_D, np.float32).tolist()
    return values
