"""Captions, answers and chat completions through a real socket, with the client package that others use."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage
from diptych.serve import Limits, create_app
from diptych.serve.stops import StopSequenceFilter

from .conftest import COLOURS, Running, Stub, Teller, b64, encoded, flat, listening, refusal, running

openai = pytest.importorskip("openai", reason="needs openai (pip install openai)")
RED = f"data:image/png;base64,{b64(encoded(flat(COLOURS['red'])))}"
BLUE = f"data:image/png;base64,{b64(encoded(flat(COLOURS['blue'])))}"
LIMITS = Limits(body_bytes=200_000, image_pixels=10_000, inputs=2, text_characters=50, tokens=100, seconds=30, request_seconds=60)


@pytest.fixture(scope="module")
def teller() -> Teller:
    return Teller()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, teller: Teller) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("chat"), limits=LIMITS, writer=teller) as started:
        yield started


@pytest.fixture(scope="module")
def client(service: Running) -> Any:
    return openai.OpenAI(base_url=f"{service.address}/v1", api_key="none", max_retries=0)


def about(url: str, words: str = "", *, role: str = "user") -> dict[str, Any]:
    texts = [{"type": "text", "text": words}] if words else []
    return {"role": role, "content": [*texts, {"type": "image_url", "image_url": {"url": url, "detail": "low"}}]}


def settled(teller: Teller, seconds: float = 3.0) -> int:
    """How many words were written, once that stays as it is."""
    end, last = time.monotonic() + seconds, -1
    while time.monotonic() < end and last != teller.told:
        last = teller.told
        time.sleep(0.3)
    return teller.told


# ---------------------------------------------------------------- with the client package


def test_an_answer_at_once(client: Any, teller: Teller) -> None:
    found = client.chat.completions.create(model="stub/teller", messages=[about(RED, "what is it?")], max_tokens=50)
    assert found.object == "chat.completion"
    assert found.id.startswith("chatcmpl-")
    assert found.model == "stub/teller"
    (choice,) = found.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "a red picture. what is it?")
    assert choice.finish_reason == "stop"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (5, 6, 11)
    assert teller.asked[-1] == "what is it?", "one picture and one message: the words alone, the picture first"
    short = client.chat.completions.create(model="stub/teller", messages=[about(RED, "what is it?")], max_completion_tokens=2)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("a red", "length")


def test_an_answer_streamed(client: Any) -> None:
    def streamed(**options: Any) -> list[Any]:
        given: dict[str, Any] = {"model": "stub/teller", "messages": [about(BLUE, "and now?")], "stream": True, **options}
        return list(client.chat.completions.create(**given))

    chunks = streamed(stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.content for c in chunks[1:-2]] == ["a", " blue", " picture.", " and", " now?"]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 6 + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1
    plain = streamed(max_tokens=2)
    assert plain[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in plain)


def test_pieces_come_while_the_model_still_writes(client: Any, teller: Teller) -> None:
    teller.slow = 0.2
    try:
        start, stream = time.monotonic(), client.chat.completions.create(model="", messages=[about(RED, "x " * 8)], stream=True)
        first = next(chunk for chunk in stream if chunk.choices[0].delta.content)
        first_at = time.monotonic() - start
        assert first.choices[0].delta.content == "a"
        rest = list(stream)
        assert first_at < (time.monotonic() - start) / 2
        assert rest[-1].choices[0].finish_reason == "stop"
    finally:
        teller.slow = 0.0


def test_what_ends_an_answer_is_left_out(client: Any, teller: Teller) -> None:
    before = teller.told
    found = client.chat.completions.create(model="stub/teller", messages=[about(RED, "x y z")], stop=["picture", "zzz"])
    assert found.choices[0].message.content == "a red "
    assert found.choices[0].finish_reason == "stop"
    assert teller.told - before == 3, "nothing is written behind it"
    stream = client.chat.completions.create(model="stub/teller", messages=[about(RED, "x y")], stop="re. x", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "a red pictu"


def test_words_are_drawn_only_when_asked(client: Any) -> None:
    def text(**options: Any) -> str:
        found = client.chat.completions.create(model="stub/teller", messages=[about(RED, "x")], **options)
        return str(found.choices[0].message.content)

    assert text(temperature=0) == text() == "a red picture. x"
    assert text(temperature=0.7, top_p=0.5, seed=7).endswith("drawn 7 0.5")


def test_dialogues_and_several_pictures_reach_the_model_as_parts(client: Any, teller: Teller) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        about(RED, "what?"),
        {"role": "assistant", "content": "red"},
        about(BLUE, "and this?"),
    ]
    client.chat.completions.create(model="stub/teller", messages=messages)
    turns = teller.asked[-1].turns
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert [type(part).__name__ for part in turns[3].parts] == ["TextPart", "ImagePart"]
    assert turns[1].parts[1].source is None, "the first picture is that of the request"
    assert turns[3].parts[1].source.pixels_HWC[0, 0].tolist() == [0, 0, 255]


def test_an_item_of_the_service_is_a_picture_too(client: Any) -> None:
    found = client.chat.completions.create(model="stub/teller", messages=[about("item:green-1")])
    assert found.choices[0].message.content == "a green picture."


def test_refusals_are_the_errors_of_the_client_package(client: Any, service: Running) -> None:
    def refused(kind: str, **options: Any) -> str:
        given: dict[str, Any] = {"model": "stub/teller", "messages": [about(RED, "x")], **options}
        with pytest.raises(getattr(openai, kind)) as caught:
            client.chat.completions.create(**given)
        assert not {"secret", "Traceback"} & set(str(caught.value).split())
        return str(caught.value)

    assert "unknown model 'other'; those that write are 'stub/teller'" in refused("NotFoundError", model="other")
    assert "'stub/colours' does not write" in refused("UnprocessableEntityError", model="stub/colours")
    no_picture = [{"role": "user", "content": "hello"}]
    assert "contain no picture (expected a part of type image_url)" in refused("UnprocessableEntityError", messages=no_picture)
    assert "fetches nothing" in refused("BadRequestError", messages=[about("https://example.org/a.png")])
    assert "not an image that can be read" in refused("BadRequestError", messages=[about(b64(b"nothing"))])
    assert "no item has that uid" in refused("NotFoundError", messages=[about("item:gone")])
    assert "expected 1..100" in refused("UnprocessableEntityError", max_tokens=101)
    assert "n is 2" in refused("UnprocessableEntityError", n=2)
    assert "tools is" in refused("UnprocessableEntityError", tools=[{"type": "function", "function": {"name": "f"}}])
    assert "response_format is" in refused("UnprocessableEntityError", response_format={"type": "json_object"})
    assert "stop has 5" in refused("UnprocessableEntityError", stop=list("abcde"))
    assert "last message is of 'assistant'" in refused(
        "UnprocessableEntityError", messages=[about(RED), {"role": "assistant", "content": "red"}]
    )
    assert "turn 1 is of 'user' (expected 'assistant')" in refused("BadRequestError", messages=[about(RED), about(BLUE)])
    assert "more than 2 pictures" in refused("UnprocessableEntityError", messages=[{"role": "user", "content": [
        *about(RED)["content"] * 3]}])  # fmt: skip
    assert "51 characters" in refused("APIStatusError", messages=[about(RED, "x" * 51)])
    assert "99 of the 64 places" in refused("BadRequestError", messages=[about(RED, "too long")])
    assert "99 of the 64 places" in refused("BadRequestError", messages=[about(RED, "too long")], stream=True)
    assert "RuntimeError inside the service" in refused("InternalServerError", messages=[about(RED, "explode")], stream=True)


def test_what_goes_wrong_in_the_middle_of_a_stream_is_an_error(client: Any) -> None:
    stream = client.chat.completions.create(model="stub/teller", messages=[about(RED, "a burst of it")], stream=True)
    heard: list[str] = []
    with pytest.raises(openai.APIError, match="RuntimeError inside the service"):
        heard.extend(chunk.choices[0].delta.content for chunk in stream)
    assert heard[-1] == " burst"


# ---------------------------------------------------------------- time and leaving


def test_an_answer_that_takes_too_long_ends_and_the_model_is_free(tmp_path: Path) -> None:
    slow = Teller()
    slow.slow = 0.4
    with running(tmp_path, limits=replace(LIMITS, seconds=3), writer=slow) as started:
        client = openai.OpenAI(base_url=f"{started.address}/v1", api_key="none", max_retries=0)
        given: dict[str, Any] = {"model": "stub/teller", "messages": [about(RED, "x " * 20)]}
        with pytest.raises(openai.InternalServerError, match="no answer within 3 seconds"):
            client.chat.completions.create(**given)
        assert settled(slow) < 12, "of 23 words"
        stream = client.chat.completions.create(**given, stream=True)
        with pytest.raises(openai.APIError, match="no end of the answer within 3 seconds"):
            list(stream)
        slow.slow = 0.0
        assert settled(slow) < 24, "of 46 words"
        again = client.with_options(max_retries=3).chat.completions.create(model="", messages=[about(RED)])
        assert again.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_stops_when_the_client_leaves(service: Running, teller: Teller, stream: bool) -> None:
    teller.slow, before = 0.25, teller.told
    body = {"messages": [about(RED, "x " * 20)], "stream": stream}
    try:
        with httpx.stream("POST", f"{service.address}/v1/chat/completions", json=body, timeout=0.5) as answer:
            next(answer.iter_raw())
    except httpx.ReadTimeout:
        assert not stream
    finally:
        assert settled(teller) - before < 15, "of 23 words"
        teller.slow = 0.0


def test_searches_do_not_wait_for_an_answer(client: Any, service: Running, teller: Teller) -> None:
    teller.slow = 0.3
    try:
        stream = client.chat.completions.create(model="stub/teller", messages=[about(RED, "x " * 20)], stream=True)
        next(iter(stream))
        assert service.http.get("/search", params={"q": "red", "k": 1}).json()["hits"]
        assert teller.inside == 1, "the answer is still being written"
        stream.close()
    finally:
        teller.slow = 0.0
        settled(teller)


def test_several_at_once_are_answered_one_after_the_other(client: Any, teller: Teller) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def one(number: int) -> str:
        found = client.chat.completions.create(model="stub/teller", messages=[about(RED, f"number {number}")])
        return str(found.choices[0].message.content)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [f"a red picture. number {number}" for number in range(16)]
    assert teller.collisions == 0


# ---------------------------------------------------------------- the routes of our own


def test_caption_and_ask(service: Running) -> None:
    http = service.http
    assert http.post("/caption", json={"uid": "blue-1"}).json() == {"model": "stub/teller", "caption": "a blue picture."}
    assert http.post("/caption", json={"image": RED, "prompt": "briefly", "max_tokens": 2}).json()["caption"] == "a red"
    found = http.post("/ask", json={"image": RED, "question": "why?"}).json()
    assert (found["answer"], found["shares"]) == ("a red picture. why?", None)
    found = http.post("/ask", json={"image": RED, "question": "which?", "choices": ["green", "red", "blue"]}).json()
    assert found["answer"] == "red"
    assert found["nats"] == {"green": 5.0, "red": 3.0, "blue": 4.0}
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert "the choice 'red' is given twice" in refusal(
        http.post("/ask", json={"image": RED, "question": "which?", "choices": ["red", "red"]})
    )
    found = http.post("/ask", json={"image": RED, "question": "why?", "describe": "first"}).json()
    assert found["answer"] == "a red picture. Image description: a red picture. first why?"
    assert "describe is empty" in refusal(http.post("/ask", json={"image": RED, "question": "why?", "describe": " "}))
    assert "question is empty" in refusal(http.post("/ask", json={"image": RED, "question": " "}))
    assert "no picture is given" in refusal(http.post("/caption", json={}))
    assert "expected 1..100" in refusal(http.post("/caption", json={"uid": "red-1", "max_tokens": 1000}))


def test_info_and_models_name_what_writes(service: Running) -> None:
    info = service.http.get("/info").json()
    assert info["writers"] == [{"name": "stub/teller", "streams": True, "ranks": True, "reduces": False}]
    assert [one["id"] for one in service.http.get("/v1/models").json()["data"]] == ["stub/colours", "stub/teller"]


def test_a_service_of_a_writer_alone_and_of_none() -> None:
    with listening(create_app(Teller())) as address, httpx.Client(base_url=address) as http:
        assert http.post("/caption", json={"image": RED}).json()["caption"] == "a red picture."
        assert http.get("/info").json()["writers"][0]["name"] == "stub/teller"
        assert http.post("/v1/chat/completions", json={"messages": [about(RED)]}).status_code == 200
    with listening(create_app(Stub())) as address, httpx.Client(base_url=address) as http:
        assert "--writer MODEL" in refusal(http.post("/caption", json={"image": RED}))
    with pytest.raises(ConfigError, match="does not write"):
        create_app(Stub(), writer=Stub())


class Silent:
    """Its every answer is empty."""

    name = "stub/silent"

    def generate(self, images, prompts, *, max_tokens: int = 64) -> list[str]:
        return [""] * len(images)


def test_an_empty_text_comes_with_a_note() -> None:
    with listening(create_app(Silent())) as address, httpx.Client(base_url=address) as http:
        found = http.post("/caption", json={"image": RED}).json()
        assert found["caption"] == ""
        assert "no word before its end mark" in found["note"]
        assert "no word" in http.post("/ask", json={"image": RED, "question": "which?"}).json()["note"]


class Mute:
    """Writes, but gives nothing away before it has ended."""

    name = "stub/mute"

    def generate(self, images, prompts, *, max_tokens: int = 64) -> list[str]:
        return ["a whole sentence"] * len(images)


def test_a_model_that_does_not_stream_answers_in_one_piece() -> None:
    body = {"messages": [about(RED, "x")]}
    with listening(create_app(Mute())) as address, httpx.Client(base_url=address) as http:
        found = http.post("/v1/chat/completions", json=body).json()
        assert found["choices"][0]["message"]["content"] == "a whole sentence"
        assert found["usage"] is None
        lines = http.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")
        assert json.loads(lines[1].removeprefix("data: "))["choices"][0]["delta"] == {"content": "a whole sentence"}
        assert lines[-2:] == ["data: [DONE]", ""]
        assert "decodes greedily" in refusal(http.post("/v1/chat/completions", json={**body, "temperature": 1}))
        assert "does not rank" in refusal(http.post("/ask", json={"image": RED, "question": "x", "choices": ["a", "b"]}))


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, token="secret") as started:
        assert started.http.post("/v1/chat/completions", json={"messages": [about(RED)]}).status_code == 401
        client = openai.OpenAI(base_url=f"{started.address}/v1", api_key="secret", max_retries=0)
        assert client.chat.completions.create(model="", messages=[about(RED)]).choices


@pytest.mark.parametrize("cuts", [[1] * 30, [3] * 10, [30]])
def test_stops_do_not_depend_on_where_pieces_are_cut(cuts: list[int]) -> None:
    for text, wanted in (("a cat ENDs", "a cat "), ("a cat EN", "a cat EN"), ("a\n\nb", "a"), ("EEND", "E"), ("plain", "plain")):
        stops, given, at = StopSequenceFilter(["END", "\n\n"]), "", 0
        for size in cuts:
            given += stops.take(text[at : at + size])
            at += size
        assert given + stops.rest() == wanted


def test_a_model_of_ours_streams_what_it_generates(tmp_path: Path) -> None:
    from ..models.bridges.test_bridge import writer

    model = writer("llama")
    (wanted,) = model.generate([flat_source()], ["what colour is it ?"], max_tokens=12)
    with listening(create_app(model)) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        given: dict[str, Any] = {"model": "writer", "messages": [about(RED, "what colour is it ?")], "max_tokens": 12}
        assert client.chat.completions.create(**given).choices[0].message.content == wanted
        pieces = [chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**given, stream=True)]
        assert "".join(pieces) == wanted
        assert len([piece for piece in pieces if piece]) > 1


def flat_source() -> ArrayImage:
    return ArrayImage(flat(COLOURS["red"]), "red")


class TextWriter:
    """Repeats a prompt, without a picture."""

    name, fingerprint, reads_images = "stub/texts", "7e12", False

    def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
        assert list(images) == [None]
        return [f"after {prompt}" for prompt in prompts]


def test_a_model_that_reads_text_alone_is_asked_without_a_picture(tmp_path: Path) -> None:
    with running(tmp_path, limits=LIMITS, writer=TextWriter()) as started:
        said = {"messages": [{"role": "user", "content": "one two"}]}
        answer = started.http.post("/v1/chat/completions", json=said).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == "after one two"
        assert started.http.post("/ask", json={"question": "one"}).raise_for_status().json()["answer"] == "after one"
        assert "reads text alone" in refusal(started.http.post("/ask", json={"question": "one", "uid": "u1"}))
        assert "expected no describe" in refusal(started.http.post("/ask", json={"question": "one", "describe": "first"}))
        assert "reads text alone" in refusal(started.http.post("/v1/chat/completions", json={"messages": [about(RED)]}))
