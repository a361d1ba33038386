"""What clients of OpenAI's API, of LangChain and LlamaIndex send by habit: models by id, token ids, objects, HEAD; and what they count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.cli.commands.serve import with_mcp_value
from diptych.core.errors import PromptTooLong
from diptych.data.text.tokenize import Tokenizer
from diptych.serve.app import public_name

from .conftest import Running, Stub, refusal, running


class Reader(Stub):
    """With a tokenizer, and with a name that is a path of this machine."""

    name = "/srv/models/colours"
    text_length = 6
    tokenizer = Tokenizer.train(["a red bus left of a green tree"] * 3, 300)


class Writer:
    """Has room for nine tokens."""

    name = "hf:/srv/models/teller"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        self.asked.append(max_tokens)
        if max_tokens > 9:
            raise PromptTooLong("no room", 9)
        return ["a red bus"] * len(images)


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, writer: Writer) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("habits"), model=Reader(), writer=writer) as started:
        yield started


def vectors(service: Running, given: Any) -> tuple[np.ndarray, dict[str, int]]:
    answer = service.http.post("/v1/embeddings", json={"input": given})
    assert answer.status_code == 200, answer.text
    return np.array([row["embedding"] for row in answer.json()["data"]]), answer.json()["usage"]


def test_models_have_names_and_are_looked_up_by_id(service: Running) -> None:
    ids = [one["id"] for one in service.http.get("/v1/models").json()["data"]]
    assert ids == ["colours", "teller"]
    for model_id in ids:
        assert service.http.get(f"/v1/models/{model_id}").json()["id"] == model_id
    answer = service.http.get("/v1/models/gpt-4o")
    assert answer.status_code == 404
    assert "'colours' or 'teller'" in refusal(answer)
    assert "/srv" not in service.http.get("/info").text


def test_texts_may_be_token_ids_or_objects(service: Running) -> None:
    tokenizer = Reader.tokenizer
    ids = tokenizer.inner.encode("red", add_special_tokens=False).ids
    assert tokenizer.decode(ids) == "red"
    expected, _ = vectors(service, ["red", "red"])
    for given in ([ids, ids], [{"text": "red"}, "red"], [ids, {"text": "red"}]):
        assert np.array_equal(vectors(service, given)[0], expected)
    for one in (ids, {"text": "red"}):
        assert np.array_equal(vectors(service, one)[0], expected[:1])
    answer = service.http.post("/v1/embeddings", json={"input": [10**6]})
    assert answer.status_code == 422
    assert "token id 1000000" in refusal(answer)


def test_usage_counts_tokens(service: Running) -> None:
    _, usage = vectors(service, ["red", "a red bus", "tree " * 9])
    tokens = [min(Reader.tokenizer.count(text), Reader.text_length) for text in ("red", "a red bus", "tree " * 9)]
    assert usage == {"prompt_tokens": sum(tokens), "total_tokens": sum(tokens), "texts": 3, "images": 0}


def test_head_is_get_without_its_body_and_allow_is_right(service: Running) -> None:
    for path in ("/healthz", "/v1/models", "/", "/search?q=red", "/info", "/metrics"):
        got, head = service.http.get(path), service.http.head(path)
        assert head.status_code == got.status_code == 200, path
        assert head.content == b""
        assert head.headers["content-type"] == got.headers["content-type"]
        if path in ("/healthz", "/v1/models"):
            assert head.headers["content-length"] == str(len(got.content))
    for method, path, allow in (
        ("PUT", "/search", "GET, HEAD, POST"),
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/info", "GET, HEAD"),
    ):
        answer = service.http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allow), path
    assert service.http.head("/v1/embeddings").status_code == 405


def test_an_answer_has_the_room_there_is(service: Running, writer: Writer) -> None:
    from .test_chat import RED, about

    def ask(**more: Any) -> Any:
        return service.http.post("/v1/chat/completions", json={"messages": [about(RED, "what?")], **more})

    answer = ask()
    assert answer.status_code == 200, answer.text
    assert writer.asked[-2:] == [service.app.state.service.limits.tokens, 9]
    assert ask(max_tokens=5).status_code == 200
    assert writer.asked[-1] == 5
    assert ask(max_tokens=50).status_code == 400


def test_the_schema_says_what_is_refused(service: Running) -> None:
    schemas = service.http.get("/openapi.json").json()["components"]["schemas"]
    assert [one["required"] for one in schemas["SearchRequest"]["anyOf"]] == [["text"], ["image"], ["cloud"], ["like"]]
    for name in ("DetectRequest", "ExplainRequest", "WordsRequest", "CaptionRequest"):
        assert [one["required"] for one in schemas[name]["oneOf"]] == [["image"], ["uid"]]
    assert "oneOf" not in schemas["AskRequest"], "models that read text alone are asked without a picture"
    assert schemas["ExplainRequest"]["properties"]["text"]["minLength"] == 1
    kinds = schemas["EmbeddingRequest"]["properties"]["input"]["anyOf"]
    assert {kind.get("minLength", kind.get("minItems", 0)) for kind in kinds if kind.get("type") in ("string", "array")} == {1}


def test_mcp_without_a_value_is_stdio() -> None:
    assert with_mcp_value(["words", "--mcp"]) == ["words", "--mcp", "stdio"]
    assert with_mcp_value(["words", "--mcp", "http", "--port", "1"]) == ["words", "--mcp", "http", "--port", "1"]


def test_names_are_no_paths(tmp_path: Path) -> None:
    assert public_name(str(tmp_path / "run")) == "run"
    assert public_name("open_clip:ViT-B-32/clip.safetensors") == "clip.safetensors"
    for name in ("stub/colours", "grey", "words", "run/16"):
        assert public_name(name) == name
