"""An endpoint that is slow, asks to wait, talks nonsense, breaks off in the middle, or dies."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diptych.core.contracts import Reply
from diptych.core.errors import ConfigError, RunError
from diptych.curate.writing.backends.endpoint import Endpoint
from diptych.curate.writing.requests import Sampling, TextRequest, prompt_hash
from diptych.curate.writing.writer import cached_answers
from diptych.models.endpoint.answers import AnswerCache
from diptych.models.endpoint.connection import KEY, ServerConnection

from ..conftest import Server, said


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(ServerConnection, "_rest", lambda line, seconds: slept.append(seconds))
    return slept


def asking(server: Server, **changes: Any) -> Endpoint:
    return replace(Endpoint(server.address, "small", Sampling(stop=("\n",)), timeout=5.0, tries=3), **changes)


def test_what_is_asked_and_what_comes_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    server.behave = lambda number, body: said(" a bus\nand more", tokens=(7, 5))
    answer = asking(server).write([TextRequest("a", "rewrite: a coach =>", seed=2**40 + 3)])[0]
    assert (answer.text, answer.prompt_tokens, answer.written_tokens, answer.fault) == (" a bus", 7, 5, "")
    assert server.asked[0] == {
        "path": "/v1/completions",
        "model": "small",
        "prompt": "rewrite: a coach =>",
        "max_tokens": 77,
        "temperature": 0.9,
        "top_p": 0.95,
        "seed": 3,
        "stop": ["\n"],
    }
    assert server.headers[0]["Authorization"] == "Bearer secret"
    assert "secret" not in asking(server).identity + asking(server).name


def test_chat_asks_with_messages(server: Server) -> None:
    server.behave = lambda number, body: said("a bus", chat=True)
    assert asking(server, chat=True).write([TextRequest("a", "hello")])[0].text == "a bus"
    assert server.asked[0]["path"] == "/v1/chat/completions"
    assert server.asked[0]["messages"] == [{"role": "user", "content": "hello"}]


def test_429_waits_as_long_as_it_is_asked_to(server: Server, no_long_pauses: list[float]) -> None:
    server.behave = lambda number, body: (429, {"Retry-After": "7"}, b"slow down") if number < 2 else said("late")
    assert asking(server).write([TextRequest("a", "x")])[0].text == "late"
    assert no_long_pauses == [7.0, 7.0]
    server.behave = lambda number, body: (429, {"Retry-After": "Fri, 27 Nov 2026 10:00:00 GMT"}, b"slow down")
    no_long_pauses.clear()
    answer = asking(server).write([TextRequest("a", "x")])[0]
    assert answer.fault == "refused: HTTP 429 'slow down'"
    assert no_long_pauses == [0.5, 1.0], "pauses that double, where a date is given"
    assert not answer.text


def test_a_wrong_request_is_not_tried_again(server: Server) -> None:
    server.behave = lambda number, body: (404, {}, b"no such model")
    assert asking(server).write([TextRequest("a", "x")])[0].fault == "refused: HTTP 404 'no such model'"
    assert len(server.asked) == 1


def test_breaking_off_and_5xx_are_tried_again(server: Server) -> None:
    server.behave = lambda number, body: None if number == 0 else (503, {}, b"") if number == 1 else said("there")
    assert asking(server).write([TextRequest("a", "x")])[0].text == "there"
    assert len(server.asked) == 3


def test_a_timeout_says_so(server: Server) -> None:
    released = threading.Event()

    def slow(number: int, body: Any) -> Any:
        released.wait(5)
        return said("too late")

    server.behave = slow
    answer = asking(server, timeout=0.1, tries=2).write([TextRequest("a", "x")])[0]
    released.set()
    assert answer.fault == "timeout: nothing within 0.1 s"


@pytest.mark.parametrize(
    "begin", [b"HTTP/1.1 200 OK\r\nX-Long: ", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"], ids=["headers", "body"]
)
def test_a_server_that_drips_is_left_after_so_long(begin: bytes) -> None:
    done = threading.Event()

    def drip(listening: socket.socket) -> None:
        line, _ = listening.accept()
        with line, suppress(OSError):
            line.recv(4096)
            line.sendall(begin)
            while not done.wait(0.02):
                line.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        dripping = threading.Thread(target=drip, args=(listening,), daemon=True)
        dripping.start()
        slow = Endpoint(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", "small", timeout=30.0, longest=0.3, tries=1)
        assert slow.write([TextRequest("a", "x")])[0].fault == "timeout: not at its end after 0.3 s"
        done.set()
        dripping.join(5)
    assert not dripping.is_alive()


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"<html>hello</html>", "malformed: no choice"),
        (b'{"choices": []}', "malformed: no choice"),
        (b'{"choices": [{"text": null}]}', "malformed: the text is NoneType"),
        (b'{"choices": [{"text": ["a"]}]}', "malformed: the text is list"),
        (b"[1, 2]", "malformed: no choice"),
        (b"\xff\xfe", "malformed: no choice"),
        (b'{"choices": [{"text": "x"}], "usage": {"prompt_tokens": "many"}}', "malformed: no choice"),
    ],
)
def test_nonsense_is_a_fault_and_no_text(server: Server, body: bytes, fault: str) -> None:
    server.behave = lambda number, asked: (200, {}, body)
    answer = asking(server).write([TextRequest("a", "x")])[0]
    assert answer.fault.startswith(fault)
    assert answer.text == ""
    assert len(server.asked) == 1


def test_what_is_in_the_air_when_a_backend_gives_up_is_kept(tmp_path: Path) -> None:
    """It has been paid for, although the run ends at another call."""
    begun = threading.Event()

    class Breaks(Endpoint):
        def write(self, requests: Sequence[TextRequest]) -> list[Reply]:
            if requests[0].prompt == "bad":
                begun.wait(5)
                raise RunError("gives up")
            begun.set()
            time.sleep(0.3)
            return [Reply("fine")]

    backend, slow = Breaks("http://127.0.0.1:9/v1", "small", Sampling(), calls=2), TextRequest("b", "slow")
    with AnswerCache(tmp_path / "answers.sqlite") as known:
        with pytest.raises(RunError, match="gives up"):
            cached_answers([TextRequest("a", "bad"), slow], backend, known)
        assert [answer.text for answer in known.of([prompt_hash(backend.identity, slow)]).values()] == ["fine"]


def test_a_server_that_dies_stops_the_run_and_what_came_before_is_kept(server: Server, tmp_path: Path) -> None:
    server.behave = lambda number, body: said(f"answer to {body['prompt']}") if number < 20 else (500, {}, b"down")
    requests = [TextRequest(str(n), f"prompt {n}", seed=n) for n in range(200)]
    backend = asking(server, calls=2, tries=2)
    with AnswerCache(tmp_path / "answers.sqlite") as known:
        with pytest.raises(RunError, match=r"does not answer: 8 calls in a row failed, the last with refused: HTTP 500 .* kept"):
            cached_answers(requests, backend, known)
        assert len(known) == 20
        assert len(server.asked) < 80, "the rest is not asked"
        server.behave = lambda number, body: said(f"answer to {body['prompt']}")
        before = len(server.asked)
        answers, looked_up = cached_answers(requests, backend, known)
        assert looked_up == 20
        assert len(server.asked) - before == 180, "nothing is asked twice"
        assert [answer.text for answer in answers] == [f"answer to prompt {n}" for n in range(200)]
        assert cached_answers(requests, backend, known)[1] == 200


def test_equal_requests_are_asked_once_and_faults_are_not_kept(server: Server, tmp_path: Path) -> None:
    server.behave = lambda number, body: (200, {}, b"nonsense") if body["prompt"] == "bad" else said("good")
    requests = [
        TextRequest("a", "same", seed=1),
        TextRequest("b", "same", seed=1),
        TextRequest("c", "same", seed=2),
        TextRequest("d", "bad"),
    ]
    with AnswerCache(tmp_path / "answers.sqlite") as known:
        answers, _ = cached_answers(requests, asking(server), known)
        assert [answer.text for answer in answers] == ["good", "good", "good", ""]
        assert len(server.asked) == 3
        assert len(known) == 2
        assert cached_answers(requests, asking(server, model="other"), known)[1] == 0, "another model answers for itself"


def test_a_dead_port_says_so() -> None:
    dead = Endpoint("http://127.0.0.1:9/v1", "small", tries=2, timeout=1.0)
    assert dead.write([TextRequest("a", "x")])[0].fault.startswith("unreachable: ")


@pytest.mark.parametrize(("address", "model"), [("ftp://x/v1", "m"), ("http:///v1", "m"), ("http://x/v1", "")])
def test_addresses_without_a_host_or_model_are_refused(address: str, model: str) -> None:
    with pytest.raises(ConfigError, match=r"expected http://HOST:PORT/v1#MODEL|does not name a model"):
        Endpoint(address, model)
