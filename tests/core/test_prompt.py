"""Prompts are parts, dialogues are turns: what is refused, what is stored, and what a model of words may leave out (nothing)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.core.prompt import (
    Dialogue,
    ImagePart,
    MediaPart,
    RegionPart,
    TextPart,
    Turn,
    as_dialogue,
    as_prompt,
    dialogue_from_json,
    dialogue_to_json,
    prompt_from_json,
    prompt_to_json,
    single_image_requests,
    text_of_single_image_prompt,
)

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
places = st.integers(0, 5)
boxes = st.tuples(*[st.floats(0, 9)] * 2, *[st.floats(10, 99)] * 2)
parts = st.one_of(
    st.builds(TextPart, words),
    st.builds(ImagePart, places),
    st.builds(MediaPart, words),
    st.builds(RegionPart, boxes, places, words),
)
prompts = st.lists(parts, max_size=5).map(tuple)


@st.composite
def dialogues(draw: Any) -> Dialogue:
    system = [Turn("system", draw(prompts))] if draw(st.booleans()) else []
    rest = [Turn(("user", "assistant")[n % 2], draw(prompts)) for n in range(draw(st.integers(1, 5)))]
    return Dialogue((*system, *rest))


@given(dialogues())
def test_dialogues_survive_json(dialogue: Dialogue) -> None:
    assert dialogue_from_json(json.loads(json.dumps(dialogue_to_json(dialogue)))) == dialogue
    assert dialogue.awaits_answer == (dialogue.turns[-1].role == "user")


@given(prompts)
def test_prompts_survive_json(prompt: tuple[Any, ...]) -> None:
    assert prompt_from_json(json.loads(json.dumps(prompt_to_json(prompt)))) == prompt


def test_a_string_is_about_its_picture() -> None:
    assert as_prompt("a") == (ImagePart(), TextPart("a"))
    assert as_prompt("") == (ImagePart(),)
    assert as_prompt([TextPart("a")]) == (TextPart("a"),)
    assert as_dialogue("a").turns == (Turn("user", (ImagePart(), TextPart("a"))),)
    assert dialogue_from_json([{"role": "user", "content": "hello"}]).turns[0].text == "hello"


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (["assistant"], "turn 0 is of 'assistant'"),
        (["user", "user"], "turn 1 is of 'user'"),
        (["system", "assistant"], "turn 1 is of 'assistant'"),
        (["user", "system"], "turn 1 is of 'system'"),
        (["system", "user", "assistant", "assistant"], "turn 3 is of 'assistant'"),
        ([], "without turns"),
        (["human"], "unknown role 'human'"),
    ],
)
def test_turns_out_of_order_are_refused(roles: list[str], says: str) -> None:
    with pytest.raises(DataError, match=says):
        dialogue_from_json([{"role": role, "content": "x"} for role in roles])


@pytest.mark.parametrize(
    "part",
    [
        {"type": "picture"},
        {"type": "text"},
        {"type": "text", "text": 3},
        {"type": "image", "place": "first"},
        {"type": "image", "place": -1},
        {"type": "region", "box": [1, 2, 3]},
        {"type": "region", "box": [5, 5, 5, 9]},
        "text",
    ],
)
def test_parts_that_are_wrong_are_refused(part: Any) -> None:
    with pytest.raises(DataError):
        prompt_from_json([part])


def test_what_cannot_be_stored_is_refused() -> None:
    source = BytesImage(b"x")
    for part in (ImagePart(source=source), MediaPart("clip", MediaItem("clip", (source,)))):
        with pytest.raises(DataError, match="cannot be stored"):
            prompt_to_json((part,))


def test_a_model_of_words_leaves_nothing_out_in_silence() -> None:
    same = ["a red", (TextPart("a "), TextPart("red")), (ImagePart(), TextPart("a red")), as_dialogue("a red")]
    assert {text_of_single_image_prompt(asked, model="m") for asked in same} == {"a red"}
    others = [
        (TextPart("a"), ImagePart()),
        (ImagePart(1), TextPart("a")),
        (ImagePart(source=BytesImage(b"x")),),
        (RegionPart((0, 0, 1, 1)),),
        (MediaPart("clip"),),
        Dialogue((Turn("system", (TextPart("be brief"),)), Turn("user", (TextPart("a"),)))),
    ]
    for asked in others:
        with pytest.raises(DataError, match="'m'"):
            text_of_single_image_prompt(asked, model="m")


def test_requests_of_models_that_read_one_image_have_one_each() -> None:
    image = BytesImage(b"x", "x.png")
    assert single_image_requests([image], [(ImagePart(), TextPart("a cup"))], model="m") == [(image, "a cup")]
    with pytest.raises(ConfigError, match=r"2 prompts for 1 images \(expected one an image\)"):
        single_image_requests([image], ["a", "b"], model="m")
    with pytest.raises(DataError, match="'m' does not read prompts without a picture"):
        single_image_requests([None], ["a"], model="m")
