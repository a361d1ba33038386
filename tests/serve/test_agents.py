"""Tools for agents, asked with the protocol's own client: in the process, over HTTP, and over stdin and stdout of the command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from diptych.core.errors import ConfigError, MissingExtra
from diptych.serve import Limits, create_app

from .conftest import COLOURS, SMALL, Stub, Teller, b64, encoded, flat, refusal, running

mcp = pytest.importorskip("mcp", reason="needs mcp (pip install mcp)")
BLUE = b64(encoded(flat(COLOURS["blue"])))


def talk(server: Any, work: Callable[[Any], Awaitable[Any]]) -> Any:
    async def all_of_it() -> Any:
        async with mcp.Client(server) as client:
            return await work(client)

    return asyncio.run(all_of_it())


async def used(client: Any) -> dict[str, Any]:
    async def call(name: str, **given: Any) -> Any:
        return (await client.call_tool(name, given)).structured_content

    return {
        "tools": [tool.name for tool in (await client.list_tools()).tools],
        "search": await call("search", text="red", k=2),
        "like": await call("search", image="item:blue-1", k=1),
        "detect": await call("detect", image="item:red-1", objects=["cat"], relations=["on"]),
        "caption": await call("caption", image=BLUE, prompt="briefly", max_tokens=3),
        "ask": await call("ask", image="item:green-1", question="why?"),
        "chosen": await call("ask", image="item:green-1", question="which?", choices=["green", "red"]),
    }


def check(found: dict[str, Any]) -> None:
    assert found["tools"] == ["search", "detect", "caption", "ask"]
    assert found["search"]["hits"][0]["uid"] == "red-1"
    assert found["search"]["hits"][0]["payload"]["style"] == "warm"
    assert found["like"]["hits"][0]["uid"] != "blue-1", "an example is no hit of its own"
    assert [region["label"] for region in found["detect"]["regions"]] == ["cat", "cat"]
    assert found["detect"]["relations"] == [{"subject": 0, "predicate": "on", "object": 1, "score": 0.8}]
    assert found["caption"] == {"model": "stub/teller", "caption": "a blue picture."}
    assert found["ask"]["answer"] == "a green picture. why?"
    assert found["chosen"]["answer"] == "red"


def test_the_tools_over_http(tmp_path: Path) -> None:
    with running(tmp_path, agents=True) as started:
        check(talk(f"{started.address}/mcp", used))
        assert started.http.get("/openapi.json").status_code == 200


def test_an_agent_needs_the_token_and_the_right_name(tmp_path: Path) -> None:
    with running(tmp_path, agents=True, token="secret", hosts=("127.0.0.1",)) as started:
        assert started.http.post("/mcp", json={}).status_code == 401
        assert started.http.post("/mcp", json={}, headers={"Host": "other"}).status_code == 403


def test_errors_are_one_line_that_the_agent_reads(tmp_path: Path) -> None:
    async def wrong(client: Any) -> list[str]:
        calls: list[tuple[str, dict[str, Any]]] = [
            ("search", {}),
            ("search", {"text": "red", "k": 99}),
            ("caption", {"image": "item:gone"}),
            ("caption", {"image": "https://example.org/a.png"}),
            ("caption", {"image": "file:a.png"}),
            ("ask", {"image": BLUE, "question": " "}),
            ("ask", {"image": BLUE, "question": "explode"}),
            ("ask", {"image": BLUE}),
        ]
        found = []
        for name, given in calls:
            answer = await client.call_tool(name, given)
            assert answer.is_error, (name, given)
            found.append(answer.content[0].text)
        return found

    with running(tmp_path, agents=True) as started:
        lines = talk(f"{started.address}/mcp", wrong)
    said = ("nothing to search for", "expected 1..20", "no item has that uid", "fetches nothing", "no folder is served",
            "question is empty", "RuntimeError inside the service", "question")  # fmt: skip
    for line, part in zip(lines, said, strict=True):
        assert part in line
        assert "secret" not in line


def test_limits_hold_for_tools_too(tmp_path: Path) -> None:
    from dataclasses import replace

    slow = Teller()
    slow.slow = 0.3
    with running(tmp_path, agents=True, writer=slow, limits=replace(SMALL, seconds=1)) as started:
        call = lambda client: client.call_tool("caption", {"image": BLUE, "prompt": "x " * 20})  # noqa: E731
        start = time.monotonic()
        answer = talk(f"{started.address}/mcp", call)
        assert answer.is_error
        assert "no answer within 1 seconds" in answer.content[0].text
        assert time.monotonic() - start < 5


def test_only_what_the_service_can_do_is_offered() -> None:
    from diptych.serve.agents import agent_server
    from diptych.serve.application import internal_app

    def names(app: Any) -> list[str]:
        service = app.state.service
        server = agent_server(internal_app(service), service)
        return [str(tool.name) for tool in talk(server, lambda client: client.list_tools()).tools]

    assert names(create_app(Teller())) == ["caption", "ask"]
    with pytest.raises(ConfigError, match="nothing that a tool could do"):
        create_app(Stub(), agents=True)


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "mcp" else find(name, *more))
    with pytest.raises(MissingExtra, match=r"diptych\[mcp\]"):
        create_app(Teller(), agents=True)


SERVED = """
import sys
import diptych.api
from tests.serve.conftest import Teller
diptych.api.load = lambda *given, **options: Teller()
from diptych.cli import main
sys.exit(main(sys.argv[1:]))
"""


def started(folder: Path) -> tuple[str, list[str], dict[str, str]]:
    here = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{here / 'src'}:{here}"}
    return sys.executable, ["-c", SERVED, "serve", "stub", "--mcp", "stdio", "--files", str(folder)], environment


def test_the_command_on_stdin_and_stdout(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(flat(COLOURS["green"])))
    shared, outer = tmp_path / "shared", tmp_path / "outside.png"
    shared.mkdir()
    (tmp_path / "a.png").rename(shared / "a.png")
    outer.write_bytes(encoded(flat(COLOURS["red"])))
    (shared / "link.png").symlink_to(outer)
    command, arguments, environment = started(shared)

    async def work(client: Any) -> list[Any]:
        tools = await client.list_tools()
        given = ("file:a.png", "file:../outside.png", "file:link.png", f"file:{outer}", "file:")
        answers = [await client.call_tool("caption", {"image": image}) for image in given]
        return [[tool.name for tool in tools.tools], *answers]

    server = mcp.stdio_client(mcp.StdioServerParameters(command=command, args=arguments, env=environment))
    names, inside, *outside = talk(server, work)
    assert names == ["caption", "ask"]
    assert inside.structured_content["caption"] == "a green picture."
    for answer in outside:
        assert answer.is_error
        assert "the served folder has no file" in answer.content[0].text


@pytest.mark.slow
@pytest.mark.parametrize("how", ["close", "term"])
def test_the_command_ends_when_its_agent_does(tmp_path: Path, how: str) -> None:
    command, arguments, environment = started(tmp_path)
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    with subprocess.Popen([command, *arguments], **pipes) as process:
        hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}}  # fmt: skip
        process.stdin.write(json.dumps(hello).encode() + b"\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "diptych"
        start = time.monotonic()
        if how == "term":
            process.send_signal(signal.SIGTERM)
            code = process.wait(15)
        else:
            _, error = process.communicate(timeout=120)
            assert b"Traceback" not in error
            code = process.returncode
        assert time.monotonic() - start < 10
    assert code == (0 if how == "close" else 143)


def test_files_are_for_stdio_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from diptych.cli import main

    assert main(["serve", "words", "--files", str(tmp_path), "--mcp", "http"]) == 2
    assert "--mcp stdio" in capsys.readouterr().err


def test_a_call_of_a_tool_is_no_way_around_the_limit_of_a_body(tmp_path: Path) -> None:
    limits = Limits(body_bytes=4000, image_pixels=10_000)
    with running(tmp_path, agents=True, limits=limits) as started:
        answer = httpx.post(f"{started.address}/mcp", content=b"x" * 5000, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "4,000 bytes" in refusal(answer)
