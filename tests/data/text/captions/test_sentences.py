"""Where sentences end, and what is never lost on the way."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.data.text.captions.sentences import sentences

CASES = {
    "A dog runs. A cat sleeps.": ["A dog runs.", "A cat sleeps."],
    "a dog runs. a cat sleeps": ["a dog runs.", "a cat sleeps"],
    "Fruit, e.g. apples, i.e. food. Red.": ["Fruit, e.g. apples, i.e. food.", "Red."],
    "It is 3.5 m tall. Version 2.0 is out.": ["It is 3.5 m tall.", "Version 2.0 is out."],
    "Dr. Smith meets Mr. Jones vs. St. Paul. They talk.": ["Dr. Smith meets Mr. Jones vs. St. Paul.", "They talk."],
    "See fig. 2 and no. 5. No. It is not.": ["See fig. 2 and no. 5.", "No.", "It is not."],
    "A book by J. R. Tolkien. It is old.": ["A book by J. R. Tolkien.", "It is old."],
    "He is in the U.S. Army. She left the U.S. The end.": ["He is in the U.S. Army.", "She left the U.S.", "The end."],
    "Cups, plates, etc. on a table. Acme Inc. sells them.": ["Cups, plates, etc. on a table.", "Acme Inc. sells them."],
    "one\ntwo\r\nthree</s>four<s>five": ["one", "two", "three", "four", "five"],
    "What? No way! Yes… and no. Well... maybe. Hm... Fine.": [
        "What?",
        "No way!",
        "Yes… and no.",
        "Well... maybe.",
        "Hm...",
        "Fine.",
    ],
    'He said "stop." Then (at last.) it did.': ['He said "stop."', "Then (at last.)", "it did."],
    "一只猫。它很红！好": ["一只猫。", "它很红！", "好"],
    "see www.example.com. ok": ["see www.example.com.", "ok"],
    "...\n - \n\t": [],
    "": [],
}


@pytest.mark.parametrize("text", CASES)
def test_ends(text: str) -> None:
    assert list(sentences(text)) == CASES[text]


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('aB3 .!?…。\n"(e.g. U.S. etc. '), max_size=60))
def test_no_letter_is_lost_moved_or_doubled(text: str) -> None:
    found = sentences(text)
    letters = re.compile(r"\W")
    assert letters.sub("", "".join(found)) == letters.sub("", text)
    assert all(piece == " ".join(piece.split()) and re.search(r"\w", piece) for piece in found)
