"""GET / and /page/NAME: the search page and its parts, which need no permission: they contain nothing about models or data."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from diptych.serve.page import PageFile, page, page_files
from diptych.serve.refusals import RequestError


def add(app: FastAPI, *, token: bool) -> None:
    home_file, files = page(token=token), page_files()

    @app.get("/", include_in_schema=False)
    async def home(request: Request) -> Response:
        return _send(home_file, request)

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str, request: Request) -> Response:
        if name not in files:
            raise RequestError(404, "the page has no such part")
        return _send(files[name], request)


def _send(file: PageFile, request: Request) -> Response:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.tag in tags:
        return Response(status_code=304, headers=file.headers)
    return Response(file.content, media_type=file.type, headers=file.headers)
