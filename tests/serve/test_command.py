"""`diptych serve` as people start it: a process of its own, from its first line to a graceful end."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import torch
from PIL import Image
from warm_programs import Program

import diptych as dp
from diptych.cli import main
from diptych.data.media.transforms import Preprocess
from diptych.data.text.tokenize import Tokenizer
from diptych.models.pairs.dual_encoder import DualEncoder
from diptych.models.pairs.embedder import PairEmbedder
from diptych.models.towers.towers import image_tower, text_tower
from diptych.serve import create_app
from diptych.serve.server import Server, listening_socket

from .conftest import Stub

WORLD = "world:scenes?n=40&val=4&test=4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small models and an index of each."""
    place = tmp_path_factory.mktemp("command")
    for name, seed in (("one", 0), ("two", 1)):
        torch.manual_seed(seed)
        words = Tokenizer.train(["a red circle left of a green square"] * 3, 300)
        text = text_tower("text_tiny", vocab_size=words.vocab_size, eot_id=words.eot_id, length=16)
        model = PairEmbedder(DualEncoder(image_tower("convnet_tiny"), text, width=16), Preprocess(64), words, 16, name)
        model.save(place / name)
        dp.index(place / name, WORLD, place / f"{name}.index", progress=False).close()
    return place


@contextmanager
def served(*words: str, environment: dict[str, str] | None = None) -> Iterator[tuple[Program, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["-m", "diptych.cli", "serve", *words, "--port", str(port)]
    process = Program(*command, environment={**os.environ, **(environment or {})})
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "the service did not start"
            try:
                if httpx.get(f"{address}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield process, address
    finally:
        process.kill()
        process.communicate()


def test_a_graceful_end_answers_what_is_under_way(folder: Path) -> None:
    with served(str(folder / "one"), str(folder / "one.index"), "--data", WORLD) as (process, address):
        with httpx.Client(base_url=address, timeout=60) as http, ThreadPoolExecutor(4) as threads:
            uid = http.get("/search", params={"q": "a red circle", "k": 1}).json()["hits"][0]["uid"]
            body = {"uid": uid, "text": "a red circle", "grid": 14}  # 197 embeddings each: they take a while
            slow = [threads.submit(http.post, "/explain", json=body) for _ in range(2)]  # a third would not fit into the queue
            deadline = time.monotonic() + 30
            while not (waiting := re.search(r"^diptych_queue_inputs (\S+)", http.get("/metrics").text, re.MULTILINE)) or (
                float(waiting[1]) < 197  # one in the model, the other waits
            ):
                assert time.monotonic() < deadline
            process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in slow]
        assert [answer.status_code for answer in answers] == [200] * 2
        assert {answer.json()["rows"] for answer in answers} == {14}
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{address}/healthz", timeout=5)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
    first, *lines = said.splitlines()
    assert first == f"{address}/"
    events = [json.loads(line) for line in lines]
    assert [event["event"] for event in events[:1]] == ["starting"]
    assert [event["event"] for event in events if event["event"] != "request"] == ["starting", "stopping", "stopped"]
    assert {event["status"] for event in events if event["event"] == "request"} == {200}
    assert uid not in said
    assert "red circle" not in said


def test_a_signal_in_the_middle_of_a_log_line_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def reentrant(*_: object, **__: object) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter>")

    monkeypatch.setattr("diptych.serve.logs.event", reentrant)
    server = object.__new__(Server)
    server.service, server.ended_by, server.should_exit = cast(Any, SimpleNamespace(draining=False, waiting=0)), 0, False
    server.handle_exit(signal.SIGTERM, None)
    assert (server.service.draining, server.should_exit, server.ended_by) == (True, True, signal.SIGTERM)


def _is_taken(end: socket.socket, line: socket.socket) -> bool:
    """Whether this is the service's end of a connection that came in on the line."""
    try:
        return end.getsockname() == line.getsockname() and bool(end.getpeername())
    except OSError:
        return False  # the line itself, or closed


def test_answers_on_a_connection_kept_alive_are_not_held_back() -> None:
    """Without TCP_NODELAY each body waits about 40 ms for the acknowledgement of its head."""
    with listening_socket("127.0.0.1", 0) as line, socket.create_connection(line.getsockname()), line.accept()[0] as taken:
        assert taken.proto == socket.IPPROTO_TCP  # what asyncio asks before it sets TCP_NODELAY
    app = create_app(Stub())
    server, line = Server(app), listening_socket("127.0.0.1", 0)
    address = f"http://127.0.0.1:{line.getsockname()[1]}"
    thread = threading.Thread(target=server.run, args=([line],), daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=address, timeout=10) as http:
            http.get("/healthz")
            assert http.get("/healthz").status_code == 200
            ends = [s for s in gc.get_objects() if issubclass(type(s), socket.socket) and s.fileno() >= 0 and _is_taken(s, line)]
            assert ends
            assert all(end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for end in ends)
    finally:
        server.should_exit = True
        thread.join(10)


def test_two_models_on_onnx_behind_a_token(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "token").write_text("s3cret\n")
    words = [str(folder / "one"), str(folder / "one.index"), "--compare", str(folder / "two")]
    words += [
        "--compare-index",
        str(folder / "two.index"),
        "--engine",
        "onnx",
        "--token-file",
        str(tmp_path / "token"),
        "--k",
        "7",
    ]
    with served(*words) as (_, address), httpx.Client(base_url=address) as http:
        assert http.get("/info").status_code == 401
        assert http.get("/info", headers={"Authorization": "Bearer s3cret", "Host": "evil.example"}).status_code == 403
        http.headers["Authorization"] = "Bearer s3cret"
        info = http.get("/info").json()
        assert [model["name"] for model in info["models"]] == ["one", "two"]
        assert info["limits"]["k"] == 7
        for name in ("one", "two"):
            given = http.post("/v1/embeddings", json={"input": "a red circle", "model": name}).json()["data"][0]["embedding"]
            expected = dp.load(folder / name).embed_texts(["a red circle"])[0]
            assert given == pytest.approx(expected.tolist(), abs=1e-5)
            assert len(http.post("/search", json={"text": "a red circle", "k": 7, "model": name}).json()["hits"]) == 7


def test_the_token_may_come_from_the_environment(folder: Path) -> None:
    with served(str(folder / "one"), environment={"DIPTYCH_TOKEN": "s3cret"}) as (process, address):
        assert httpx.get(f"{address}/info").status_code == 401
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--compare-index", "x"], "give that model with --compare MODEL"),
        (["--token-file", "/nowhere"], "/nowhere does not exist"),
        (["--queue", "0"], "Limits.queue is 0"),
        (["--detector", "MODEL"], "does not detect"),
        (["--port", "99999"], "port is 99999"),
    ],
)
def test_what_cannot_work_is_said_at_once(folder: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder / "one") if word == "MODEL" else word for word in words]
    assert main(["serve", str(folder / "one"), *words]) == 2
    assert says in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(folder / "one"), "--port", str(port)]) == 1
    assert f"127.0.0.1:{port} cannot be used: address already in use" in capsys.readouterr().err


def test_a_host_that_others_reach_is_warned_about(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder / "one"), "--host", "0.0.0.0", "--port", "99999"]) == 2
    assert "needs no token" in capsys.readouterr().err


def test_the_port_and_the_data_are_checked_before_a_model_is_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("diptych.api.load", load)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(folder / "one"), "--port", str(port)]) == 1
    assert "--port 0 chooses a free port" in capsys.readouterr().err
    assert main(["serve", str(folder / "one"), "--port", "0", "--data", str(folder / "nowhere.csv")]) == 1
    assert "nowhere.csv" in capsys.readouterr().err


def test_other_data_than_those_of_the_index_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "other.png")
    words = ["serve", str(folder / "one"), str(folder / "one.index"), "--port", "0"]
    assert main([*words, "--data", str(tmp_path)]) == 2
    assert "the data hold none of the" in capsys.readouterr().err
