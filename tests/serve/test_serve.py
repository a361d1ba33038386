"""The routes through a real socket: shapes of answers, refusals that say what would work, and nothing private."""

from __future__ import annotations

import base64
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from diptych.core.errors import ConfigError, DecodeError, MissingExtra
from diptych.core.image import BytesImage
from diptych.index.kinds.dense import DenseIndex
from diptych.index.kinds.hybrid import HybridIndex
from diptych.index.kinds.lexical import LexicalIndex
from diptych.index.lexicon import BM25Encoder
from diptych.serve import app as app_module
from diptych.serve import create_app, run

from .conftest import Finder, Running, Stub, a_pool, b64, encoded, flat, listening, refusal


@pytest.fixture(scope="module")
def client(service: Running) -> httpx.Client:
    return service.http


@pytest.fixture(scope="module")
def model(service: Running) -> Stub:
    return service.model


# ---------------------------------------------------------------- state


def test_health_says_nothing_about_the_data_and_info_everything(client: httpx.Client) -> None:
    health = client.get("/healthz").json()
    assert health.keys() == {"status", "version"}
    assert client.get("/readyz").json()["status"] == "ready"
    info = client.get("/info").json()
    assert info["data"] is True
    assert info["detector"] == "stub/halves"
    assert info["objects"] == ["thing", "other"]
    assert info["limits"]["k"] == 20
    (model,) = info["models"]
    assert (model["name"], model["fingerprint"], model["index"], model["count"]) == ("stub/colours", "f00d", "dense", 3)
    assert model["aligns"] == "occlusion"
    assert model["columns"]["style"] == {"kind": "text", "values": ["cold", "warm"], "counts": [2, 1]}
    assert model["columns"]["score"] == {"kind": "number", "min": 0.0, "max": 0.5}
    assert model["columns"]["licence"]["values"] == ["CC0-1.0", "MIT"]
    assert "uid" not in model["columns"]
    assert client.get("/v1/models").json()["data"][0]["id"] == "stub/colours"


# ---------------------------------------------------------------- embeddings


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
    picture = encoded(flat((0, 0, 255)))
    inputs = [{"image": b64(picture)}, "red", {"image": "data:image/png;base64," + b64(picture)}]
    data = client.post("/v1/embeddings", json={"input": inputs}).json()["data"]
    blue = model.embed_images([BytesImage(picture)])[0]
    np.testing.assert_array_equal(np.float32(data[0]["embedding"]), blue)
    np.testing.assert_array_equal(np.float32(data[2]["embedding"]), blue)
    np.testing.assert_array_equal(np.float32(data[1]["embedding"]), model.embed_texts(["red"])[0])


def test_dimensions_are_prefixes_where_the_model_has_them() -> None:
    class Nested(Stub):
        dims = (2,)

    with listening(create_app(Nested())) as address:
        whole = httpx.post(f"{address}/v1/embeddings", json={"input": "orange"}).json()["data"][0]["embedding"]
        short = httpx.post(f"{address}/v1/embeddings", json={"input": "orange", "dimensions": 2}).json()["data"][0]["embedding"]
        np.testing.assert_allclose(short, np.array(whole[:2]) / np.linalg.norm(whole[:2]), atol=1e-6)
        wrong = httpx.post(f"{address}/v1/embeddings", json={"input": "orange", "dimensions": 1})
        assert wrong.status_code == 422
        assert "2 or 3" in refusal(wrong)


# ---------------------------------------------------------------- search


