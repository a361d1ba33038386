"""A local language model: its draws, its seeds, what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from diptych.core.errors import ConfigError, DataError, MissingExtra
from diptych.curate.writing.backend_address import BackendOptions, open_backend
from diptych.curate.writing.backends.gguf import GGUF
from diptych.curate.writing.backends.language_folder import LanguageFolder
from diptych.curate.writing.requests import Sampling, TextRequest
from diptych.curate.writing.sampling import nucleus, sample_index

SHORT = Sampling(max_tokens=12, stop=())


def requests(count: int = 6) -> list[TextRequest]:
    prompts = ["a red bus", "a tree next to a dog =>", "bus"]
    return [TextRequest(str(n), prompts[n % 3], seed=n) for n in range(count)]


@pytest.mark.parametrize("kind", ["decoder_folder", "seq2seq_folder"])
def test_an_answer_is_the_requests_own(kind: str, request: pytest.FixtureRequest) -> None:
    backend = LanguageFolder(str(request.getfixturevalue(kind)), SHORT)
    together = backend.write(requests())
    alone = [backend.write([one])[0] for one in requests()]
    assert together == alone
    assert backend.write(requests()[::-1]) == together[::-1]
    other = backend.write([TextRequest("x", "a red bus", seed=99)])[0]
    assert other.text != together[0].text, "another seed draws otherwise"
    assert together[0].text != together[3].text, "the same prompt under two seeds"


@pytest.mark.parametrize("kind", ["decoder_folder", "seq2seq_folder"])
def test_without_temperature_it_is_transformers_greedy_search(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    backend = LanguageFolder(str(folder), Sampling(temperature=0.0, max_tokens=10, stop=()))
    found = backend.write(requests(3))
    auto = transformers.AutoModelForSeq2SeqLM if kind.startswith("seq") else transformers.AutoModelForCausalLM
    model = auto.from_pretrained(folder).eval()
    for asked, answer in zip(requests(3), found, strict=True):
        ids = torch.tensor([backend._ids(asked.prompt)])
        theirs = model.generate(ids, max_new_tokens=10, do_sample=False, eos_token_id=backend.vocabulary.end_id, pad_token_id=0)
        skipped = 1 if kind.startswith("seq") else ids.shape[1]
        assert answer.text == backend.vocabulary.decode(theirs[0, skipped:].tolist())
        assert answer.prompt_tokens == ids.shape[1]


def test_the_nucleus_is_that_of_transformers(parity: Any) -> None:
    """Temperature, then the smallest set that reaches top_p."""
    logit_BV = torch.randn(5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    pairs = []
    for temperature, top_p in ((0.9, 0.95), (0.5, 0.6), (2.0, 0.99), (1.0, 0.05)):
        theirs = transformers.TopPLogitsWarper(top_p)(None, transformers.TemperatureLogitsWarper(temperature)(None, logit_BV))
        pairs.append((torch.from_numpy(nucleus(logit_BV.numpy(), temperature, top_p)), theirs.softmax(-1)))
    parity(
        "laclip", "probabilities that words are drawn from", "transformers' temperature and top-p warpers", pairs, tolerance=1e-12
    )


@pytest.mark.parametrize("kind", ["decoder_folder", "seq2seq_folder"])
def test_a_row_stops_at_its_stop_and_says_what_it_would_have_said(kind: str, request: pytest.FixtureRequest) -> None:
    folder = str(request.getfixturevalue(kind))
    whole = LanguageFolder(folder, SHORT).write(requests())
    stop = next(text[2] for text in (answer.text for answer in whole) if len(text) > 4)
    cut = LanguageFolder(folder, Sampling(max_tokens=12, stop=(stop,))).write(requests())
    assert [answer.text for answer in cut] == [answer.text.split(stop)[0] for answer in whole]
    assert sum(a.written_tokens for a in cut) < sum(a.written_tokens for a in whole)


def test_draws_follow_the_probabilities() -> None:
    chance_V = np.array([0.0, 0.5, 0.0, 0.3, 0.2])
    counts = np.bincount([sample_index(chance_V, u) for u in np.linspace(0, 1, 1000, endpoint=False)], minlength=5)
    assert counts.tolist() == [0, 500, 0, 300, 200]
    assert sample_index(chance_V, 1.0) == 4


def test_a_prompt_that_is_too_long_is_a_fault_and_never_cut(decoder_folder: Path) -> None:
    backend = LanguageFolder(str(decoder_folder), SHORT)
    long = TextRequest("long", "a red bus next to a tree " * 40)
    short, cut, empty = backend.write([requests()[0], long, TextRequest("empty", "")])
    assert short.fault == ""
    assert cut.fault.startswith("too long: ")
    assert "(at most 148)" in cut.fault
    assert cut.text == ""
    assert empty.fault == "" or empty.fault == "malformed: empty prompt"
    few = LanguageFolder(str(decoder_folder), SHORT, context=3)
    assert few.write([requests()[0]])[0].fault.startswith("too long: ")
    with pytest.raises(ConfigError, match="has 160 places"):
        LanguageFolder(str(decoder_folder), Sampling(max_tokens=200)).write(requests(1))


def test_it_travels_without_its_weights(decoder_folder: Path) -> None:
    backend = LanguageFolder(str(decoder_folder), SHORT)
    answers = backend.write(requests(2))
    data = pickle.dumps(backend)
    assert len(data) < 2000
    assert pickle.loads(data).write(requests(2)) == answers


def test_what_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = BackendOptions("", SHORT, list)
    with pytest.raises(DataError, match="is not a folder of transformers"):
        open_backend(f"folder:{tmp_path}", wanted)
    with pytest.raises(DataError, match="does not exist"):
        open_backend(f"gguf:{tmp_path}/no.gguf", wanted)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"no.gguf needs the package 'gguf'.*diptych\[gguf\]"):
        _ = GGUF(str(tmp_path / "no.gguf"), SHORT).model
