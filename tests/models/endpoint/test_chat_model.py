"""A model behind an address: what it is sent, what it makes of answers and nonsense, and what a dying server costs."""

from __future__ import annotations

import base64
import io
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.contracts import Generator, Ranker, Respondent
from diptych.core.errors import ConfigError, DataError, DecodeError, RunError, UnknownName
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.prompt import Dialogue, ImagePart, MediaPart, TextPart, Turn
from diptych.models.endpoint.answers import AnswerCache
from diptych.models.endpoint.chat_model import SILENT, ChatModel
from diptych.models.endpoint.connection import KEY, LARGEST, ServerConnection

from ...text_server import Server, said

RED = ArrayImage(np.full((3, 5, 3), (200, 0, 0), np.uint8), "red")
BLUE = ArrayImage(np.full((4, 4, 3), (0, 0, 200), np.uint8), "blue")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses are written down and not waited for."""
    found: list[float] = []
    monkeypatch.setattr(ServerConnection, "_rest", lambda line, seconds: found.append(seconds))
    return found


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(server: Server, options: str = "") -> Any:
    return dp.load(f"openai:{server.address}#tiny?{options}")


def pixels_of(content: dict[str, Any]) -> np.ndarray:
    head, _, data = content["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def echo(number: int, body: Any) -> Any:
    content = body["messages"][-1]["content"]
    return said("says " + (content if isinstance(content, str) else content[-1]["text"]), chat=True)


def test_what_is_sent(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "secret")
    server.behave = echo
    model = opened(server)
    assert isinstance(model, Generator)
    assert isinstance(model, Respondent)
    assert not isinstance(model, Ranker)
    assert model.generate([RED], ["what is it?"], max_tokens=9) == ["says what is it?"]
    sent = server.asked[0]
    assert sent["path"] == "/v1/chat/completions"
    assert {name: sent[name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "tiny",
        "max_tokens": 9,
        "temperature": 0.0,
    }
    (message,) = sent["messages"]
    assert message["role"] == "user"
    picture, words = message["content"]
    assert words == {"type": "text", "text": "what is it?"}
    assert np.array_equal(pixels_of(picture), RED.pixels_HWC)
    assert server.headers[0]["Authorization"] == "Bearer secret"
    kept = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert b"secret" not in kept + (model.name + model.fingerprint).encode()


def test_several_pictures_and_turns(server: Server, cache: Path) -> None:
    server.behave = echo
    asked = Dialogue(
        (
            Turn("system", (TextPart("be brief"),)),
            Turn("user", (TextPart("first "), ImagePart(), TextPart(" second "), ImagePart(source=BLUE))),
            Turn("assistant", (TextPart("seen"),)),
            Turn("user", (TextPart("which is red?"),)),
        )
    )
    assert opened(server).generate([RED], [asked]) == ["says which is red?"]
    system, user, assistant, last = server.asked[0]["messages"]
    assert (system, assistant, last) == (
        {"role": "system", "content": "be brief"},
        {"role": "assistant", "content": "seen"},
        {"role": "user", "content": "which is red?"},
    )
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url"]
    assert np.array_equal(pixels_of(user["content"][3]), BLUE.pixels_HWC)
    with pytest.raises(DataError, match="cannot read this MediaPart"):
        opened(server).generate([RED], [(MediaPart("clip"),)])


def test_encoded_pictures_go_as_they_are_and_turned_ones_upright(server: Server, cache: Path) -> None:
    server.behave = echo
    file, turned = io.BytesIO(), io.BytesIO()
    Image.fromarray(RED.pixels_HWC).save(file, "JPEG", quality=80)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RED.pixels_HWC).save(turned, "JPEG", exif=exif)
    opened(server, "calls=1").generate([BytesImage(file.getvalue()), BytesImage(turned.getvalue())], ["a", "b"])
    plain, upright = (body["messages"][0]["content"][0] for body in server.asked)
    assert plain["image_url"]["url"] == "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    assert pixels_of(upright).shape == (5, 3, 3)
    with pytest.raises(DecodeError, match="no image"):
        opened(server).generate(BytesImage(b"no image", "no image"), "a")
    with pytest.raises(DecodeError, match=r"gone\.png"):
        opened(server).generate("gone.png", "a")


def test_words_alone_for_a_model_without_eyes(server: Server, cache: Path) -> None:
    server.behave = echo
    assert opened(server, "pictures=off").generate(RED, "hello") == "says hello"
    assert server.asked[0]["messages"] == [{"role": "user", "content": "hello"}]


def test_answers_are_known_the_second_time_and_cost_is_counted(server: Server, cache: Path) -> None:
    server.behave = echo
    model = opened(server, "price_read=2&price_written=10")
    questions = ["a", "b", "a", "c"]
    assert model.generate([RED] * 4, questions) == [f"says {one}" for one in questions]
    assert len(server.asked) == 3, "equal questions are asked once"
    assert (model.spent.asked, model.spent.looked_up, model.spent.prompt_tokens, model.spent.written_tokens) == (3, 0, 33, 9)
    assert model.spent.cost == pytest.approx((33 * 2 + 9 * 10) / 1e6)
    again = opened(server)
    assert again.generate([RED] * 2, ["a", "d"]) == ["says a", "says d"]
    assert (again.spent.asked, again.spent.looked_up, len(server.asked)) == (1, 1, 4)
    again.generate([BLUE], ["a"])
    again.generate([RED], ["a"], max_tokens=65)
    dp.load(f"openai:{server.address}#other").generate([RED], ["a"])
    opened(server, "temperature=0.5&seed=1").generate([RED], ["a"])
    assert len(server.asked) == 8, "another picture, length, model or draw is another question"
    opened(server, "cache=off").generate([RED], ["a"])
    assert len(server.asked) == 9
    assert server.asked[7]["seed"] == 1
    assert "seed" not in server.asked[0]


def test_a_server_that_is_away_for_a_minute_loses_nothing(
    server: Server, cache: Path, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: sum(slept))
    server.behave = lambda number, body: (503, {}, b"down") if sum(slept) < 60 else echo(number, body)
    assert opened(server, "calls=1").generate([RED] * 5, list("abcde")) == [f"says {one}" for one in "abcde"]
    assert slept[:4] == [0.5, 1.0, 2.0, 4.0]


def test_patience_ends_and_the_next_run_goes_on(server: Server, cache: Path, slept: list[float]) -> None:
    server.behave = lambda number, body: echo(number, body) if number < 6 else (503, {}, b"down")
    questions = [str(n) for n in range(40)]
    with pytest.raises(
        RunError,
        match=r"does not answer: (\d questions in a row failed, the last with )?refused: HTTP 503 'down'\. What was answered is kept",
    ):
        opened(server, "calls=2&patience=0").generate([RED] * 40, questions)
    with AnswerCache() as known:
        assert len(known) == 6
    before = len(server.asked)
    assert before < 15
    server.behave = echo
    assert opened(server).generate([RED] * 40, questions) == [f"says {one}" for one in questions]
    assert len(server.asked) == before + 34


def test_what_is_in_the_air_when_patience_ends_is_kept(server: Server, cache: Path, slept: list[float]) -> None:
    """It has been paid for, although the run ends at another question."""

    def behave(number: int, body: Any) -> Any:
        while len(server.asked) < 2:
            time.sleep(0.01)
        if body["messages"][-1]["content"][-1]["text"] == "bad":
            return 503, {}, b"away"
        time.sleep(0.3)
        return echo(number, body)

    server.behave = behave
    model = opened(server, "calls=2&patience=0")
    with pytest.raises(RunError, match="What was answered is kept"):
        model.generate([RED] * 2, ["bad", "slow"])
    assert (model.spent.asked, model.spent.failed) == (1, 1)
    server.behave = echo
    again = opened(server, "calls=2&patience=0")
    assert again.generate([RED] * 2, ["bad", "slow"]) == ["says bad", "says slow"]
    assert (again.spent.looked_up, again.spent.asked) == (1, 1)


def test_a_real_pause_ends_when_nobody_waits(server: Server, cache: Path) -> None:
    server.behave = lambda number, body: (429, {"Retry-After": "30"}, b"") if number else (401, {}, b"wrong key")
    began = time.monotonic()
    model = opened(server, "calls=9")
    held = threading.Event()

    def refuse_later(number: int, body: Any) -> Any:
        if number < 8:
            held.wait(5)
            return 401, {}, b"wrong key"
        held.set()
        return 429, {"Retry-After": "30"}, b""

    server.behave = refuse_later
    with pytest.raises(RunError, match=f"{SILENT} questions in a row failed, the last with refused: HTTP 401 'wrong key'"):
        model.generate([RED] * 9, [str(n) for n in range(9)])
    assert time.monotonic() - began < 20


def test_one_refused_question_costs_itself(server: Server, cache: Path) -> None:
    server.behave = lambda number, body: (400, {}, b"not this one") if "bad" in str(body["messages"]) else echo(number, body)
    model = opened(server)
    found = model.replies([RED] * 3, ["good", "bad", "fine"])
    assert [(one.text, one.fault) for one in found] == [
        ("says good", ""),
        ("", "refused: HTTP 400 'not this one'"),
        ("says fine", ""),
    ]
    assert model.spent.failed == 1
    with pytest.raises(RunError, match=r"has not answered 1 of 2 questions, the first of them number 0: refused: HTTP 400"):
        model.generate([RED] * 2, ["bad", "good"])
    assert len(server.asked) == 4, "only the fault is asked again"


def test_a_question_that_a_server_breaks_at_costs_itself(server: Server, cache: Path, slept: list[float]) -> None:
    server.behave = lambda number, body: (500, {}, b"oops") if "bad" in str(body["messages"]) else echo(number, body)
    found = opened(server, "calls=1&patience=0").replies([RED] * 4, ["good", "bad", "fine", "well"])
    assert [one.text for one in found] == ["says good", "", "says fine", "says well"]
    assert found[1].fault == "refused: HTTP 500 'oops'"


def test_one_that_takes_too_long_does_where_others_are_answered(server: Server, cache: Path, slept: list[float]) -> None:
    late = threading.Event()

    def slow(number: int, body: Any) -> Any:
        if "bad" in str(body["messages"]):
            late.wait(10)
        return echo(number, body)

    server.behave = slow
    found = opened(server, "calls=2&patience=0&timeout=1").replies([RED] * 3, ["bad", "fine", "well"])
    late.set()
    assert [one.text for one in found] == ["", "says fine", "says well"]
    assert found[0].fault == "timeout: nothing within 1 s"


NONSENSE = [
    (b"<!doctype html><html>Welcome</html>", "malformed: no choice with a text in '<!doctype html>"),
    (b'{"choices": []}', "malformed: no choice"),
    (b'{"choices": [{"text": "not a chat"}]}', "malformed: no choice"),
    (b'{"choices": [{"message": {"content": ["a"]}}]}', "malformed: the text is list"),
    (b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}', "malformed: the text is NoneType"),
    (b"\xff\xfe\x00", "malformed: no choice"),
    (b"[" * 10_000, "malformed: no choice"),
    (b" " * (LARGEST + 2), "malformed: more than"),
]


@pytest.mark.parametrize(("body", "fault"), NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_no_answer(server: Server, cache: Path, body: bytes, fault: str) -> None:
    server.behave = lambda number, asked: (200, {}, body)
    with pytest.raises(RunError, match="does not answer") as caught:
        opened(server).replies([RED], ["a"])
    assert fault in str(caught.value)
    assert len(server.asked) == 1, "nonsense does not pass"
    server.behave = lambda number, asked: (200, {}, body) if number == 1 else echo(number, asked)
    first, second = opened(server, "calls=1").replies([RED] * 2, ["a", "b"])
    assert (first.text, second.text) == ("", "says b")
    assert first.fault.startswith(fault)
    with AnswerCache() as known:
        assert len(known) == 1, "faults are not kept"


def test_a_refusal_in_words_is_an_answer(server: Server, cache: Path) -> None:
    server.behave = lambda number, body: (200, {}, b'{"choices": [{"message": {"content": null, "refusal": "I cannot say"}}]}')
    assert opened(server).generate(RED, "who is it?") == "I cannot say"


def test_a_key_that_a_server_repeats_is_struck_out(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-123")
    server.behave = lambda number, body: (401, {}, b"Incorrect API key provided: sk-123")
    with pytest.raises(RunError, match=r"Incorrect API key provided: \*\*\*"):
        opened(server, "key=OTHER_KEY").generate(RED, "a")
    assert server.headers[0]["Authorization"] == "Bearer sk-123"


def test_what_is_sent_to_models_with_other_wishes(server: Server, cache: Path) -> None:
    server.behave = echo
    opened(server, "temperature=-1&limit=max_completion_tokens").generate(RED, "a")
    assert "temperature" not in server.asked[0]
    assert "max_tokens" not in server.asked[0]
    assert server.asked[0]["max_completion_tokens"] == 64


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("openai:http://h/v1", ConfigError, "does not name a model"),
        ("openai:ftp://h/v1#m", ConfigError, "expected http://HOST:PORT/v1#MODEL"),
        ("openai:http://me:pw@h/v1#m", ConfigError, "holds a password"),
        ("openai:http://h/v1#m?call=3", UnknownName, "did you mean 'calls'"),
        ("openai:http://h/v1#m?calls=many", ConfigError, "calls is 'many' in the address"),
        ("openai:http://h/v1#m?calls=0", ConfigError, "calls 0"),
        ("openai:http://h/v1#m?cache=maybe", ConfigError, r"cache is 'maybe' in the address \(expected on | off\)"),
        ("openai:http://h/v1#m?limit=words", ConfigError, "limit is 'words'"),
        ("openai:http://h/v1#m?timeout=nan", ConfigError, "timeout nan"),
    ],
)
def test_addresses_that_cannot_work(address: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        dp.load(address)


def test_the_command_asks(server: Server, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.cli import main

    server.behave = echo
    Image.fromarray(RED.pixels_HWC).save(tmp_path / "red.png")
    assert main(["ask", f"openai:{server.address}#tiny", str(tmp_path / "red.png"), "colour?"]) == 0
    assert capsys.readouterr().out == "says colour?\n"


def test_a_dead_port_says_so(cache: Path) -> None:
    model = ChatModel.open("openai:http://127.0.0.1:9/v1#tiny?patience=0&timeout=1")
    with pytest.raises(RunError, match=r"does not answer: unreachable: .* run the same command again"):
        model.generate(RED, "a")


def test_a_prompt_of_text_alone_is_sent_without_a_picture(server: Server, cache: Path) -> None:
    server.behave = echo
    model = opened(server)
    asked: Any = ["one?", (TextPart("two?"),), Dialogue((Turn("user", (TextPart("three?"),)),))]
    assert model.generate([None] * 3, asked) == ["says one?", "says two?", "says three?"]
    assert sorted(sent["messages"][0]["content"] for sent in server.asked) == ["one?", "three?", "two?"]
    with pytest.raises(DataError, match="picture 0 of 0"):
        model.generate([None], [(ImagePart(), TextPart("four?"))])
