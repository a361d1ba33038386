"""A small language model with a bridge, asked here and through our own /v1/chat/completions: the same answers, and nothing twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import diptych
from diptych.data.text.tokenize import Tokenizer
from diptych.models.bridges.language_model import LanguageModel
from diptych.recipes.bridges.limber import LiMBeR
from diptych.serve.app import create_app
from diptych.tasks.choice.multiple_choice import MultipleChoice
from diptych.worlds.scenes.questions import questions

from .conftest import listening

DATA = questions(8, seed=0)


@pytest.fixture(scope="module")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two steps of a map into a language model with fresh weights: it answers, if not well."""
    folder = tmp_path_factory.mktemp("language")
    words = [one["question"] + one["answer"] for row in range(len(DATA)) for one in DATA[row].extras["questions"]]
    tokenizer = Tokenizer.train([*words, "Answer with the option's letter from the given choices directly. A. B. C. D."], 400)
    tokenizer.save(folder)
    torch.manual_seed(0)
    sizes = {
        "model_type": "gpt2",
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 2,
        "vocab_size": tokenizer.vocab_size,
        "n_positions": 256,
    }
    LanguageModel(config={**sizes, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}).inner.save_pretrained(folder)
    small = replace(LiMBeR.tiny(), image_tower="vit_micro", image_size=48, batch_size=8, steps=2, language_model=f"hf:{folder}")
    run = diptych.train(small, data=questions(16, seed=1), out=folder / "run", seed=0)
    return diptych.load(run.path)


def test_here_and_over_http_it_says_the_same(bridged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path))
    task = MultipleChoice(orders=2, draws=20, max_tokens=4)
    here = task.predict(bridged, DATA)
    with listening(create_app(bridged)) as address:
        served: Any = diptych.load(f"openai:{address}/v1#{bridged.name}?calls=4")
        there = task.predict(served, DATA)
        for column in ("case", "order", "reply", "fault", "blind_reply"):
            assert here.column(column).to_pylist() == there.column(column).to_pylist()
        assert any(here.column("reply").to_pylist()), "it says something"
        assert served.spent.looked_up == 0 < served.spent.asked
        assert served.spent.written_tokens > 0
        again: Any = diptych.load(f"openai:{address}/v1#{bridged.name}")
    assert task.predict(again, DATA).column("reply").to_pylist() == here.column("reply").to_pylist(), "the server is gone"
    assert again.spent.asked == 0
    assert task.score(here).metrics["accuracy"].value == task.score(there).metrics["accuracy"].value