def uids(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [hit["uid"] for hit in answer.json()["hits"]]


def test_search_by_text_get_and_post_agree(client: httpx.Client) -> None:
    got = client.get("/search", params={"q": "red", "k": 2}).json()
    assert got["hits"][0]["uid"] == "red-1"
    assert len(got["hits"]) == 2
    assert got["hits"][0]["payload"]["caption"] == "red"
    assert got["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    assert client.post("/search", json={"text": "red", "k": 2}).json() == got
    exact = client.post("/search", json={"text": "red", "k": 2, "mode": "exact"}).json()["hits"]
    assert [hit["uid"] for hit in exact] == [hit["uid"] for hit in got["hits"]]


def test_search_by_image_by_item_and_by_both(client: httpx.Client) -> None:
    picture = b64(encoded(flat((250, 3, 3))))
    assert uids(client.post("/search", json={"image": picture}))[0] == "red-1"
    assert set(uids(client.post("/search", json={"like": "green-1"}))) == {"red-1", "blue-1"}  # without itself
    assert uids(client.post("/search", json={"image": picture, "text": "blue"}))[0] == "blue-1"
    assert uids(client.post("/search", json={"image": picture, "text": "blue", "weight": -1}))[-1] == "blue-1"


def test_good_and_bad_examples(client: httpx.Client) -> None:
    found = uids(client.post("/search", json={"text": "red green blue", "unlike": ["red-1"], "against": 1}))
    assert set(found) == {"green-1", "blue-1"}
    assert uids(client.post("/search", json={"text": "orange", "like": ["blue-1"], "weight": 0.01}))[0] == "red-1"


def test_near_copies_and_low_scores_are_left_out(client: httpx.Client) -> None:
    assert len(uids(client.post("/search", json={"text": "red"}))) == 3
    assert uids(client.post("/search", json={"text": "red", "min_score": 0.5})) == ["red-1"]
    assert uids(client.post("/search", json={"text": "red", "distinct": -1})) == ["red-1"]
    assert uids(client.get("/search", params={"q": "red", "distinct": -1})) == ["red-1"]


def test_conditions(client: httpx.Client) -> None:
    answer = client.get("/search", params={"q": "red", "where": '{"style": "cold"}'}).json()
    assert {hit["payload"]["style"] for hit in answer["hits"]} == {"cold"}
    assert len(uids(client.post("/search", json={"text": "red", "where": {"style": ["cold", "warm"]}}))) == 3
    assert uids(client.post("/search", json={"text": "red", "where": {"score": {">=": 0.4}}})) == ["blue-1"]
    wrong = client.post("/search", json={"text": "red", "where": {"stile": "cold"}})
    assert wrong.status_code == 400
    assert "style" in refusal(wrong)


def test_modes_of_a_hybrid_index_and_an_index_of_words(tmp_path: Path) -> None:
    pool, model = a_pool(), Stub()
    hybrid = HybridIndex.build(model, pool, tmp_path / "hybrid", progress=False)
    words = LexicalIndex.build(BM25Encoder(), pool, tmp_path / "words", progress=False)
    app = create_app(model, hybrid, pool=pool, compare=[(BM25Encoder(), words)])
    with hybrid, words, listening(app) as address, httpx.Client(base_url=address) as http:
        kinds = {m["name"]: (m["modes"], m["combines"]) for m in http.get("/info").json()["models"]}
        assert kinds == {"stub/colours": (["dense", "lexical"], True), "words": ([], False)}
        assert uids(http.post("/search", json={"text": "orange", "mode": "dense"}))[0] == "red-1"
        assert uids(http.post("/search", json={"text": "orange", "mode": "lexical"})) == []
        asked = {text: http.get("/search", params={"q": text}).json()["suggestion"] for text in ("green", "gren", "orange")}
        assert asked == {"green": "", "gren": "green", "orange": ""}
        assert uids(http.post("/search", json={"text": "green", "mode": "lexical"})) == ["green-1"]
        assert uids(http.post("/search", json={"text": "green"}))[0] == "green-1"
        assert uids(http.post("/search", json={"text": "blue", "model": "words"})) == ["blue-1"]
        two = http.post("/search", json={"text": "a", "like": "red-1", "model": "words"})
        assert two.status_code == 400
        assert "cannot add and subtract" in refusal(two)
        assert "has dense or lexical" in refusal(http.post("/search", json={"text": "a", "mode": "exact"}))
        assert http.post("/v1/embeddings", json={"input": "a", "model": "words"}).status_code == 422


# ---------------------------------------------------------------- pictures


def test_classify_puts_the_right_name_first(client: httpx.Client) -> None:
    pictures = [b64(encoded(flat(colour))) for colour in ((0, 0, 255), (255, 0, 0))]
    answer = client.post("/classify", json={"image": pictures, "labels": ["red", "green", "blue"], "k": 2}).json()["answers"]
    assert [row["classes"][0]["name"] for row in answer] == ["blue", "red"]
    assert [len(row["classes"]) for row in answer] == [2, 2]
    assert answer[0]["classes"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    several = client.post("/classify", json={"image": pictures[0], "labels": ["red", "blue"], "templates": ["a {}", "the {}"]})
    assert several.json()["answers"][0]["classes"][0]["name"] == "blue"


def test_detect_draws_what_it_found(client: httpx.Client) -> None:
    body = {"image": b64(encoded(flat((9, 9, 9), (40, 60)))), "objects": ["dog", "ball"], "relations": ["chasing"]}
    graph = client.post("/detect", json=body).json()
    assert [(r["label"], r["box"]) for r in graph["regions"]] == [("dog", [0, 0, 30, 40]), ("ball", [30, 0, 60, 40])]
    assert graph["relations"] == [{"subject": 0, "predicate": "chasing", "object": 1, "score": 0.8}]
    kinds = [shape["kind"] for shape in graph["drawings"]["picture"]["shapes"]]
    assert kinds.count("outline") == 2
    assert kinds.count("arrow") == 1
    words = {line["text"] for s in graph["drawings"]["graph"]["shapes"] if s["kind"] == "label" for line in s["lines"]}
    assert words == {"dog", "ball", "chasing"}
    own = client.post("/detect", json={"uid": "blue-1"}).json()
    assert [r["label"] for r in own["regions"]] == ["thing", "other"]
    assert client.post("/detect", json={"uid": "blue-1", "min_score": 0.95}).json()["regions"] == []


def test_locate_finds_the_place_of_a_text_in_a_large_picture(client: httpx.Client) -> None:
    pixels = flat((0, 0, 255), (80, 120))
    pixels[50:65, 90:105] = (255, 0, 0)
    answer = client.post("/locate", json={"image": b64(encoded(pixels)), "text": "red"}).json()
    assert (answer["rows"], answer["columns"]) == (64, 96)
    best = answer["hits"][0]
    assert abs(best["x"] - 97.5 / 120) < 0.1
    assert abs(best["y"] - 57.5 / 80) < 0.1
    x0, y0, x1, y1 = best["box"]
    assert x0 <= best["x"] <= x1
    assert y0 <= best["y"] <= y1
    value = np.array(answer["values"])
    assert value[40:52, 72:84].mean() > 2 * value.mean()
    assert answer["windows"] > 100
    assert client.post("/locate", json={"image": b64(encoded(pixels)), "text": ""}).status_code == 422
    assert client.post("/locate", json={"text": "red"}).status_code == 422
    assert client.post("/locate", json={"uid": "red-1", "text": "red"}).json()["rows"] > 0


def test_explain_finds_the_half_that_a_word_goes_with(client: httpx.Client) -> None:
    pixels = np.concatenate([flat((255, 0, 0), (40, 40)), flat((0, 0, 255), (40, 40))], axis=1)
    answer = client.post("/explain", json={"image": b64(encoded(pixels)), "text": "red blue", "grid": 4}).json()
    assert (answer["method"], answer["rows"], answer["columns"]) == ("occlusion", 4, 4)
    assert answer["words"] == ["red blue", "red", "blue"]
    red, blue = (np.array(grid) for grid in answer["weights"][1:])
    assert red[:, :2].min() > red[:, 2:].max()
    assert blue[:, 2:].min() > blue[:, :2].max()
    assert client.post("/explain", json={"uid": "red-1", "text": "red"}).json()["words"] == ["red"]


# ---------------------------------------------------------------- items


def test_an_item_with_its_provenance_and_its_graph(client: httpx.Client) -> None:
    item = client.get("/items/red-1").json()
    assert item["texts"][0] == {"text": "red", "language": "en", "origin": "caption"}
    assert (item["licence"], item["source"], item["group"]) == ("MIT", "tests", "red")
    assert item["columns"] == {"style": "warm", "score": 0.0, "split": "train", "tags": ["red", "flat"]}
    assert (item["width"], item["height"]) == (30, 20)
    assert [r["name"] for r in item["graph"]["regions"]] == ["left", "right"]
    assert client.get("/items/blue-1").json()["graph"] is None
    assert client.get("/items/bare").json()["image"] is False
    assert client.get("/items/rotten").json()["image"] is False
    assert client.get("/items/nobody").status_code == 404


def test_thumbnails(client: httpx.Client) -> None:
    answer = client.get("/image/red-1", params={"side": 16})
    assert answer.headers["content-type"] == "image/webp"
    picture = Image.open(io.BytesIO(answer.content))
    assert max(picture.size) == 16
    assert np.abs(np.asarray(picture.convert("RGB"))[5, 5].astype(int) - (255, 0, 0)).max() < 20
    assert client.get("/image/red-1", params={"side": 16}).content == answer.content
    for uid in ("nobody", "rotten", "bare", "..%2F..%2Fetc%2Fpasswd"):
        assert client.get(f"/image/{uid}").status_code == 404
    assert client.get("/image/red-1", params={"side": 100_000}).status_code == 422


# ---------------------------------------------------------------- refusals


BIG = b64(encoded(np.zeros((200, 100, 3), np.uint8)))
CUT = b64(encoded(flat((1, 2, 3)))[:70])


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
        (
            "/v1/embeddings",
            {"input": {"image": BIG}},
            413,
            "input is too large: 100 x 200 = 20,000 pixels are more than the limit of 10,000",
        ),
        ("/v1/embeddings", {"input": {"image": CUT}}, 400, "input is not an image that can be read"),
        ("/v1/embeddings", {"input": "a", "model": "other"}, 404, "unknown model 'other'; this service has 'stub/colours'"),
        ("/v1/embeddings", {"input": "a", "dimensions": 2}, 422, "dimensions is 2 ('stub/colours' gives 3)"),
        ("/v1/embeddings", {}, 422, "input: field required"),
        ("/v1/embeddings", {"input": [[1, 2, 3]]}, 422, "input"),
        ("/v1/embeddings", {"input": "\ud800"}, 422, "half of a surrogate pair"),
        ("/search", {}, 422, "nothing to search for"),
        ("/search", {"unlike": "red-1"}, 422, "nothing to search for"),
        ("/search", {"text": "red", "k": 21}, 422, "k is 21 (expected 1..20)"),
        ("/search", {"text": "red", "k": 0}, 422, "k: input should be greater than or equal to 1"),
        ("/search", {"text": "  "}, 422, "text is empty"),
        ("/search", {"txt": "red"}, 422, "txt"),
        ("/search", {"image": "????"}, 400, "image is not base64"),
        ("/search", {"like": "nobody"}, 404, "no item has that uid"),
        ("/search", {"like": ["a"] * 5}, 422, "like has 5 entries"),
        ("/search", {"text": "a", "mode": "lexical"}, 422, "an index of kind 'dense' has exact"),
        ("/search", {"text": "a", "like": "red-1", "mode": "exact"}, 422, "needs either a text or an image"),
        ("/search", {"text": "red", "distinct": 2}, 422, "distinct"),
        ("/classify", {"image": BIG, "labels": ["a", "b"]}, 413, "pixels"),
        ("/classify", {"image": CUT, "labels": ["a"]}, 422, "labels"),
        ("/classify", {"image": [], "labels": ["a", "b"]}, 422, "image has 0 entries"),
        ("/classify", {"image": "AAAA", "labels": ["a", "b"], "templates": ["no place"]}, 400, "{}"),
        ("/detect", {}, 422, "no picture is given"),
        ("/detect", {"image": CUT, "uid": "red-1"}, 422, "no picture is given"),
        ("/detect", {"uid": "nobody"}, 404, "no item has that uid"),
        ("/detect", {"uid": "rotten"}, 404, "cannot be read"),
        ("/detect", {"uid": "bare"}, 404, "has no image"),
        ("/explain", {"uid": "red-1"}, 422, "text: field required"),
        ("/explain", {"uid": "red-1", "text": "a", "grid": 99}, 422, "grid"),
    ],
)
def test_refusals_say_what_would_work(client: httpx.Client, path: str, body: dict, status: int, says: str) -> None:
    answer = client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
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
    for where in ("[1]", "{", "[" * 5000):
        assert "JSON object" in refusal(client.get("/search", params={"q": "a", "where": where}))


def test_a_failure_inside_tells_nothing_private(client: httpx.Client) -> None:
    answer = client.get("/search", params={"q": "explode"})
    assert answer.status_code == 500
    assert refusal(answer) == "RuntimeError inside the service; its log says more"
    assert client.get("/search", params={"q": "red"}).status_code == 200


def test_one_failure_does_not_spoil_the_batch(service: Running) -> None:
    service.model.slow = 0.05
    try:
        with ThreadPoolExecutor(9) as threads:
            queries = ["red", "explode", "blue"] * 3
            answers = list(threads.map(lambda q: service.http.get("/search", params={"q": q, "k": 1}), queries))
    finally:
        service.model.slow = 0.0
    assert [answer.status_code for answer in answers] == [200, 500, 200] * 3
    assert {a.json()["hits"][0]["uid"] for a in answers if a.status_code == 200} == {"red-1", "blue-1"}


# ---------------------------------------------------------------- started with less, or with more


def test_without_an_index_or_pool_it_still_embeds() -> None:
    with listening(create_app(Stub())) as address, httpx.Client(base_url=address) as http:
        info = http.get("/info").json()
        assert info["models"][0]["index"] is None
        assert info["data"] is False
        search = http.get("/search", params={"q": "red"})
        assert search.status_code == 404
        assert "no index" in refusal(search)
        assert http.get("/image/red-1").status_code == 404
        assert http.get("/items/red-1").status_code == 404
        assert "no detector" in refusal(http.post("/detect", json={"uid": "red-1"}))
        assert http.post("/v1/embeddings", json={"input": "red"}).status_code == 200


def test_a_detector_alone() -> None:
    with listening(create_app(Finder())) as address, httpx.Client(base_url=address) as http:
        assert http.post("/detect", json={"image": b64(encoded(flat((1, 1, 1))))}).status_code == 200
        assert http.post("/v1/embeddings", json={"input": "red"}).status_code == 422
        assert http.post("/explain", json={"image": b64(encoded(flat((1, 1, 1)))), "text": "a"}).status_code == 422
        assert http.post("/classify", json={"image": "AAAA", "labels": ["a", "b"]}).status_code == 422


def test_two_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    class Swapped(Stub):
        fingerprint = "cafe"

        def embed_texts(self, texts, *, batch_size: int = 256) -> np.ndarray:
            return super().embed_texts(texts)[:, ::-1].copy()

    pool = a_pool()
    one = DenseIndex.build(Stub(), pool, tmp_path / "one", progress=False)
    other = DenseIndex.build(Swapped(), pool, tmp_path / "other", progress=False)
    app = create_app(Stub(), one, pool=pool, compare=[(Swapped(), other)])
    with one, other, listening(app) as address, httpx.Client(base_url=address) as http:
        assert [m["name"] for m in http.get("/info").json()["models"]] == ["stub/colours", "stub/colours (2)"]
        assert uids(http.post("/search", json={"text": "red"}))[0] == "red-1"
        assert uids(http.post("/search", json={"text": "red", "model": "stub/colours (2)"}))[0] == "blue-1"


def test_what_cannot_work_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="port is 99999"):
        run(create_app(Stub()), port=99999)
    with pytest.raises(ConfigError, match="does not detect"):
        create_app(Stub(), detector=Stub())
    with pytest.raises(ConfigError, match="words has nothing that a service answers"):
        create_app(BM25Encoder())
    monkeypatch.setattr(app_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"diptych\[serve\]"):
        create_app(Stub())


