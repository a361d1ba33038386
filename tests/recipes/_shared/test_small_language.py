"""The small language model of bridges: what it learns from, that it is made once, and the same for everybody."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diptych
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.data.text.prompts.layout import TextPiece, lay_out
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.answers import answer_nll
from diptych.models.bridges.language_model import LanguageModel, LanguageVocabulary
from diptych.recipes._shared import small_encoder
from diptych.recipes._shared.language import small_language as language
from diptych.recipes._shared.language.small_language import LanguageExamples, SmallLanguage, shuffle_phrases, small_language
from diptych.recipes.bridges.limber import LiMBeR
from diptych.worlds.resolve import resolve
from diptych.worlds.scenes.questions import questions

DATA = questions(24, seed=0)
FEW = SmallLanguage(steps=2, batch_size=4)


def test_phrases_before_a_text_are_its_own_in_another_order() -> None:
    rng = np.random.default_rng(0)
    text = "a red circle left of a blue square"
    drawn = [shuffle_phrases(text, rng, most=99) for _ in range(400)]
    full = [words for words in drawn if words]
    assert set(full) == {"red circle left blue square", "blue square red circle left"}
    assert 0.1 < 1 - len(full) / len(drawn) < 0.2
    assert len(shuffle_phrases(text, rng, most=3, alone=0).split()) == 3


def test_what_stands_before_announces_what_is_learned() -> None:
    (row,) = language._examples(DATA.select([0]), "en")
    told = set()
    for number in range(100):
        pieces = [piece for piece in language._sample_text(row, keyed_rng(number), 99) if isinstance(piece, TextPiece)]
        turns = [(asked.text.strip(), given.text.strip()) for asked, given in pairwise(pieces) if given.answer]
        if any(asked == question.text for asked, _ in turns for question in row.questions):
            found = [(asked, given) for asked, given in turns if asked.endswith("?")]
            assert sorted(found) == sorted((question.text, question.answer) for question in row.questions)
        else:
            assert pieces[-1].text.strip() == row.texts[0]
            told |= set(pieces[0].text.split()) if len(pieces) > 1 else set()
    assert told - {":"} == set(row.texts[0].split()) - language.SMALL_WORDS


def test_it_is_made_once_and_everybody_finds_the_same(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "one"))
    folder = small_language("", DATA, FEW)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    state = torch.get_rng_state()
    assert small_language("", DATA, FEW) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    assert small_language("", DATA, replace(FEW, steps=3)) != folder
    assert small_language("world:questions?n=24", questions(8, seed=5), FEW) == small_language(
        "", resolve("world:questions?n=24").split("train"), FEW
    )
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "other"))
    torch.set_default_dtype(torch.float64)
    try:
        again = small_language("", DATA, FEW)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.usefixtures("learned_small_models")
def test_a_few_rows_are_not_read_a_thousand_times(monkeypatch: Any, tmp_path: Path) -> None:
    """More steps than a hundred passes take give the same model, of language and of images."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    taken: list[int] = []
    monkeypatch.setattr(language, "_train", lambda rows, settings, name: taken.append(settings.steps) or (lambda folder: None))
    monkeypatch.setattr(small_encoder, "_train", lambda rows, recipe, seed: taken.append(recipe.steps) or (lambda folder: None))
    few = DATA.select(range(8))
    folders = {small_language("", few, SmallLanguage(steps=steps)) for steps in (25, 26, 2500)}
    encoders = {small_encoder.small_encoder("", few, steps=steps, language="en") for steps in (12, 13, 400)}
    assert (len(folders), len(encoders), taken) == (1, 2, [25, 12, 13])


@pytest.mark.usefixtures("learned_small_models")
def test_it_learns_to_heed_what_stands_before(monkeypatch: Any, tmp_path: Path) -> None:
    """Trained on two texts, it writes the one whose phrases it read."""
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    texts = ("a red circle", "a blue square")
    monkeypatch.setattr(language, "_examples", lambda *_: [LanguageExamples((text,), ()) for text in texts])
    folder = small_language("", DATA, SmallLanguage(steps=40, batch_size=8))
    model, words = LanguageModel.from_folder(folder), LanguageVocabulary(Tokenizer.load(folder))
    rows = [[TextPiece(before), TextPiece(" " + text, answer=True)] for before in ("red circle", "blue square") for text in texts]
    layout = lay_out(rows, words)
    with torch.no_grad():
        nll_B, _ = answer_nll(*model.answers(model.embed(layout.id_BL), layout), rows=4)
    right, wrong = nll_B[[0, 3]], nll_B[[1, 2]]
    assert bool((right + 0.5 < wrong).all())


def test_a_run_carries_it_along_and_says_when_it_is_gone(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    small = replace(LiMBeR.tiny(), image_tower="vit_micro", image_size=48, batch_size=8, steps=2, small_steps=2)
    prepared = small.prepare(DATA)
    assert prepared.model().still == ("encoder", "language")
    run = diptych.train(small, data=DATA, out=tmp_path / "run", seed=0)
    before = diptych.load(run.path).generate([DATA[0].image], [""], max_tokens=4)
    for file in Path(prepared.language_folder).iterdir():
        file.unlink()
    assert diptych.load(run.path).generate([DATA[0].image], [""], max_tokens=4) == before
    with pytest.raises(ConfigError, match="language model is no longer in"):
        prepared.model()


def test_texts_that_do_not_fit_say_what_is_needed() -> None:
    with pytest.raises(
        ConfigError,
        match=r"does not fit into the small language model: row 0: the prompt takes .* \(expected more --pieces than 512",
    ):
        small_language("", DATA, replace(FEW, length=4))


def test_data_without_texts_say_what_is_needed() -> None:
    with pytest.raises(DataError, match="no text in language 'de' to learn from"):
        small_language("", DATA, replace(FEW, language="de"))
    with pytest.raises(ConfigError, match="call prepare"):
        LiMBeR.tiny().words()
