"""MetaCLIP over pools: against a naive rewriting of both passes; file cuts, engines, order and a kill change nothing."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("daft", reason="the extra curate is not installed")

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample, Text
from diptych.curate.engine import parts
from diptych.curate.engine import run as engine
from diptych.curate.engine.parts import PartStore
from diptych.curate.engine.pool import curate
from diptych.curate.operators.metaclip import MetaCLIP
from diptych.curate.text.texts import texts_of
from diptych.data.columns import read_table
from diptych.data.dataset import Pool

WORDS = ["red", "blue", "car", "dog", "tree", "sky", "U.S.", "harp"]


def pool(rows: int = 400, seed: int = 0) -> Pool:
    """Captions of one to four words, by Zipf; every tenth row has two texts, every fortieth none that matches."""
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, len(WORDS) + 1) ** 1.5
    samples = []
    for row in range(rows):
        said = [" ".join(rng.choice(WORDS, rng.integers(1, 5), p=p / p.sum())) for _ in range(1 + (row % 10 == 0))]
        texts = (Text("nothing known"),) if row % 40 == 7 else tuple(map(Text, said))
        samples.append(Sample(f"u{row:04}", texts=(*texts, Text("harp", origin="negative"))))
    return Pool.from_samples(samples, name="said")


@pytest.fixture
def entries(tmp_path: Path) -> str:
    path = tmp_path / "entries.txt"
    path.write_text("\n".join([*WORDS, "red car"]), encoding="utf-8")
    return str(path)


def test_counts_probabilities_and_reasons_against_a_naive_rewriting(entries: str) -> None:
    data, step = pool(), MetaCLIP(entries=entries, t=60)
    done = step(data)
    names = sorted([*WORDS, "red car"])
    sets = {s.uid: [{n for n in names if f" {n} " in f" {t.string} "} for t in s.positives()] for s in data}
    count = Counter(n for several in sets.values() for one in several for n in one)
    chance = dict(zip(*done.columns["keep_probability"].to_pydict().values(), strict=True))
    texts = dict(zip(*done.columns["balanced_text"].to_pydict().values(), strict=True))
    numbers = dict(zip(*done.columns["entries"].to_pydict().values(), strict=True))
    for uid, several in sets.items():
        if not any(several):
            assert uid not in chance
            continue
        own = {names[n] for n in numbers[uid]}
        assert own in several
        assert own == {n for n in names if f" {n} " in f" {texts[uid]} "}
        assert chance[uid] == pytest.approx(1 - np.prod([1 - 60 / max(count[n], 60) for n in own]))
    reasons = {drop.uid: drop.reason for drop in done.dropped}
    assert {uid for uid, reason in reasons.items() if reason.startswith("no_entry")} == {u for u, s in sets.items() if not any(s)}
    assert len(done.kept) + len(done.dropped) == len(data)
    table = pq.read_table(pa.BufferReader(done.files["entries.parquet"])).to_pydict()
    assert dict(zip(table["entry"], table["before"], strict=True)) == {n: count[n] for n in names}
    after = Counter(n for uid in done.kept for n in numbers[uid])
    assert table["after"] == [after[n] for n in range(len(names))]
    assert b"texts of an entry" in done.files["metaclip.html"]


def test_the_rare_stays_and_the_frequent_thins_out(entries: str) -> None:
    done = MetaCLIP(entries=entries, t=30)(pool(2000))
    table = pq.read_table(pa.BufferReader(done.files["entries.parquet"])).to_pydict()
    kept = {e: a / b for e, b, a in zip(table["entry"], table["before"], table["after"], strict=True)}
    assert 2 * kept["red"] < kept["harp"]


def test_a_tail_share_of_one_keeps_every_text_with_an_entry(entries: str) -> None:
    done = MetaCLIP(entries=entries, tail_share=1.0)(pool())
    assert set(done.columns["keep_probability"]["keep_probability"].to_pylist()) == {1.0}
    assert {drop.reason.split(":")[0] for drop in done.dropped} == {"no_entry"}


def bilingual() -> Pool:
    """English by Zipf, German flat and a tenth as often; "rot" and "car" stand in either language's texts; a few of no language."""
    rng = np.random.default_rng(3)
    p = 1 / np.arange(1, 7) ** 1.5
    samples = []
    for row in range(660):
        language, words = (
            ("en", WORDS[:6]) if row < 600 else ("de", ["rot", "blau", "car"]) if row < 650 else ("", ["car", "sky"])
        )
        said = rng.choice(words, 2, p=p / p.sum() if language == "en" else None)
        samples.append(Sample(f"u{row:04}", texts=(Text(" ".join(said), language),)))
    return Pool.from_samples(samples, name="two")


