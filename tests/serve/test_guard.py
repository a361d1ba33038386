"""What keeps others out: token, host names, rate, open requests, sizes, times; and what is counted and written down."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.serve import Limits, create_app
from diptych.serve.admission.rate import RateLimiter
from diptych.serve.batching import Batcher, EmbeddingJob
from diptych.serve.logs import JsonLines

from .conftest import Running, Stub, b64, encoded, flat, listening, refusal, running

# ---------------------------------------------------------------- sizes and times


def test_bodies_that_are_too_large_are_refused_with_and_without_a_declared_length(service: Running) -> None:
    large = b'{"text": "' + b"x" * 300_000 + b'"}'
    declared = service.http.post("/search", content=large)
    assert declared.status_code == 413
    assert "200,000 bytes" in refusal(declared)
    streamed = service.http.post("/search", content=(large[i : i + 4096] for i in range(0, len(large), 4096)))
    assert streamed.status_code == 413
    assert service.http.get("/healthz").status_code == 200


def test_a_body_that_never_ends_is_given_up() -> None:
    with listening(create_app(Stub(), limits=Limits(body_seconds=0.3))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{")
            begun = time.monotonic()
            answer = line.recv(65536).decode()
        assert answer.startswith("HTTP/1.1 408")
        assert 0.2 < time.monotonic() - begun < 5
        assert httpx.get(f"{address}/healthz").status_code == 200


def test_bodies_share_one_memory() -> None:
    limits = Limits(body_bytes=100_000, queue_bytes=150_000)
    with listening(create_app(Stub(), limits=limits)) as address:
        host, port = address.removeprefix("http://").split(":")
        head = b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\nContent-Type: application/json\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(head + b"x" * 80_000)
            time.sleep(0.2)
            full = httpx.post(f"{address}/search", content=b"x" * 90_000)
            assert full.status_code == 429
            assert "large requests" in refusal(full)
            assert full.headers["retry-after"] == "1"
        time.sleep(0.2)
        assert httpx.post(f"{address}/search", content=b"x" * 90_000).status_code in (400, 422)


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    model = Stub()
    model.slow = 1.0
    with listening(create_app(model, limits=Limits(seconds=0.2))) as address:
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": "red"})
        assert answer.status_code == 503
        assert "within 0.2 seconds" in refusal(answer)
        assert int(answer.headers["retry-after"]) >= 1


def test_limits_must_be_limits() -> None:
    with pytest.raises(ConfigError, match=r"Limits.k is 0"):
        Limits(k=0)


# ---------------------------------------------------------------- too much at once


def test_a_full_queue_is_429_with_a_time_to_try_again() -> None:
    model = Stub()
    model.slow = 0.2
    limits = Limits(queue=3, batch=1)
    with listening(create_app(model, limits=limits)) as address, httpx.Client(base_url=address, timeout=20) as http:
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda i: http.post("/v1/embeddings", json={"input": f"text {i}"}), range(12)))
        status = [answer.status_code for answer in answers]
        assert set(status) == {200, 429}
        assert status.count(200) >= 4  # one in the model, three in the queue
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1
        assert http.post("/v1/embeddings", json={"input": "again"}).status_code == 200
        text = http.get("/metrics").text
        assert f'diptych_refused_total{{reason="queue"}} {float(status.count(429))}' in text


def test_open_requests_are_limited() -> None:
    model = Stub()
    model.slow = 0.5
    with listening(create_app(model, limits=Limits(requests=2))) as address, httpx.Client(base_url=address) as http:
        with ThreadPoolExecutor(6) as threads:
            answers = list(threads.map(lambda i: http.post("/v1/embeddings", json={"input": "a"}), range(6)))
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429, 429]
        assert http.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_a_client_may_not_come_too_often(tmp_path: Path) -> None:
    with running(tmp_path, limits=Limits(rate=0.5, burst=3)) as service:
        status = [service.http.get("/search", params={"q": "red"}).status_code for _ in range(5)]
        assert status == [200, 200, 200, 429, 429]
        refused = service.http.get("/search", params={"q": "red"})
        assert refused.headers["retry-after"] == "2"
        assert "0.5 requests per second" in refusal(refused)
        assert {service.http.get(path).status_code for path in ("/healthz", "/", "/info", "/image/red-1", "/metrics")} == {200}


def test_the_rate_is_a_bucket_for_each_client() -> None:
    now = [0.0]
    rate = RateLimiter(2.0, 4, now=lambda: now[0])
    assert [rate.wait("a") for _ in range(4)] == [0.0] * 4
    assert rate.wait("a") == pytest.approx(0.5)
    assert rate.wait("b") == 0.0
    now[0] = 0.5
    assert rate.wait("a") == 0.0
    assert rate.wait("a") > 0
    now[0] = 1000.0
    assert [rate.wait("a") for _ in range(4)] == [0.0] * 4  # never more than the burst
    assert rate.wait("a") > 0
    assert [RateLimiter(0, 1).wait("a") for _ in range(9)] == [0.0] * 9
    for number in range(30_000):
        rate.wait(f"client {number}")
    assert len(rate._buckets) <= 10_000


# ---------------------------------------------------------------- who


def test_the_token_is_asked_for_everywhere_but_where_nothing_is_told(tmp_path: Path) -> None:
    with running(tmp_path, token="s3cret-äöü") as service:
        http = service.http
        for path in ("/", "/healthz", "/readyz"):
            assert http.get(path).status_code == 200
        for path in (
            "/info",
            "/metrics",
            "/search?q=red",
            "/image/red-1",
            "/items/red-1",
            "/openapi.json",
            "/v1/models",
            "/nowhere",
        ):
            answer = http.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert refusal(answer) == "a bearer token is needed"
        right = {"Authorization": "Bearer s3cret-äöü".encode()}
        assert http.get("/search?q=red", headers=right).status_code == 200
        assert http.get("/image/red-1", headers={"Authorization": "bearer s3cret-äöü".encode()}).status_code == 200
        for wrong in ("Bearer s3cret", "Bearer", "Basic s3cret-äöü", "Bearer s3cret-äöüx", ""):
            assert http.get("/search?q=red", headers={"Authorization": wrong.encode()}).status_code == 401


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import hmac

    seen: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr("diptych.serve.admission.access.hmac.compare_digest", lambda a, b: seen.append((a, b)) or real(a, b))
    with running(tmp_path, token="right") as service:
        service.http.get("/info", headers={"Authorization": "Bearer wrong"})
        service.http.get("/info", headers={"Authorization": "Basic right"})
    assert seen == [(b"wrong", b"right"), (b"right", b"right")]


def test_only_known_host_names(tmp_path: Path) -> None:
    with running(tmp_path, hosts=("localhost", "127.0.0.1", "::1")) as service:
        assert service.http.get("/healthz").status_code == 200
        for name, status in (
            ("localhost:8000", 200),
            ("[::1]:8000", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("", 403),
        ):
            assert service.http.get("/search?q=red", headers={"Host": name}).status_code == status, name


def test_pages_of_others_may_read_answers_only_when_they_are_named(tmp_path: Path) -> None:
    origin = {"Origin": "https://a.example"}
    asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    with running(tmp_path / "closed") as service:
        assert "access-control-allow-origin" not in service.http.get("/search?q=red", headers=origin).headers
        assert service.http.options("/search", headers=asked).status_code == 405
    with running(tmp_path / "open", cors=("https://a.example",), token="t") as service:
        before = service.http.options("/search", headers=asked)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://a.example"
        refused = service.http.post("/search", headers=origin, json={"text": "red"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"  # so that the page can read why
        other = service.http.get("/search?q=red", headers={"Origin": "https://b.example", "Authorization": "Bearer t"})
        assert "access-control-allow-origin" not in other.headers


def test_a_page_elsewhere_cannot_send_without_asking_first(service: Running) -> None:
    simple = service.http.post("/search", content=b'{"text": "red"}', headers={"Content-Type": "text/plain"})
    assert simple.status_code == 422


# ---------------------------------------------------------------- one thread, many requests


def test_requests_are_batched_and_one_at_a_time_is_in_the_model(service: Running) -> None:
    model, http = service.model, service.http
    model.slow = 0.03
    model.batches.clear()
    try:
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(lambda q: http.get("/search", params={"q": q, "k": 1}), ["red", "green", "blue"] * 12))
    finally:
        model.slow = 0.0
    assert [answer.json()["hits"][0]["uid"] for answer in answers] == ["red-1", "green-1", "blue-1"] * 12
    assert model.collisions == 0
    assert len(model.batches) < 36
    assert max(model.batches) > 1


# ---------------------------------------------------------------- counted and written down


def test_metrics_count_routes_and_never_what_was_asked(service: Running) -> None:
    service.http.get("/search", params={"q": "red"})
    service.http.get("/items/red-1")
    service.http.get("/secret-place")
    text = service.http.get("/metrics").text
    assert 'diptych_requests_total{method="GET",route="/search",status="200"}' in text
    assert 'route="/items/{uid:path}"' in text
    assert "diptych_batch_inputs_bucket" in text
    assert "diptych_queue_inputs 0.0" in text
    assert "process_resident_memory_bytes" in text
    assert "secret-place" not in text
    assert "red-1" not in text


def test_logs_are_json_lines_without_what_clients_sent(service: Running, caplog: pytest.LogCaptureFixture) -> None:
    service.model.slow = 0.0
    with caplog.at_level(logging.INFO, logger="diptych.serve"):
        ok = service.http.get("/search", params={"q": "red"})
        service.http.get("/search", params={"q": "explode"})
        service.http.get("/items/nobody-private")
        service.http.post("/search", json={"image": b64(encoded(flat((7, 7, 7)))), "where": {"private": 1}})
        service.http.get("/healthz")
    lines = [json.loads(JsonLines().format(record)) for record in caplog.records if record.name == "diptych.serve"]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["status"] for line in requests] == [200, 500, 404, 400]
    assert requests[0].keys() == {"time", "level", "event", "request", "route", "method", "status", "ms"}
    assert requests[0]["request"] == ok.headers["x-request-id"]
    assert requests[2]["route"] == "/items/{uid:path}"
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert failed["error"] == "RuntimeError"
    assert any("embed_texts" in place for place in failed["at"])
    everything = json.dumps(lines)
    for private in ("explode", "nobody", "private", "secret", "somebody", "127.0.0.1"):
        assert private not in everything


def test_a_client_that_leaves_early_costs_nothing_more(service: Running) -> None:
    host, port = service.address.removeprefix("http://").split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port)), timeout=10) as line:
            line.sendall(b"POST /search HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    for _ in range(50):
        if threading.active_count() < 40:
            break
        time.sleep(0.02)
    assert service.http.get("/search", params={"q": "red"}).status_code == 200


def test_a_job_that_nobody_waits_for_holds_no_pictures() -> None:
    started, go = threading.Event(), threading.Event()
    batcher = Batcher(queue=10, batch=1)

    def block(texts: object, images: object) -> None:
        started.set()
        go.wait(10)

    batcher.submit(EmbeddingJob(None, block))
    assert started.wait(10)
    image = ArrayImage(flat((1, 2, 3)))
    pixels = weakref.ref(image.pixels_HWC)
    waiting = batcher.submit(EmbeddingJob(None, lambda texts, images, kept=image: kept, images=[image], inside=2))
    assert batcher.waiting == 3
    del image
    assert waiting.cancel()
    assert pixels() is None
    assert batcher.waiting == 3  # its place is given back when its turn comes
    go.set()
    batcher.close()
    assert batcher.waiting == 0
