"""The service through a real socket: shapes of answers, limits, refusals, threads, and a page that runs nothing but its own."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import uvicorn
from PIL import Image

from diptych.core.errors import ConfigError, DecodeError, MissingExtra
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.decode import decode
from diptych.index.exact import ExactIndex
from diptych.serve import Limits, create_app
from diptych.serve import app as app_module

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class Stub:
    """Mean colour of an image, colour word of a text. Notices when two threads are inside."""

    name, fingerprint = "stub/colours", "f00d"

    def __init__(self) -> None:
        self.inside = 0
        self.collisions = 0
        self.slow = 0.0

    def _enter(self) -> None:
        self.inside += 1
        self.collisions += self.inside > 1
        time.sleep(self.slow)
        self.inside -= 1

    def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
        self._enter()
        mean = np.stack([decode(image).reshape(-1, 3).mean(0) for image in images]).astype(np.float32) + 1
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
        self._enter()
        if "explode" in texts:
            raise RuntimeError("secret path /home/somebody")
        colour = np.array([COLOURS.get(text, (128, 128, 128)) for text in texts], np.float32) + 1
        return colour / np.linalg.norm(colour, axis=1, keepdims=True)


class StubIndex(ExactIndex):
    def __len__(self) -> int:
        return len(self.uids)

    def search_text(self, text, k=10, *, where=None):
        return self.search_vectors(Stub().embed_texts([text]), k, where=where)[0]

    def search_image(self, image, k=10, *, where=None):
        return self.search_vectors(Stub().embed_images([image]), k, where=where)[0]


def flat(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((20, 30, 3), colour, np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def a_pool() -> Pool:
    samples = [Sample(f"{name}-1", ArrayImage(flat(rgb)), (Text(name),)) for name, rgb in COLOURS.items()]
    samples.append(Sample("rotten", BytesImage(b"nothing", "rotten.png")))
    return Pool.from_samples(samples, name="colours")


def listening(app) -> Iterator[str]:
    """Run an application on a free port of this machine, in a thread."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def model() -> Stub:
    return Stub()


@pytest.fixture(scope="module")
def client(model: Stub) -> Iterator[httpx.Client]:
    pool = a_pool()
    vectors = model.embed_images([pool[row].image for row in range(3)])
    payloads = [{"text": name, "style": "warm" if name == "red" else "cold"} for name in COLOURS]
    index = StubIndex(vectors, list(pool.uids)[:3], payloads)
    limits = Limits(body_bytes=200_000, image_pixels=10_000, inputs=4, text_characters=50, k=20)
    for address in listening(create_app(model, index, pool=pool, limits=limits)):
        with httpx.Client(base_url=address, timeout=20) as http:
            yield http


def refusal(answer: httpx.Response) -> str:
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]["code"] == answer.status_code
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    return message