def naive_thresholds(sets: dict[str, list[set[str]]], t: int) -> dict[str, dict[str, float]]:
    """p of every entry by language, as MetaCLIP 2 says it: the tail share of English at t, found again in every language."""
    counts = {language: Counter(e for one in several for e in one) for language, several in sets.items()}
    tail = sum(c for c in counts["en"].values() if c < t) / sum(counts["en"].values())
    found = {}
    for language, count in counts.items():
        ordered = sorted(count.values())
        running = np.cumsum(ordered) / sum(ordered)
        own = t if language == "en" else ordered[int(np.abs(running - tail).argmin())]
        found[language] = {e: own / max(c, own) for e, c in count.items()}
    return found


@pytest.mark.parametrize("lists", [False, True])
def test_thresholds_by_language_against_a_naive_rewriting(lists: bool, tmp_path: Path) -> None:
    own = {"en": [*WORDS, "red car"], "de": ["rot", "blau"], "other": ["car"]}
    if lists:
        path = tmp_path / "lists"
        path.mkdir()
        for language, words in own.items():
            (path / f"{language}.txt").write_text("\n".join(words), encoding="utf-8")
    else:
        path = tmp_path / "all.txt"
        path.write_text("\n".join([*WORDS, "red car", "rot", "blau"]), encoding="utf-8")
        own = {language: [*WORDS, "red car", "rot", "blau"] for language in own}
    data = bilingual()
    sets: dict[str, list[set[str]]] = {"en": [], "de": [], "other": []}
    of = {}
    for sample in data:
        text = sample.texts[0]
        language = text.language or "other"
        found = {e for e in own[language] if f" {e} " in f" {text.string} "}
        sets[language].append(found)
        of[sample.uid] = (language, found)
    p = naive_thresholds(sets, 40)
    done = MetaCLIP(entries=str(path), t=40, threshold="language")(data)
    chance = dict(zip(*done.columns["keep_probability"].to_pydict().values(), strict=True))
    assert set(chance) == {uid for uid, (_, found) in of.items() if found}
    for uid, value in chance.items():
        language, found = of[uid]
        assert value == pytest.approx(1 - np.prod([1 - p[language][e] for e in found]), abs=1e-12)
    table = pq.read_table(pa.BufferReader(done.files["languages.parquet"])).to_pydict()
    assert table["language"] == ["de", "en", "other"]
    assert table["t"][1] == 40
    assert table["matches"] == [sum(map(len, sets[language])) for language in ("de", "en", "other")]
    pooled = MetaCLIP(entries=str(path), t=40)(data)
    assert pooled.columns["keep_probability"] != done.columns["keep_probability"]
    assert "languages.parquet" not in pooled.files
    assert any("in language 'en'" in drop.reason for drop in done.dropped)


def test_a_reference_language_that_no_text_has_is_refused(entries: str) -> None:
    with pytest.raises(DataError, match=r"no text in language 'fr' mentions an entry.*expected one of de, en, other"):
        MetaCLIP(entries=entries, threshold="language", reference="fr")(bilingual())


