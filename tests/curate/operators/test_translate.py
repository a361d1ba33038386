"""Translating as a step: what is asked and stored, what is refused, and what a training run then draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Sample, Text
from diptych.curate.engine.pool import curate, plan
from diptych.curate.operators.translate import PUBLISHED, Translate
from diptych.data.columns import read_table
from diptych.data.curated import open_curated
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.text.captions.variants import VARIANTS

from ..conftest import Server, said

WORDS = {"German": "zwei Hunde", "French": "deux chiens"}


def pool() -> Pool:
    samples = [
        Sample(
            "a",
            texts=(Text("2 dogs", "en", "caption"), Text("dogs\n on grass", "en", "alt"), Text("ein Hund", "de")),
            licence="CC0",
        ),
        Sample("b", texts=(Text("tag", origin="tags"),)),
        Sample("c", texts=(Text("a cat", "", "alt"),)),
    ]
    return Pool.from_samples(samples, name="captions")


def by_uid(out: Path) -> dict[str, list[dict[str, Any]]]:
    table = read_table(out, VARIANTS).table
    return dict(zip(table["uid"].to_pylist(), table[VARIANTS].to_pylist(), strict=True))


def translated(number: int, body: Any) -> Any:
    target, caption = body["prompt"].rsplit("\n", 1)[-1].rstrip(":"), body["prompt"].rsplit("English: ", 1)[1].split("\n")[0]
    return said(f" {target} of {caption}\nand more")


def test_every_caption_is_asked_for_once_a_language_and_traced(tmp_path: Path, server: Server) -> None:
    server.behave = translated
    step = Translate(writer=f"{server.address}#small", languages=("de", "fr"), calls=1, terms="free")
    done = curate(pool(), [step], tmp_path)
    assert len(done.kept) == 3
    found = by_uid(tmp_path)
    assert found.keys() == {"a", "c"}
    assert [(one["string"], one["language"], one["source"]) for one in found["a"]] == [
        ("German of 2 dogs", "de", "caption 0"),
        ("French of 2 dogs", "fr", "caption 0"),
        ("German of dogs on grass", "de", "alt 1"),
        ("French of dogs on grass", "fr", "alt 1"),
    ]
    assert {(one["origin"], one["style"], one["terms"], one["licence"]) for one in found["a"]} == {
        ("rewrite", "translation", "free", "CC0")
    }
    assert len(server.asked) == 6
    assert server.asked[0]["prompt"].startswith("Translate the image caption from English into German.")
    assert server.asked[0]["temperature"] == 0


def test_answers_that_are_no_translation_are_counted_and_never_used(tmp_path: Path, server: Server) -> None:
    answers = {"2 dogs": said(" drei Hunde"), "dogs on grass": said(" Dogs on  grass"), "a cat": said(" \n")}
    server.behave = lambda number, body: answers[body["prompt"].rsplit("English: ", 1)[1].split("\n")[0]]
    curate(pool(), [Translate(writer=f"{server.address}#small", languages=("de",), calls=1)], tmp_path)
    facts = json.loads((tmp_path / "writing.json").read_text())
    assert facts["not_used"] == {"copy": 1, "empty": 1, "number": 1}
    assert facts["used"] == 0


def test_opened_again_a_run_draws_among_the_languages(tmp_path: Path, server: Server) -> None:
    server.behave = translated
    (tmp_path / "in").mkdir()
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    source = tmp_path / "in" / "captions.csv"
    source.write_text("uid,image,text\nu1,a.png,a dog\nu2,a.png,a cat\n")
    out = tmp_path / "out"
    options = ["--writer", f"{server.address}#small", "--languages", "de", "ko"]
    assert main(["curate", "translate", str(source), str(out), *options]) == 0
    opened = open_curated(out, read)
    assert [(text.string, text.language) for text in opened[0].texts][1:] == [
        ("German of a dog", "de"),
        ("Korean of a dog", "ko"),
    ]


def test_a_plan_asks_nobody(server: Server) -> None:
    cost = plan(pool(), [Translate(writer=f"{server.address}#small", price_in=10.0)])[0]
    assert server.asked == []
    assert cost["items"] == 3 * len(PUBLISHED)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="translate needs a model"):
        Translate()(pool())
    with pytest.raises(ConfigError, match="'grammar' does not translate"):
        Translate(writer="grammar")(pool())
    with pytest.raises(UnknownName, match="xx"):
        Translate(languages=("xx",))
    with pytest.raises(ConfigError, match="one or more others"):
        Translate(languages=("en",))
    with pytest.raises(ConfigError, match=r"\{target\} and \{caption\}"):
        Translate(prompt="Translate {caption}")
    with pytest.raises(DataError, match="no caption in language 'de'"):
        Translate(writer="folder:x", language="de", languages=("en",), origins=("label",))._rows(pool())