def test_decode_errors_of_a_model_are_the_sender_s_fault() -> None:
    class Picky(Stub):
        def embed_images(self, images, *, batch_size: int = 64) -> np.ndarray:
            raise DecodeError("the scan ends early", file=images[0].name)

    with listening(create_app(Picky())) as address:
        answer = httpx.post(f"{address}/v1/embeddings", json={"input": [{"image": b64(encoded(flat((1, 1, 1))))}]})
        assert answer.status_code == 400
        assert refusal(answer) == "input[0]: the scan ends early"


# ---------------------------------------------------------------- numbers of any length

LONG = [
    "9" * 20,
    "9" * 309,
    "9" * 4000,
    "9" * 5000,
    "-" + "9" * 5000,
    "1e400",
    "-1e400",
    "1" + "0" * 400 + ".5",
    "NaN",
    "Infinity",
]


@pytest.mark.parametrize("digits", LONG, ids=lambda digits: f"{digits[:8]}-{len(digits)}")
@pytest.mark.parametrize(
    "where", ['{"score": %s}', '{"score": [0.5, %s]}', '{"score": {">=": %s}}', '{"style": %s}', '{"split": {"<": [%s]}}']
)
def test_a_number_of_any_length_in_where_is_the_clients_mistake(client: httpx.Client, where: str, digits: str) -> None:
    answer = client.get("/search", params={"q": "red", "where": where % digits})
    assert answer.status_code in (400, 422), answer.text
    refusal(answer)
    answer = client.post(
        "/search", content='{"text": "red", "where": %s}' % (where % digits), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code in (400, 422), answer.text
    refusal(answer)


def test_five_thousand_digits_are_400(client: httpx.Client) -> None:
    where = '{"score": %s}' % ("9" * 5000)
    assert client.get("/search", params={"q": "red", "where": where}).status_code == 400
    body = f'{{"text": "red", "where": {where}}}'
    assert client.post("/search", content=body, headers={"Content-Type": "application/json"}).status_code == 400


@pytest.mark.parametrize("field", ["k", "weight", "against", "distinct", "min_score"])
@pytest.mark.parametrize("digits", LONG, ids=lambda digits: f"{digits[:8]}-{len(digits)}")
def test_a_number_of_any_length_in_a_field_is_never_an_error_of_ours(client: httpx.Client, field: str, digits: str) -> None:
    body = f'{{"text": "red", "like": "red-1", "{field}": {digits}}}'
    answer = client.post("/search", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 400, 422), answer.text