def test_health(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {
        "status": "ok",
        "model": "stub/colours",
        "fingerprint": "f00d",
        "index": {"count": 3},
        "images": True,
    }


def test_embeddings_of_texts_in_the_openai_shape(client: httpx.Client, model: Stub) -> None:
    answer = client.post("/v1/embeddings", json={"model": "stub/colours", "input": ["red", "blue"], "user": "me"}).json()
    assert answer["object"] == "list"
    assert answer["model"] == "stub/colours"
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    assert {entry["object"] for entry in answer["data"]} == {"embedding"}
    np.testing.assert_array_equal(np.float32([e["embedding"] for e in answer["data"]]), model.embed_texts(["red", "blue"]))
    assert {"prompt_tokens", "total_tokens"} <= set(answer["usage"])
    single = client.post("/v1/embeddings", json={"input": "red"}).json()
    assert single["data"] == answer["data"][:1]


def test_embeddings_as_base64_are_the_same_numbers(client: httpx.Client, model: Stub) -> None:
    answer = client.post("/v1/embeddings", json={"input": "green", "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(vector, model.embed_texts(["green"])[0])


def test_images_and_texts_mixed_keep_their_order(client: httpx.Client, model: Stub) -> None:
    picture = png(flat((0, 0, 255)))
    inputs = [{"image": b64(picture)}, "red", {"image": "data:image/png;base64," + b64(picture)}]
    data = client.post("/v1/embeddings", json={"input": inputs}).json()["data"]
    blue = model.embed_images([BytesImage(picture)])[0]
    np.testing.assert_array_equal(np.float32(data[0]["embedding"]), blue)
    np.testing.assert_array_equal(np.float32(data[2]["embedding"]), blue)
    np.testing.assert_array_equal(np.float32(data[1]["embedding"]), model.embed_texts(["red"])[0])


def test_search_by_text_get_and_post_agree(client: httpx.Client) -> None:
    got = client.get("/search", params={"q": "red", "k": 2}).json()
    assert got["hits"][0]["uid"] == "red-1"
    assert len(got["hits"]) == 2
    assert got["hits"][0]["payload"] == {"text": "red", "style": "warm"}
    assert got["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert client.post("/search", json={"text": "red", "k": 2}).json() == got


def test_search_by_image_by_item_and_by_both(client: httpx.Client) -> None:
    picture = b64(png(flat((250, 3, 3))))
    assert client.post("/search", json={"image": picture}).json()["hits"][0]["uid"] == "red-1"
    assert client.post("/search", json={"like": "green-1"}).json()["hits"][0]["uid"] == "green-1"
    assert client.post("/search", json={"image": picture, "text": "blue"}).json()["hits"][0]["uid"] == "blue-1"
    away = client.post("/search", json={"image": picture, "text": "blue", "weight": -1}).json()["hits"]
    assert away[-1]["uid"] == "blue-1"


def test_conditions(client: httpx.Client) -> None:
    answer = client.get("/search", params={"q": "red", "where": '{"style": "cold"}'}).json()
    assert {hit["payload"]["style"] for hit in answer["hits"]} == {"cold"}
    assert len(client.post("/search", json={"text": "red", "where": {"style": ["cold", "warm"]}}).json()["hits"]) == 3
    wrong = client.post("/search", json={"text": "red", "where": {"stile": "cold"}})
    assert wrong.status_code == 400
    assert "style" in refusal(wrong)


BIG = b64(png(np.zeros((200, 100, 3), np.uint8)))


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/v1/embeddings", {"input": []}, 422, "input has 0 entries (expected 1..4)"),
        ("/v1/embeddings", {"input": ["a"] * 5}, 422, "input has 5 entries (expected 1..4)"),
        ("/v1/embeddings", {"input": ""}, 422, "input is empty"),
        ("/v1/embeddings", {"input": ["a", "x" * 51]}, 413, "input[1] has 51 characters (expected at most 50)"),
        ("/v1/embeddings", {"input": {"image": "%%%"}}, 400, "input is not base64"),
        ("/v1/embeddings", {"input": [{"image": ""}]}, 400, "input[0] is empty"),
        ("/v1/embeddings", {"input": [{"image": b64(b"hello")}]}, 400, "input[0] is not an image"),
        ("/v1/embeddings", {"input": {"image": "https://example.org/a.png"}}, 400, "fetches nothing"),
        ("/v1/embeddings", {"input": {"image": "data:image/png,abc"}}, 400, "without base64"),
        ("/v1/embeddings", {"input": {"image": BIG}}, 413, "100 x 200 pixels (expected at most 10,000"),
        ("/v1/embeddings", {"input": {"image": b64(png(flat((1, 2, 3)))[:70])}}, 400, "input"),
        ("/v1/embeddings", {"input": "a", "model": "other"}, 404, "unknown model 'other'; this service has 'stub/colours'"),
        ("/v1/embeddings", {}, 422, "input: field required"),
        ("/v1/embeddings", {"input": [[1, 2, 3]]}, 422, "input"),
        ("/search", {}, 422, "nothing to search for"),
        ("/search", {"text": "red", "k": 21}, 422, "k is 21 (expected 1..20)"),
        ("/search", {"text": "red", "k": 0}, 422, "k: input should be greater than or equal to 1"),
        ("/search", {"text": "  "}, 422, "text is empty"),
        ("/search", {"txt": "red"}, 422, "txt"),
        ("/search", {"image": "????"}, 400, "image is not base64"),
        ("/search", {"like": "nobody"}, 404, "no item has the uid 'nobody'"),
        ("/search", {"image": BIG, "like": "red-1"}, 422, "two pictures"),
    ],
)
def test_refusals_say_what_would_work(client: httpx.Client, path: str, body: dict, status: int, says: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert says in refusal(answer)


def test_other_refusals(client: httpx.Client) -> None:
    broken = client.post("/search", content=b"{nope", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400
    assert "not JSON" in refusal(broken)
    assert client.get("/nowhere").status_code == 404
    assert "/nowhere" in refusal(client.get("/nowhere"))
    assert client.get("/v1/embeddings").status_code == 405
    assert client.get("/search").status_code == 422
    assert "q: field required" in refusal(client.get("/search"))
    assert "JSON object" in refusal(client.get("/search", params={"q": "a", "where": "[1]"}))


def test_bodies_that_are_too_large_are_refused_with_and_without_a_declared_length(client: httpx.Client) -> None:
    large = b'{"text": "' + b"x" * 300_000 + b'"}'
    declared = client.post("/search", content=large)
    assert declared.status_code == 413
    assert "200,000 bytes" in refusal(declared)
    streamed = client.post("/search", content=(large[i : i + 4096] for i in range(0, len(large), 4096)))
    assert streamed.status_code == 413
    assert client.get("/healthz").status_code == 200


def test_a_failure_inside_tells_nothing_private(client: httpx.Client) -> None:
    answer = client.get("/search", params={"q": "explode"})
    assert answer.status_code == 500
    assert refusal(answer) == "RuntimeError inside the service; its log says more"
    assert client.get("/search", params={"q": "red"}).status_code == 200


def test_thumbnails(client: httpx.Client) -> None:
    answer = client.get("/image/red-1", params={"side": 16})
    assert answer.headers["content-type"] == "image/webp"
    picture = Image.open(io.BytesIO(answer.content))
    assert max(picture.size) == 16
    assert np.abs(np.asarray(picture.convert("RGB"))[5, 5].astype(int) - (255, 0, 0)).max() < 20
    for uid in ("nobody", "rotten", "..%2F..%2Fetc%2Fpasswd"):
        assert client.get(f"/image/{uid}").status_code == 404
    assert client.get("/image/red-1", params={"side": 100_000}).status_code == 422


def test_one_request_at_a_time_enters_the_model(client: httpx.Client, model: Stub) -> None:
    model.slow = 0.02
    try:
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda q: client.get("/search", params={"q": q, "k": 1}), ["red", "green", "blue"] * 8))
    finally:
        model.slow = 0.0
    assert [answer.json()["hits"][0]["uid"] for answer in answers] == ["red-1", "green-1", "blue-1"] * 8
    before = model.collisions
    with ThreadPoolExecutor(8) as threads:
        model.slow = 0.02
        list(threads.map(lambda _: client.post("/v1/embeddings", json={"input": "red"}), range(16)))
        model.slow = 0.0
    assert model.collisions == before == 0


def test_page_is_self_contained_and_its_policy_allows_its_own_parts_only(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    text = answer.text
    assert "stub/colours" in text
    assert "{{" not in text
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "innerHTML" not in text
    assert 'name="viewport"' in text
    policy = answer.headers["content-security-policy"]
    assert "unsafe-inline" not in policy
    for tag in ("script", "style"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        assert base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() in policy
        assert not re.search(r"\son[a-z]+=", re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL))


def test_a_hostile_model_name_is_escaped_on_the_page() -> None:
    model = Stub()
    model.name = '"><script>alert(1)</script>'
    for address in listening(create_app(model)):
        text = httpx.get(address).text
        assert "<script>alert" not in text
        assert "&lt;script&gt;alert" in text


def test_without_an_index_or_pool_it_still_embeds() -> None:
    for address in listening(create_app(Stub())):
        with httpx.Client(base_url=address) as http:
            health = http.get("/healthz").json()
            assert health["index"] is None
            assert health["images"] is False
            search = http.get("/search", params={"q": "red"})
            assert search.status_code == 404
            assert "no index" in refusal(search)
            assert http.get("/image/red-1").status_code == 404
            assert http.post("/v1/embeddings", json={"input": "red"}).status_code == 200


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"diptych\[serve\]"):
        create_app(Stub())
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="port is 99999"):
        app_module.run(Stub(), port=99999)


def test_decode_errors_of_a_model_are_the_sender_s_fault() -> None:
    class Picky(Stub):
        def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
            raise DecodeError("the scan ends early", file=images[0].name)

    for address in listening(create_app(Picky())):
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": [{"image": b64(png(flat((1, 1, 1))))}]})
        assert answer.status_code == 400
        assert refusal(answer) == "input[0]: the scan ends early"
