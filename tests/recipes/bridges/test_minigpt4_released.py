"""MiniGPT-4's rows against those that its released code makes of the same texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.contracts import Draw, Draws
from diptych.core.sample import Origin, Sample, Text
from diptych.data.text.prompts.layout import lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageVocabulary
from diptych.recipes._shared.language.two_stage_captions import REQUESTS
from diptych.recipes.bridges.minigpt4 import MiniGPT4

RELEASED_ROWS = json.loads((Path(__file__).parent / "fixtures" / "minigpt4_rows.json").read_text(encoding="utf-8"))
"""Ids, with -1, -2, -3 for a picture's three tokens, and labels, of `MiniGPTBase.forward` at d94738a7, whose embeddings were ids."""
SAID = [
    "A dog (brown) on a sofa! It looks at us.",
    "a cat",
    "",
    "Two red squares: one above, one below; both small. " * 9,
    "###",
    "a\nb",
]


def differing(made: MiniGPT4, samples: list[Sample], released: list[Any], monkeypatch: Any) -> int:
    """How many rows of these samples have other ids or labels than the released ones."""
    tokenizer = Tokenizer.train([*SAID, *REQUESTS, "###Human: <Img>", "</Img> ", " ###Assistant: "] * 3, 400)
    words = LanguageVocabulary(tokenizer, start=True)
    monkeypatch.setattr(MiniGPT4, "words", lambda self: words)
    found: list[Any] = []
    monkeypatch.setattr(MiniGPT4, "laid", lambda self, draws, rows: found.extend(rows))
    draws = Draws(tuple(Draw(sample, np.random.default_rng(0)) for sample in samples), np.random.default_rng(0))
    with pytest.raises((TypeError, AttributeError)):  # no batch comes back
        made.batch(draws)
    layout, wrong = lay_out(found, words, length=made.text_length), 0
    rows = zip(layout.id_BL, layout.slot_BL, layout.mask_BL, layout.answer_BL, released, strict=True)
    for ids, slots, mask, answer, (theirs, labels) in rows:
        wrong += torch.where(slots, -slots.long().cumsum(0), ids)[mask].tolist() != theirs
        wrong += torch.where(answer, ids, -100)[mask].tolist() != labels
    return wrong


@pytest.mark.parametrize(("stage", "asked", "most"), [("first", 0, 32), ("second", 1, 160), ("alone", 0, 5)])
def test_rows_are_those_of_the_released_code(stage: str, asked: int, most: int, monkeypatch: Any, parity: Any) -> None:
    """Both stages, with an empty caption, one that is the sign, long ones that lose it, and a batch of one that is cut."""
    made = replace(MiniGPT4.paper(), clean=False, slots=3, requests=(REQUESTS[asked],), second=stage != "first")
    made = replace(made, answer_length=most, second_answer_length=most)
    origin: Origin = "synthetic" if made.second else "alt"
    texts = SAID[3:4] if stage == "alone" else SAID
    samples = [Sample(str(n), texts=(Text(text, "en", origin),)) for n, text in enumerate(texts)]
    wrong = differing(made, samples, RELEASED_ROWS[stage], monkeypatch)
    what = "rows and labels of both stages"
    parity("minigpt4", what, "MiniGPTBase.forward at d94738a7", [(np.array(wrong), np.array(0))], tolerance=0)


TURNS = [
    [("What is it?", "a cat"), ("Is it red?", "A dog (brown) on a sofa! It looks at us."), ("And small?", "no")],
    [("What is it?", "Two red squares: one above, one below; both small. " * 2)],
    [("Is it red?", "no"), ("And small?", "yes, small")],
]


@pytest.mark.parametrize(("stage", "most"), [("turns", 160), ("cut", 20)])
def test_conversations_are_those_of_the_released_code(stage: str, most: int, monkeypatch: Any, parity: Any) -> None:
    """Every answer is learned, no question; a later one begins with a start mark of its own; all is cut together."""
    made = replace(MiniGPT4.paper(), slots=3, second=True, turns=True, second_answer_length=most)
    rows = [[{"question": question, "answer": answer} for question, answer in turns] for turns in TURNS]
    samples = [Sample(str(n), extras={"questions": row}) for n, row in enumerate(rows)]
    assert all(map(made.has_detailed, samples))
    wrong = differing(made, samples, RELEASED_ROWS[stage], monkeypatch)
    against = "MiniGPTBase.forward at d94738a7"
    parity("minigpt4", "rows and labels of conversations", against, [(np.array(wrong), np.array(0))], tolerance=0)
