"""Text while it is written: the pieces are the text, letters stay whole, and who wants no more gets no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.core.contracts import Streamer
from diptych.core.errors import ConfigError, DataError
from diptych.core.prompt import Dialogue, ImagePart, TextPart, Turn
from diptych.models.io.streaming import TextPieceStreamer

from ..bridges.test_bridge import writer
from .test_foreign_generators import FAMILIES, images, llava

CHAT = (
    "{% for turn in messages %}{{ turn['role'] }} {% for part in turn['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}yes"
)


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5", *FAMILIES])
def model(request: Any, tmp_path_factory: Any) -> Any:
    torch.manual_seed(0)
    if request.param not in FAMILIES:
        return writer(request.param)
    folder: Path = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return diptych.load(f"hf:{folder}")


def test_the_pieces_are_the_text(model: Any) -> None:
    assert isinstance(model, Streamer)
    heard: list[str] = []
    found = model.stream(images(1)[0], "what colour is it ?", max_tokens=12, on_text=lambda piece: heard.append(piece) or True)
    (whole,) = model.generate(images(1), ["what colour is it ?"], max_tokens=12)
    assert "".join(heard) == found.text == whole
    assert whole, "a model that writes nothing shows nothing"
    assert found.new_tokens <= 12
    assert found.finished == (found.new_tokens < 12)
    assert found.prompt_tokens > 0


def test_it_stops_when_nobody_listens(model: Any) -> None:
    heard: list[str] = []
    found = model.stream(images(1)[0], "what colour is it ?", max_tokens=20, on_text=lambda piece: bool(heard.append(piece)))
    assert len(heard) == 1
    assert found.text == heard[0]
    assert found.new_tokens < 20
    assert not found.finished


def test_drawn_text_depends_on_its_seed_alone(model: Any) -> None:
    def drawn(seed: int) -> str:
        options = {"temperature": 1.5, "top_p": 0.95, "seed": seed}
        text: str = model.stream(images(1)[0], "a red circle", max_tokens=12, on_text=lambda piece: True, **options).text
        return text

    one = drawn(1)
    torch.rand(3)  # whatever else is drawn in this process
    assert drawn(1) == one
    assert len({drawn(seed) for seed in range(4)}) > 1
    before = torch.random.get_rng_state()
    drawn(2)
    assert torch.equal(before, torch.random.get_rng_state()), "the state of the process is left as it was"


def test_a_tiny_temperature_writes_the_likeliest(model: Any) -> None:
    found = model.stream(images(1)[0], "green", max_tokens=8, on_text=lambda piece: True, temperature=1e-4, seed=3)
    assert found.text == model.generate(images(1), ["green"], max_tokens=8)[0]


def fed(texts: list[str], **options: Any) -> list[str]:
    """Pieces, where the text after n tokens is texts[n - 1]."""
    heard: list[str] = []
    pieces = TextPieceStreamer(lambda ids: texts[len(ids) - 1], {9}, lambda piece: heard.append(piece) or True, **options)
    pieces.put(torch.tensor([[5, 5, 5]]))
    for _ in texts:
        pieces.put(torch.tensor([4]))
    pieces.end()
    return heard


def test_letters_and_words_stay_whole() -> None:
    assert fed(["a", "a caf\ufffd", "a café", "a café"]) == ["a", " caf", "é"]
    assert fed(["a", "a", "a b"]) == ["a", " b"], "white space comes with the word behind it"
    assert fed(["it", "it '", "it's", "it's so"], changes=True) == ["it", "'s", " so"]
    assert fed(["broken \ufffd"]) == ["broken", " \ufffd"], "what stays broken is given at the end, as `generate` gives it"


@pytest.fixture(scope="module")
def chat(tmp_path_factory: Any) -> Any:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("chat")
    llava(folder)
    (folder / "chat_template.jinja").write_text(CHAT)
    return diptych.load(f"hf:{folder}")


def test_a_chat_template_gets_dialogues_and_several_pictures(chat: Any) -> None:
    one, two = images(2)
    dialogue = Dialogue(
        (
            Turn("system", (TextPart("yes no"),)),
            Turn("user", (TextPart("what colour is "), ImagePart(0), TextPart(" or "), ImagePart(source=two), TextPart("?"))),
            Turn("assistant", (TextPart("red"),)),
            Turn("user", (TextPart("a blue square ?"),)),
        )
    )
    row = chat._row(one, dialogue)
    assert row.text == ("system yes no user what colour is <image> or <image>? assistant red user a blue square ? yes")
    assert [picture.tobytes() for picture in row.pictures] == [source.pixels_HWC.tobytes() for source in (one, two)]
    alone = [chat.generate([image], [asked], max_tokens=5)[0] for image, asked in ((one, dialogue), (two, "green ?"))]
    assert chat.generate([one, two], [dialogue, "green ?"], max_tokens=5) == alone
    assert chat._row(one, "").text == "user <image>Describe this image. yes"
    assert chat._row(one, (TextPart("green ?"),)).text == "user <image>green ? yes", "the picture of the request stands first"


def test_what_cannot_be_asked_is_said_in_one_line(chat: Any) -> None:
    (one,) = images(1)
    answered = Dialogue((Turn("user", (TextPart("what ?"),)), Turn("assistant", (TextPart("red"),))))
    for asked, said in ((answered, "the last turn is the assistant's"), ((ImagePart(3),), "picture 3 of 1 is requested")):
        with pytest.raises(DataError, match=said):
            chat.generate([one], [asked])
    with pytest.raises(ConfigError, match=r"take \d+ of the 64 tokens of .*60 tokens more do not fit"):
        chat.generate([one], ["what colour is it ?"], max_tokens=60)
    with pytest.raises(ConfigError, match="do not fit"):
        diptych.ask(chat, one, "what colour ?", choices=["red", "a blue square " * 30])


def test_the_q_former_says_when_a_prompt_is_too_long_for_it(tmp_path: Path) -> None:
    FAMILIES["instructblip"](tmp_path)
    model: Any = diptych.load(f"hf:{tmp_path}")
    model.model.config.qformer_config.max_position_embeddings = 4
    with pytest.raises(ConfigError, match=r"of which the Q-Former of .* reads 4"):
        model.generate(images(1), ["what colour is it ? a red circle"], max_tokens=2)
