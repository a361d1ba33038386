"""Model Context Protocol server: search, detect, caption and ask as tools, over stdin and stdout or at /mcp.

A tool asks the route of its name, so limits and refusals are those of the service. Only what the service can do is offered. Needs the
extra `[mcp]`.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from diptych import __version__
from diptych.core.errors import ConfigError, MissingExtra
from diptych.core.terminal.signals import WATCHED, exit_code
from diptych.serve.internal_call import call_route
from diptych.serve.refusals import RequestError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from starlette.types import ASGIApp

    from diptych.serve.service import Service

FILE, ITEM = "file:", "item:"
Image = Annotated[
    str,
    Field(description="item:UID of an item that search found, base64, a data URL, or file:NAME where a folder is served"),
]
Tokens = Annotated[int, Field(ge=1, description="tokens of the answer at most")]


def agent_server(app: ASGIApp, service: Service, *, files: Path | None = None) -> MCPServer[Any]:
    """The tools over the routes of `app`.

    files  a folder whose pictures may be named as file:NAME; for agents of this machine only
    """
    if importlib.util.find_spec("mcp") is None:
        raise MissingExtra("mcp", "mcp", needed_for="tools for agents")
    if files is not None and not files.is_dir():
        raise ConfigError(f"{files} is not a folder (expected one with pictures that tools may name)")
    from mcp.server.mcpserver import MCPServer
    from mcp_types import ToolAnnotations

    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    server: MCPServer[Any] = MCPServer(
        "diptych", title="Diptych", version=__version__, instructions=_about(service), log_level="CRITICAL"
    )
    root.handlers[:], root.level = handlers, level  # which are for the host of a library to set
    for tool in _tools(app, service, files):
        server.add_tool(tool, annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
    return server


def _about(service: Service) -> str:
    counts = [side.facts.count for side in service.sides.values() if side.facts is not None]
    held = f"It searches {counts[0]:,} items. " if counts else ""
    return f"Looks at pictures. {held}Scores are cosines or the like; captions and answers come from a model and may be wrong."


def _tools(app: ASGIApp, service: Service, files: Path | None) -> list[Callable[..., Awaitable[dict[str, Any]]]]:
    async def route(path: str, body: dict[str, Any], image: str = "") -> dict[str, Any]:
        from mcp.server.mcpserver.exceptions import ToolError

        try:
            given = _picture(image, files, service.limits.body_bytes) if image else {}
            return await call_route(app, path, {**body, **given})
        except RequestError as error:
            raise ToolError(error.message) from None

    async def search(
        text: Annotated[str, Field(description="what to look for; may be empty beside an image")] = "",
        image: Image = "",
        k: Annotated[int, Field(ge=1, description="how many hits")] = 5,
        where: Annotated[dict[str, Any] | None, Field(description='conditions on columns: {"licence": "MIT"}')] = None,
    ) -> dict[str, Any]:
        """Find pictures by words, by a picture, or by a picture changed by words. Gives uids, scores and what is known of each hit."""
        body: dict[str, Any] = {"k": k, "where": where or {}, **({"text": text} if text else {})}
        if image.startswith(ITEM):
            return await route("/search", {**body, "like": image.removeprefix(ITEM)})
        return await route("/search", body, image)

    async def detect(
        image: Image,
        objects: Annotated[list[str] | None, Field(description="names to look for; without, those of the training")] = None,
        relations: Annotated[list[str] | None, Field(description="relations to look for; without, those of the training")] = None,
        min_score: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> dict[str, Any]:
        """Find things in a picture, with boxes in pixels, and the relations between them, which name things by their number."""
        body = {"objects": objects or [], "relations": relations or [], "min_score": min_score}
        graph = await route("/detect", body, image)
        return {name: graph[name] for name in ("regions", "relations")}

    async def caption(
        image: Image, prompt: Annotated[str, Field(description="what to ask for")] = "", max_tokens: Tokens = 64
    ) -> dict[str, Any]:
        """Write a caption for a picture."""
        return await route("/caption", {"prompt": prompt, "max_tokens": max_tokens}, image)

    async def ask(
        image: Image,
        question: str,
        choices: Annotated[list[str] | None, Field(description="answers to choose from by likelihood")] = None,
        max_tokens: Tokens = 64,
    ) -> dict[str, Any]:
        """Answer a question about a picture, in free words or by the most likely of given choices."""
        return await route("/ask", {"question": question, "choices": choices or [], "max_tokens": max_tokens}, image)

    offered: list[Any] = [search] if any(side.index for side in service.sides.values()) else []
    offered += [detect] if service.detector is not None else []
    offered += [caption, ask] if service.writers else []
    if not offered:
        raise ConfigError("there is nothing that a tool could do (expected an index, --detector or --writer)")
    return offered


def _picture(image: str, files: Path | None, most: int) -> dict[str, str]:
    """A picture argument of a tool in the form that routes take. Raises RequestError."""
    if image.startswith(ITEM):
        return {"uid": image.removeprefix(ITEM)}
    if not image.startswith(FILE):
        return {"image": image}
    name = image.removeprefix(FILE)
    if files is None:
        raise RequestError(400, "no folder is served (expected item:UID, base64 or a data URL)")
    path = (files / name).resolve()
    if not path.is_relative_to(files.resolve()) or not path.is_file():
        raise RequestError(404, f"the served folder has no file '{name[:80]}'")
    if path.stat().st_size * 4 // 3 > most:
        raise RequestError(413, f"'{name[:80]}' is too large (expected at most {most * 3 // 4:,} bytes)")
    return {"image": base64.b64encode(path.read_bytes()).decode()}


def serve_stdio(app: ASGIApp, service: Service, *, files: Path | None = None) -> None:
    """Answer an agent on stdin and stdout until it closes them. A signal ends the process with its exit code, for the thread that waits
    for the next line of stdin cannot be ended by anything else."""
    server = agent_server(app, service, files=files)
    loop = asyncio.new_event_loop()
    with service.open_to_others():
        number = loop.run_until_complete(_serve_until_signal(server, service))
    if number:
        os._exit(exit_code(number))
    loop.close()


async def _serve_until_signal(server: MCPServer[Any], service: Service) -> int:
    """0 when the agent has ended it, else the number of a signal."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()

    def note(number: int) -> None:
        if not signalled.done():
            signalled.set_result(number)

    for number in WATCHED:
        loop.add_signal_handler(number, note, int(number))
    talking = asyncio.create_task(server.run_stdio_async())
    waited: set[asyncio.Future[Any]] = {talking, signalled}
    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
    await service.close()
    if signalled.done():
        return signalled.result()
    talking.result()
    return 0
