"""Pairs of answers in the layouts of trl, LLaVA-RLHF, RLAIF-V and STIC, as samples and as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.core.errors import DataError
from diptych.core.sample import Sample
from diptych.data.text.question_answering.preferences import PreferencePair, has_preference, preference_of
from diptych.worlds.address import open_data


def user(text: Any) -> dict[str, Any]:
    return {"role": "user", "content": text}


def model(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


PARTS = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
PLAIN = PreferencePair("What is it?", "A cup.", "Two cups.")
TURNS = PreferencePair("Is it red?", "Yes.", "No.", turns=(("What is it?", "A cup."),))
LAYOUTS = {
    "own": (PLAIN, {"preference": PLAIN.to_json()}),
    "own with reference": (
        PreferencePair("What is it?", "A cup.", "Two cups.", reference_chosen=-1.5, reference_rejected=-2.0),
        {"preference": {**PLAIN.to_json(), "reference_chosen": -1.5, "reference_rejected": -2.0}},
    ),
    "trl, texts": (PLAIN, {"prompt": "What is it?", "chosen": "A cup.", "rejected": "Two cups."}),
    "trl, one text each": (PLAIN, {"chosen": "What is it? A cup.", "rejected": "What is it? Two cups."}),
    "trl, messages": (PLAIN, {"prompt": [user(PARTS)], "chosen": [model("A cup.")], "rejected": [model("Two cups.")]}),
    "trl, whole dialogues": (
        TURNS,
        {
            "chosen": [user("What is it?"), model("A cup."), user("Is it red?"), model("Yes.")],
            "rejected": [user("What is it?"), model("A cup."), user("Is it red?"), model("No.")],
        },
    ),
    "STIC": (PLAIN, {"chosen": [user("What is it?"), model("A cup.")], "rejected": [user("What is it?"), model("Two cups.")]}),
    "RLAIF-V": (
        PreferencePair("What is it?", "A cup.", "Two cups.", reference_chosen=-3.0, reference_rejected=-7.0),
        {
            "question": "What is it?",
            "chosen": "A cup.",
            "rejected": "Two cups.",
            "logps": json.dumps([-3.0, -1.0, [], -7.0, -2.0, []]),
        },
    ),
    "LLaVA-RLHF": (
        TURNS,
        {
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is it?"},
                {"from": "gpt", "value": "A cup."},
                {"from": "human", "value": "Is it red?"},
                {"from": "gpt", "value": "whatever"},
            ],
            "output_1": {"from": "llava", "value": "No."},
            "output_2": {"from": "llava", "value": "Yes."},
            "preference": 2,
        },
    ),
}


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_pair_is_read_from_each_layout(layout: str) -> None:
    expected, extras = LAYOUTS[layout]
    assert has_preference(Sample("a", extras=extras))
    assert preference_of(Sample("a", extras=extras)) == expected


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if not name.startswith("own")])
def test_a_file_of_pairs_is_a_data_set(layout: str, tmp_path: Path) -> None:
    expected, row = LAYOUTS[layout]
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png")
    (tmp_path / "pairs.json").write_text(json.dumps([{"image": "a.png", **row}]), encoding="utf-8")
    data = open_data(str(tmp_path / "pairs.json"))
    assert preference_of(data[0]) == expected
    assert data[0].image is not None


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({}, "no pair of answers"),
        ({"preference": {"question": "a", "chosen": " ", "rejected": "b"}}, "empty answer"),
        ({"question": "a", "chosen": "b", "rejected": "c", "logps": [1.0]}, "six values"),
        ({"preference": {"question": "a", "chosen": "b", "rejected": "c", "reference_chosen": float("nan")}}, "nats"),
        ({"conversations": [], "output_1": "a", "output_2": "b", "preference": 1}, "turns"),
        (
            {
                "conversations": [{"from": "human", "value": "a"}, {"from": "gpt"}],
                "output_1": "a",
                "output_2": "b",
                "preference": 3,
            },
            "1 or 2",
        ),
    ],
)
def test_what_is_no_pair_is_named(extras: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        preference_of(Sample("a", extras=extras))
    assert "sample 'a'" in str(error.value)