def test_titles_come_from_page_views_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = tmp_path / "views.tsv"
    views.write_text("red_car\t70\nblue dog\t69\n", encoding="utf-8")
    source = written(tmp_path / "in", pool(), 1)
    command = ["curate", "metaclip", str(source), str(tmp_path / "out"), "--titles", str(views), "--min-count", "10000"]
    assert main(command) == 0
    table = pq.read_table(tmp_path / "out" / "entries.parquet").to_pydict()
    by_name = dict(zip(table["entry"], table["source"], strict=True))
    assert by_name["red car"] == "title"
    assert "blue dog" not in by_name
    assert main([*command[:3], str(tmp_path / "more"), *command[4:], "--min-views", "69"]) == 0
    assert "blue dog" in pq.read_table(tmp_path / "more" / "entries.parquet")["entry"].to_pylist()


def test_negatives_are_no_texts(entries: str) -> None:
    data = Pool.from_samples([Sample("a", texts=(Text("nothing"), Text("harp", origin="negative")))])
    assert [drop.reason.split(":")[0] for drop in MetaCLIP(entries=entries)(data).dropped] == ["no_entry"]


def test_order_of_rows_does_not_matter(entries: str) -> None:
    data = pool()
    mixed = data.select(random.Random(1).sample(range(len(data)), len(data)))
    one, other = MetaCLIP(entries=entries)(data), MetaCLIP(entries=entries)(mixed)
    assert (one.kept, one.dropped, one.files) == (other.kept, other.dropped, other.files)


def test_a_list_made_from_the_texts() -> None:
    step = MetaCLIP(min_count=200, bigrams=2)
    done = step(pool(1000))
    sources = pq.read_table(pa.BufferReader(done.files["entries.parquet"])).to_pydict()
    by_name = dict(zip(sources["entry"], sources["source"], strict=True))
    assert by_name["red"] == "word"
    assert by_name["42"] == "number"
    assert sum("pair" in source for source in by_name.values()) == 2


def test_the_published_preset_matches_as_released_and_spells_wordnet_so(tmp_path: Path) -> None:
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("")
    (tmp_path / "data.noun").write_text("00001740 06 n 01 Harp 0 000 | x\n00001750 06 n 01 U.S._car 0 000 | x\n")
    step = replace(MetaCLIP.paper(), wordnet=str(tmp_path), min_count=10**6, bigrams=0, t=1)
    done = step(pool(200))
    listed = pq.read_table(pa.BufferReader(done.files["entries.parquet"])).to_pydict()
    before = dict(zip(listed["entry"], listed["before"], strict=True))
    assert {"harp", "u"} < set(before)
    assert before["harp"] > 0
    assert (step.rule, step.draw, MetaCLIP.paper().t, MetaCLIP.paper().bigrams) == ("released", "entry", 20_000, 100_646)
    assert "U.S. car" in replace(step, names="written").lists(texts_of(pool(20))).all.names


def written(folder: Path, data: Pool, cuts: int) -> Path:
    """The same rows in so many Parquet files, dealt out at random."""
    folder.mkdir()
    rows = [{"uid": s.uid, "caption": s.positives()[0].string} for s in data]
    random.Random(cuts).shuffle(rows)
    for number in range(cuts):
        pq.write_table(pa.Table.from_pylist(rows[number::cuts]), folder / f"{number:02}.parquet")
    return folder


def tables(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.suffix in (".parquet", ".html")}


def test_the_cut_of_the_input_files_does_not_show(tmp_path: Path, entries: str) -> None:
    results = []
    for cuts in (1, 3, 7):
        source = written(tmp_path / f"in{cuts}", pool(), cuts)
        assert main(["curate", "metaclip", str(source), str(tmp_path / f"out{cuts}"), "--entries", entries]) == 0
        found = tables(tmp_path / f"out{cuts}")
        results.append({name: content for name, content in found.items() if name != "metaclip.html"})
    assert results[0] == results[1] == results[2]
    assert "tables/removed.parquet" in results[0]


