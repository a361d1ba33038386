"""POST /classify, /detect, /explain, /locate and /words: what is in a picture, how it is related, which part of it goes with which word,
where in a large one a text fits, and which words it becomes."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import FastAPI, Response
from PIL import Image

from diptych.api import detect
from diptych.core.contracts import Unit
from diptych.core.image import ImageSource
from diptych.core.scene_graph import SceneGraph
from diptych.data.media.decode import decode
from diptych.data.media.scene_file import SceneFile
from diptych.pipelines.alignment import Alignment, align
from diptych.pipelines.picture_words import PictureWords, words_of
from diptych.pipelines.scene_localisation import SceneMap, locate, options_for, scene_windows
from diptych.serve.answers import graph_answer, jsonable
from diptych.serve.refusals import RequestError, SafeJsonResponse
from diptych.serve.schema import (
    ClassifyAnswer,
    ClassifyRequest,
    DetectRequest,
    ExplainAnswer,
    ExplainRequest,
    GraphAnswer,
    LocateAnswer,
    LocateRequest,
    WordsAnswer,
    WordsRequest,
    text_of,
    texts_of,
)
from diptych.serve.service import Service
from diptych.tasks.pairs.templates import fill, templates
from diptych.tasks.pairs.zero_shot import class_heads, spell

LOCATED, MOST_HITS = 96, 20
"""Cells of a map's longer side in an answer, and its hits at most."""


def add(app: FastAPI, service: Service) -> None:
    @app.post("/classify", response_model=ClassifyAnswer)
    async def classify(request: ClassifyRequest) -> Response:
        """The names that fit pictures best, from a list of your own; by the rule of the protocol `zero_shot`."""
        side, limits = service.side(request.model), service.limits
        if not side.embeds:
            raise RequestError(422, f"'{side.name}' does not embed images and texts")
        given = [request.image] if isinstance(request.image, str) else request.image
        if not 1 <= len(given) <= limits.inputs:
            raise RequestError(422, f"image has {len(given)} entries (expected 1..{limits.inputs})")
        labels = list(dict.fromkeys(texts_of(request.labels, "labels", limits.names, limits)))
        sentences = templates(tuple(texts_of(request.templates, "templates", limits.inputs, limits)))
        texts = [fill(sentence, spell(label)) for label in labels for sentence in sentences]
        if len(texts) > limits.names:
            raise RequestError(
                422, f"{len(labels)} labels in {len(sentences)} templates (expected at most {limits.names:,} sentences)"
            )
        images = [await service.picture(encoded, f"image[{index}]") for index, encoded in enumerate(given)]

        def score(text_ND: Unit, image_ND: Unit) -> Any:
            return image_ND @ class_heads(text_ND.reshape(len(labels), len(sentences), -1)).T

        score_NK = await service.submit(side.model, score, texts=texts, images=images)
        best_NK = np.argsort(-score_NK, axis=1, kind="stable")[:, : request.k]
        answers = [
            {"classes": [{"name": labels[index], "score": float(score_K[index])} for index in best_K]}
            for score_K, best_K in zip(score_NK, best_NK, strict=True)
        ]
        return SafeJsonResponse({"answers": answers})

    @app.post("/detect", response_model=GraphAnswer)
    async def find_relations(request: DetectRequest) -> Response:
        """Objects and the relations between them, for an open vocabulary of names."""
        if service.detector is None:
            raise RequestError(404, "this service has no detector: start it with one (diptych serve ... --detector MODEL)")
        limits = service.limits
        words: dict[str, Any] = {
            name: texts_of(getattr(request, name), name, limits.names, limits) for name in ("objects", "relations")
        }
        picture = await service.request_picture(request.image, request.uid)

        def graph_of(text_ND: Unit, image_ND: Unit) -> SceneGraph:
            return detect(service.detector, picture, **words, min_score=request.min_score, top=request.top)

        graph = await service.submit(service.detector, graph_of, inside=[picture])
        return SafeJsonResponse(await service.aside(lambda: graph_answer(graph, *_size(picture))))

    @app.post("/explain", response_model=ExplainAnswer)
    async def explain(request: ExplainRequest) -> Response:
        """Relevance map of a picture for each word of a text."""
        side = service.side(request.model)
        if not side.aligns:
            raise RequestError(422, f"'{side.name}' cannot lay a text over a picture (expected a model that embeds both)")
        text = text_of(request.text, "text", service.limits)
        picture = await service.request_picture(request.image, request.uid)
        times = request.grid**2 + 1 if side.aligns == "occlusion" else 1
        alignment: Alignment = await service.submit(
            side.model, lambda t, i: align(side.model, picture, text, grid=request.grid), inside=[picture], times=times
        )
        return SafeJsonResponse(jsonable(alignment.to_json()))

    @app.post("/locate", response_model=LocateAnswer)
    async def locate_text(request: LocateRequest) -> Response:
        """Map of where a text fits in a large picture, and its peaks; sizes of the windows follow those of the picture."""
        side = service.side(request.model)
        if not side.embeds:
            raise RequestError(422, f"'{side.name}' does not embed images and texts")
        text = text_of(request.text, "text", service.limits)
        picture = await service.request_picture(request.image, request.uid)
        pixels_HWC = await service.aside(lambda: decode(picture, exact=True))
        height, width = pixels_HWC.shape[:2]
        options = options_for(height, width)
        windows = len(scene_windows(height, width, options.windows))
        located: SceneMap = await service.submit(
            side.model,
            lambda t, i: locate(side.model, SceneFile.of_pixels(pixels_HWC), text, options),
            inside=[picture],
            times=windows,
        )
        return SafeJsonResponse(located_answer(located, (height, width), windows))

    @app.post("/words", response_model=WordsAnswer)
    async def words(request: WordsRequest) -> Response:
        """Term weights of a picture and the map of each term; needs a lexical model."""
        side = service.side(request.model)
        if not side.lexical:
            raise RequestError(422, f"'{side.name}' does not turn pictures into words (expected a model of recipe lexlip)")
        picture = await service.request_picture(request.image, request.uid)
        words_of_picture: PictureWords = await service.submit(
            side.model, lambda t, i: words_of(side.model, picture, request.top), inside=[picture]
        )
        return SafeJsonResponse(jsonable(words_of_picture.to_json()))


def located_answer(located: SceneMap, size: tuple[int, int], windows: int) -> dict[str, Any]:
    """The answer of /locate: the map reduced to `LOCATED` cells a side at most, places as shares of the picture's sides."""
    height, width = size
    share = min(1.0, LOCATED / max(located.map_HW.shape))
    reduced = Image.fromarray(located.map_HW.astype(np.float32)).resize(
        (max(1, round(located.map_HW.shape[1] * share)), max(1, round(located.map_HW.shape[0] * share))), Image.Resampling.BOX
    )
    value_RC = np.clip(np.asarray(reduced), 0, 1)
    hits = [
        {
            "x": hit.x / width,
            "y": hit.y / height,
            "box": [hit.box[0] / width, hit.box[1] / height, hit.box[2] / width, hit.box[3] / height],
            "probability": hit.probability,
            "cosine": hit.cosine,
        }
        for hit in located.hits[:MOST_HITS]
    ]
    rows, columns = value_RC.shape
    return {"rows": rows, "columns": columns, "values": np.round(value_RC, 3).tolist(), "windows": windows, "hits": hits}


def _size(picture: ImageSource) -> tuple[int, int]:
    height, width = decode(picture, exact=True).shape[:2]
    return width, height
