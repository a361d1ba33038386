"""Rewriting as a step: what is stored, what is refused, kills, cuts and order of rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Sample, Text
from diptych.curate.engine import run
from diptych.curate.engine.pool import configuration, curate, plan
from diptych.curate.operators.rewrite import Rewrite
from diptych.curate.writing import step
from diptych.data.columns import read_table
from diptych.data.curated import open_curated
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.text.captions.variants import SIMILARITY, VARIANTS

from ..conftest import Server, said

CAPTIONS = [
    "a small dog left of a cup",
    "two kids watching TV",
    "a photo of a big road",
    "bus",
    "a man riding a horse",
    "no cat near a rock",
]


def pool(count: int = 24) -> Pool:
    samples = [
        Sample(f"s{n:03d}", texts=(Text("tag", origin="tags"), Text(CAPTIONS[n % 6], "en", "alt")), licence=f"CC-{n % 2}")
        for n in range(count)
    ]
    return Pool.from_samples(samples, name="captions")


def file_of(folder: Path, captions: list[str]) -> Path:
    """A CSV of captions of one and the same picture."""
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    path = folder / "captions.csv"
    path.write_text("uid,image,text\n" + "".join(f"u{n:03d},a.png,{text}\n" for n, text in enumerate(captions)))
    return path


def variants(out: Path) -> dict[str, list[dict[str, Any]]]:
    table = read_table(out, VARIANTS).table
    return dict(zip(table["uid"].to_pylist(), table[VARIANTS].to_pylist(), strict=True))


def tables(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*sorted((out / "tables").iterdir()), out / "writing.json"]}


def test_every_text_is_traced_to_model_prompt_source_and_licence(tmp_path: Path) -> None:
    done = curate(pool(), [Rewrite()], tmp_path)
    found = variants(tmp_path)
    assert len(done.kept) == 24
    assert "s003" not in found, "one word is no caption"
    for uid, texts in found.items():
        caption = CAPTIONS[int(uid[1:]) % 6]
        assert len(texts) >= 2
        assert len({text["string"] for text in texts}) == len(texts)
        for text in texts:
            assert text["string"] != caption
            assert (text["language"], text["origin"], text["source"], text["model"]) == ("en", "rewrite", "alt 0", "grammar")
            assert text["licence"] == f"CC-{int(uid[1:]) % 2}"
            assert len(text["prompt"]) == 32
    facts = json.loads((tmp_path / "writing.json").read_text())
    assert facts["asked"] == 20 * 4
    assert facts["used"] + sum(facts["not_used"].values()) == 80
    lines = done.lines()
    assert f"{facts['used']} of 80 texts by grammar are used" in lines[1]
    assert "texts per second" in lines[2]
    assert "notes" not in json.loads((tmp_path / "curation.json").read_text())["steps"][0]


def test_rows_in_another_order_or_number_get_the_same_texts(tmp_path: Path) -> None:
    data = pool()
    curate(data, [Rewrite()], tmp_path / "a")
    curate(data.select(list(range(23, -1, -1))), [Rewrite()], tmp_path / "b")
    assert variants(tmp_path / "a") == variants(tmp_path / "b")
    curate(data.select([4, 0]), [Rewrite()], tmp_path / "c")
    assert variants(tmp_path / "c") == {uid: variants(tmp_path / "a")[uid] for uid in ("s000", "s004")}
    curate(data, [Rewrite(seed=1)], tmp_path / "d")
    assert variants(tmp_path / "d") != variants(tmp_path / "a")


def test_local_and_cluster_engines_write_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoder_folder: Path
) -> None:
    """The way through Daft, as on Ray, against the way without."""
    pytest.importorskip("daft")
    run.start("local")
    for writer in ("grammar", f"folder:{decoder_folder}"):
        step_ = Rewrite(writer=writer, max_tokens=6, styles=("plain", "short"), check="none", copies=True)
        here, there = tmp_path / f"here-{writer[:4]}", tmp_path / f"there-{writer[:4]}"
        monkeypatch.setenv("DIPTYCH_CACHE", str(here / "cache"))
        curate(pool(12), [step_], here)
        monkeypatch.setenv("DIPTYCH_CACHE", str(there / "cache"))
        with monkeypatch.context() as patch:
            patch.setattr(run, "current_engine", lambda: "ray")
            curate(pool(12), [step_], there)
        assert tables(here) == tables(there)


def test_opened_again_the_rewrites_are_further_texts(tmp_path: Path) -> None:
    source = file_of(tmp_path, [CAPTIONS[n % 6].replace(",", "") for n in range(12)])
    out = tmp_path / "out"
    assert main(["curate", "rewrite", str(source), str(out)]) == 0
    opened = open_curated(out, read)
    before = read(source)
    for row in range(12):
        texts = opened[row].texts
        assert texts[0] == before[row].texts[0]
        assert [text.string for text in texts[1:]] == [v["string"] for v in variants(out).get(opened[row].uid, [])]
        assert {text.origin for text in texts[1:]} <= {"rewrite"}


def test_malformed_and_unfaithful_answers_are_counted_and_never_used(tmp_path: Path, server: Server) -> None:
    def answer(number: int, body: Any) -> Any:
        caption = body["prompt"].rsplit("\n", 1)[-1].removesuffix(" =>").strip()
        if caption.startswith("two"):
            return said("kids at the TV")
        if caption.startswith("a photo"):
            return said("  \nsomething below")
        if caption.startswith("a man"):
            return said(" a man riding a horse => a cat")
        if caption.startswith("no cat"):
            return 200, {}, b"{}"
        return said(" a pup beside a mug => and so on")

    server.behave = answer
    step_ = Rewrite(writer=f"{server.address}#small", styles=("plain",), calls=1, price_in=1.0, price_out=2.0)
    done = curate(pool(6), [step_], tmp_path)
    assert variants(tmp_path).keys() == {"s000"}
    assert variants(tmp_path)["s000"][0]["string"] == "a pup beside a mug"
    facts = json.loads((tmp_path / "writing.json").read_text())
    assert facts["not_used"] == {"copy": 1, "empty": 1, "malformed": 1, "number": 1}
    assert (facts["tokens_read"], facts["tokens_written"]) == (44, 12)
    assert "1 number" in done.lines()[1]
    assert "in money" in done.lines()[2]
    assert server.asked[0]["prompt"].startswith("write image captions differently,\n\n            ")


def test_another_attempt_is_another_draw(tmp_path: Path, server: Server) -> None:
    server.behave = lambda number, body: said("") if number < 5 else said("a text that is fine")
    step_ = Rewrite(writer=f"{server.address}#small", styles=("plain",), check="none", attempts=2, calls=1)
    curate(pool(6), [step_], tmp_path)
    assert len(variants(tmp_path)) == 5
    assert len(server.asked) == 10
    assert len({asked["seed"] for asked in server.asked}) == 10
    facts = json.loads((tmp_path / "writing.json").read_text())
    assert facts["tokens_read"] == 10 * 11, "what was thrown away was paid for, too"


def test_captions_of_one_word_are_rewritten_as_published() -> None:
    """The released script rewrites every line."""
    data = Pool.from_samples([Sample(uid, texts=(Text(text, "en"),)) for uid, text in (("a", "dog"), ("b", "a dog runs"))])
    paper = Rewrite.paper()
    assert (paper.min_words, paper.copies, paper.check, paper.max_tokens, paper.context) == (1, True, "none", 77, 395)
    asked = Rewrite(writer="ngram", max_tokens=6, styles=("plain",), check="none", copies=True, min_words=paper.min_words)
    assert asked._rows(data)["uid"].to_pylist() == ["a", "b"]
    assert Rewrite()._rows(data)["uid"].to_pylist() == ["b"]


def test_what_does_not_decide_the_texts_is_no_part_of_the_configuration() -> None:
    assert configuration(Rewrite(calls=3, timeout=1.0, tries=9, price_in=3.0, at_once=2)) == configuration(Rewrite())
    assert configuration(Rewrite(temperature=0.5)) != configuration(Rewrite())


def test_a_plan_asks_nobody(server: Server) -> None:
    step_ = Rewrite(writer=f"{server.address}#small", price_in=10.0, price_out=30.0)
    cost = plan(pool(), [step_])[0]
    assert server.asked == []
    assert cost["items"] == 80
    prompt = next(iter(step_._requests(step_._rows(pool())))).request.prompt
    assert 0.5 < cost["tokens_read"] / (80 * len(prompt) / 4) < 1.5
    assert "at most 6,160" in cost["tokens_written"]
    most = (cost["tokens_read"] * 10 + 6160 * 30) / 1e6
    assert cost["cost"].endswith(f"at most {most:.2f}")
    assert plan(pool(), [Rewrite()])[0]["seconds"] > 0


@pytest.mark.slow
def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path: Path, server: Server) -> None:
    """kill -9 in the middle of a part; the second run ends with the files of one that was never killed."""

    def answer(number: int, body: Any) -> Any:
        time.sleep(0.02)
        return said(f"text {body['seed']} of {len(body['prompt'])}")

    server.behave = answer
    source = file_of(tmp_path, [f"{CAPTIONS[n % 3]} {'x' * (n % 7)}" for n in range(40)])
    command = [sys.executable, "-m", "diptych.cli", "curate", "rewrite", str(source)]
    options = ["--writer", f"{server.address}#small", "--check", "none", "--calls", "2"]

    def env(name: str) -> dict[str, str]:
        return {**os.environ, "DIPTYCH_CACHE": str(tmp_path / name)}

    first = subprocess.Popen([*command, str(tmp_path / "killed"), *options], env=env("cache"), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(server.asked) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = len(server.asked)
    assert 30 <= before < 160
    subprocess.run([*command, str(tmp_path / "killed"), *options], env=env("cache"), check=True, stdout=subprocess.DEVNULL)
    assert len(server.asked) <= 160 + 4, "at most what was in the air is asked again"
    subprocess.run([*command, str(tmp_path / "whole"), *options], env=env("fresh"), check=True, stdout=subprocess.DEVNULL)
    assert tables(tmp_path / "killed") == tables(tmp_path / "whole")


def test_parts_that_are_done_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "PART_ROWS", 5)
    made = Counter[str]()
    requests = Rewrite._requests

    def stops(self: Rewrite, part: Any) -> Any:
        made["parts"] += 1
        if made["parts"] == 3:
            raise KeyboardInterrupt
        return requests(self, part)

    monkeypatch.setattr(Rewrite, "_requests", stops)
    with pytest.raises(KeyboardInterrupt):
        curate(pool(), [Rewrite()], tmp_path / "cut")
    curate(pool(), [Rewrite()], tmp_path / "cut")
    assert made["parts"] == 3 + 2, "20 captions are four parts, of which two were done"
    monkeypatch.undo()
    curate(pool(), [Rewrite()], tmp_path / "whole")
    assert tables(tmp_path / "cut") == tables(tmp_path / "whole")


def test_similarities_cover_every_text_in_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.curate.engine import agreement

    class Lengths:
        """Embeds an image as east, and a text by its length."""

        fingerprint = "lengths"

        def embed_images(self, images: Any, **_: Any) -> Any:
            import numpy as np

            return np.tile(np.array([1.0, 0.0], np.float32), (len(images), 1))

        def embed_texts(self, texts: Any, **_: Any) -> Any:
            import numpy as np

            angle = np.array([len(text) / 100 for text in texts])
            return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)

    import numpy as np

    from diptych.core.image import ArrayImage

    monkeypatch.setattr(agreement, "open_embedder", lambda address: Lengths())
    base = pool(6)
    image = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    data = Pool.from_samples([replace(base[row], image=image if row else None) for row in range(6)], name="x")
    curate(data, [Rewrite(match="lengths")], tmp_path)
    table = read_table(tmp_path, SIMILARITY).table
    found = dict(zip(table["uid"].to_pylist(), table[SIMILARITY].to_pylist(), strict=True))
    assert "s000" not in found, "no image"
    for row in range(1, 6):
        texts = [*(text.string for text in data[row].texts), *(v["string"] for v in variants(tmp_path).get(data[row].uid, []))]
        assert found[data[row].uid] == pytest.approx([float(np.cos(len(text) / 100)) for text in texts], abs=1e-6)


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown style 'plane'; did you mean 'plain'"):
        Rewrite(styles=("plane",))(pool())
    with pytest.raises(DataError, match="no caption of 2 words or more in language 'fr'"):
        Rewrite(language="fr", origins=("alt",))(pool())
    with pytest.raises(ConfigError, match="each 0"):
        Rewrite(each=0)
    file = tmp_path / "mine.json"
    file.write_text('{"mine": {"pairs": [["a", "b"], ["c", "d"], ["e", "f"]]}}')
    with pytest.raises(ConfigError, match="the grammar has no style 'mine'"):
        Rewrite(styles=("mine",), examples=str(file))(pool())
    with pytest.raises(DataError, match="not a readable file of examples"):
        Rewrite(examples=str(tmp_path / "none.json"))(pool())


def test_a_caption_of_ten_thousand_words(tmp_path: Path, decoder_folder: Path) -> None:
    data = Pool.from_samples([Sample("long", texts=(Text(" ".join(["small dog"] * 5000), "en", "alt"),))], name="long")
    curate(data, [Rewrite()], tmp_path / "grammar")
    assert len(variants(tmp_path / "grammar")["long"][0]["string"].split()) > 9000
    curate(data, [Rewrite(writer=f"folder:{decoder_folder}", styles=("plain",))], tmp_path / "model")
    assert json.loads((tmp_path / "model/writing.json").read_text())["not_used"] == {"too long": 1}


def test_a_line_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    file_of(tmp_path, [])
    source = tmp_path / "captions.jsonl"
    rows = [
        {"uid": f"u{n}", "image": "a.png", "text": text} for n, text in enumerate(["a small dog", "a small cat", "a big road"])
    ]
    lines = [json.dumps(row) for row in rows]
    source.write_text("\n".join([lines[0], lines[1][:20], lines[2]]) + "\n")
    assert main(["curate", "rewrite", str(source), str(tmp_path / "out")]) == 0
    assert set(variants(tmp_path / "out")) == {"u0", "u2"}
    assert pq.read_table(tmp_path / "out/quarantine.parquet").num_rows == 1


def test_inspection_shows_original_and_rewritten_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = file_of(tmp_path, ["a small dog left of a <b>cup</b>"]), tmp_path / "out"
    main(["curate", "rewrite", str(source), str(out)])
    capsys.readouterr()
    assert main(["data", "inspect", str(out), "--page", str(tmp_path / "page.html"), "--tokenizer", ""]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("written texts: 1 samples have some, such as")
    assert lines[start + 1] == "  u000: a small dog left of a <b>cup</b>"
    texts = variants(out)["u000"]
    assert lines[start + 2 : start + 2 + len(texts)] == [f"      grammar {text['style']}: {text['string']}" for text in texts]
    page = (tmp_path / "page.html").read_text()
    assert "Original and written" in page
    assert f"grammar {texts[0]['style']}" in page
    assert "<b>cup" not in page