@pytest.mark.slow
def test_ray_gives_the_very_files_of_the_local_engine(tmp_path: Path, entries: str) -> None:
    pytest.importorskip("ray", reason="the extra scale is not installed: Daft on Ray is not tested")
    source = written(tmp_path / "in", pool(40_000), 3)
    for name in ("local", "ray"):
        command = [sys.executable, "-m", "diptych.cli", "curate", "metaclip", str(source), str(tmp_path / name)]
        done = subprocess.run([*command, "--entries", entries, "--engine", name], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    assert tables(tmp_path / "local") == tables(tmp_path / "ray")
    uids = read_table(tmp_path / "ray", "removed").table["uid"].to_pylist()
    assert uids == sorted(uids)
    assert len(uids) > 1000


def test_a_killed_run_goes_on_with_its_finished_parts(tmp_path: Path, entries: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROWS", 100)
    monkeypatch.setattr("diptych.curate.engine.pool.PartStore", lambda *where: PartStore(*where, rows=100))
    data, calls = pool(), []
    real = engine.mapped

    def killed(table: pa.Table, *rest) -> pa.Table:
        calls.append(table.num_rows)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(table, *rest)

    monkeypatch.setattr("diptych.curate.operators.metaclip.mapped", killed)
    with pytest.raises(KeyboardInterrupt):
        curate(data, [MetaCLIP(entries=entries)], tmp_path / "out")
    assert len(list((tmp_path / "out" / "parts").rglob("*.parquet"))) == 2
    curate(data, [MetaCLIP(entries=entries)], tmp_path / "out")
    assert calls == [100, 100, 100, 100, 100, 40], "the two finished parts were not matched again"
    assert not list((tmp_path / "out" / "parts").rglob("*.parquet"))
    curate(data, [MetaCLIP(entries=entries)], tmp_path / "whole")
    assert tables(tmp_path / "out") == tables(tmp_path / "whole")


def test_another_list_at_the_same_place_is_another_run(tmp_path: Path, entries: str) -> None:
    first = curate(pool(), [MetaCLIP(entries=entries)], tmp_path / "out")
    again = curate(pool(), [MetaCLIP(entries=entries)], tmp_path / "out")
    assert (first.steps[0].resumed, again.steps[0].resumed) == (False, True)
    assert again.columns["keep_probability"].equals(first.columns["keep_probability"])
    Path(entries).write_text("harp\n", encoding="utf-8")
    other = curate(pool(), [MetaCLIP(entries=entries)], tmp_path / "out")
    assert not other.steps[0].resumed
    assert len(other.kept) < len(first.kept)


def test_command_and_plan(tmp_path: Path, entries: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = written(tmp_path / "in", pool(), 1)
    assert main(["curate", "metaclip", str(source), "--entries", entries, "--plan", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["items"] == 400
    assert facts["unit"] == "text against 9 entries"
    assert main(["curate", "metaclip", str(source), str(tmp_path / "out"), "--entries", entries]) == 0
    shown = capsys.readouterr().out
    assert "metaclip 400 ->" in shown
    assert "rows per second" in shown
    assert "no_entry" in shown
    assert main(["curate", "metaclip", str(source), str(tmp_path / "o2"), "--entries", str(tmp_path / "none.txt")]) == 1
    assert "none.txt: does not exist (expected a list of entries" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rule": "x"}, "rule is 'x'"),
        ({"t": -1}, "t -1"),
        ({"tail_share": 1.1}, "tail_share is 1.1"),
        ({"threshold": "x"}, "threshold is 'x'"),
        ({"min_views": 0}, "min_views is 0"),
        ({"draw": "x"}, "draw is 'x'"),
    ],
)
def test_options_that_cannot_be(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MetaCLIP(**options)


def test_an_engine_for_a_process() -> None:
    engine.start("local")
    with pytest.raises(ConfigError, match="runs on local already"):
        engine.start("ray")
    with pytest.raises(ConfigError, match=r"engine is 'dask' \(expected local \| ray\)"):
        engine.start("dask")  # type: ignore[arg-type]
