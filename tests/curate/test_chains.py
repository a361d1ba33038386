"""Chains of steps from a file: equal to the steps one by one, columns of one are read by the next, the file travels and repeats them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from diptych.cli import main
from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.sample import Sample, Text
from diptych.curate.engine.chain import PUBLISHED, read_chain
from diptych.curate.engine.pool import curate
from diptych.curate.engine.sources import open_pool
from diptych.curate.operators.top_fraction import TopFraction
from diptych.data.dataset import Pool


def pool(values: list[float | None]) -> Pool:
    samples = [Sample(f"u{row:02d}", texts=(Text(f"text {row}"),)) for row in range(len(values))]
    made = Pool.from_samples(samples, name="pool")
    return made.with_table(pa.table({"uid": made.uids, "similarity": pa.array(values, pa.float64())}))


def test_the_share_is_exact_with_ties_by_uid_and_without_values() -> None:
    done = TopFraction(share=0.5)(pool([0.1, 0.9, 0.5, 0.5, None, 0.5, 0.2]))
    assert done.kept == ("u01", "u02", "u03")  # of 0.5 three times the first two by uid
    assert {drop.uid: drop.reason.split(" (")[0] for drop in done.dropped} == {
        "u00": "similarity: 0.1", "u04": "no similarity", "u05": "similarity: 0.5", "u06": "similarity: 0.2",
    }  # fmt: skip
    assert TopFraction(share=0.5, lowest=True)(pool([0.1, 0.9, 0.5, 0.2])).kept == ("u00", "u03")
    assert TopFraction(share=1.0)(pool([0.1, 0.9])).kept == ("u00", "u01")
    assert len(TopFraction(share=0.3)(pool([x / 10 for x in range(10)])).kept) == 3  # 0.3 * 10 is a little more in floats
    order = [6, 3, 0, 5, 1, 4, 2]
    rows = pool([0.1, 0.9, 0.5, 0.5, None, 0.5, 0.2])
    assert TopFraction(share=0.5)(rows.select(order)).kept == done.kept
    page = str(done.files["top_fraction.html"])
    assert "Just kept" in page
    with pytest.raises(UnknownName, match="nothing"):
        TopFraction(column="nothing")(rows)
    with pytest.raises(ConfigError, match="share is 0"):
        TopFraction(share=0.0)


class Scores:
    """A step that makes a column and keeps all."""

    slug = "scores"

    def plan(self, data: Dataset) -> dict[str, Any]:
        return {}

    def __call__(self, data: Dataset) -> CurationStepResult:
        return CurationStepResult(tuple(sorted(data.uids)), (), {"score": {uid: float(uid[1:]) for uid in data.uids}})


def test_columns_of_a_step_are_read_by_the_next_in_one_chain_as_in_two(tmp_path: Path) -> None:
    import dataclasses

    step = dataclasses.dataclass(frozen=True)(Scores)()
    rows = pool([0.0] * 10)
    done = curate(rows, [step, TopFraction(column="score", share=0.2)], tmp_path / "one")
    assert [sample.uid for sample in done.kept] == ["u08", "u09"]
    again = curate(rows, [step, TopFraction(column="score", share=0.2)], tmp_path / "one")
    assert [one.resumed for one in again.steps] == [True, True]


def links(path: Path) -> Path:
    texts = ["a dog runs over the green grass", "two cats sleep on a red sofa", "x", "a dog runs over the green grass!"]
    urls = [f"http://site.example/{row}.jpg" for row in range(4)]
    pq.write_table(pa.table({"url": urls, "text": texts, "similarity": [0.3, 0.2, 0.4, 0.1]}), path)
    return path


def test_a_file_of_steps_equals_the_steps_and_travels_with_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = links(tmp_path / "links.parquet")
    steps = [{"step": "laion", "min_text": 5}, {"step": "top_fraction", "share": 0.5}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"curate": {"source": str(source), "steps": steps}}))
    assert main(["curate", "--config", str(tmp_path / "mine.yaml"), str(source), str(tmp_path / "out"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["before"], facts["after"]) == (4, 2)
    assert main(["curate", "laion", str(source), str(tmp_path / "a"), "--min-text", "5"]) == 0
    assert main(["curate", "top_fraction", str(tmp_path / "a"), str(tmp_path / "b"), "--share", "0.5"]) == 0
    assert open_pool(tmp_path / "out").uids == open_pool(tmp_path / "b").uids
    kept = read_chain(tmp_path / "out" / "chain.yaml")
    assert kept is not None
    assert [step["step"] for step in kept.steps] == ["laion", "top_fraction"]
    assert kept.steps[0]["min_bytes"] == 5000  # every field
    again = ["curate", "--config", str(tmp_path / "out" / "chain.yaml"), str(source), str(tmp_path / "again")]
    assert main([*again, "--set", "top_fraction.share=0.2"]) == 0
    assert len(open_pool(tmp_path / "again")) == 1
    assert json.loads((tmp_path / "out" / "curation.json").read_text())["steps"][1]["slug"] == "top_fraction"


def test_equal_runs_write_equal_bytes(tmp_path: Path) -> None:
    source = links(tmp_path / "links.parquet")
    steps = [{"step": "laion", "min_text": 5}, {"step": "top_fraction", "share": 0.5}]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"curate": {"steps": steps}}))
    files = []
    for name in ("one", "two"):
        assert main(["curate", "--config", str(tmp_path / "mine.yaml"), str(source), str(tmp_path / name)]) == 0
        paths = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append({str(path.relative_to(tmp_path / name)): path.read_bytes() for path in paths})
    assert {"curation.json", "chain.yaml", "top_fraction.html", "tables/removed.parquet"} <= files[0].keys()
    assert files[0].keys() == files[1].keys()
    differ = {name for name, data in files[0].items() if data != files[1][name]}
    assert differ <= {"costs.json", "lineage.json"}  # seconds and times


@pytest.mark.parametrize("words", [["--config"], ["--config="], ["--config", "--plan"]])
def test_a_chain_without_a_name_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["curate", *words]) == 2
    assert "--config names nothing (expected a file, or one of" in capsys.readouterr().err


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_chains_say_what_has_to_be_given(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = read_chain(name)
    assert chain is not None
    fields = [f"{step['step']}.{key}" for step in chain.steps for key, value in step.items() if str(value).startswith("???")]
    with pytest.raises(ConfigError) as told:
        chain.operators()
    every = " ".join(f"{field}=VALUE" for field in dict.fromkeys(fields))
    assert f"(expected --set {every}; diptych curate " in str(told.value)  # all at once
    operators = chain.operators(dict.fromkeys(fields, "runs/clip"))
    assert [operator.slug for operator in operators] == [step["step"] for step in chain.steps]
    assert main(["curate", "--config", name, str(links(tmp_path / "l.parquet")), str(tmp_path / "o")]) == 2
    assert f"--set {fields[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("curate: {steps: 3}", "expected a list"),
        ("curate: {steps: [{step: nothing}]}", "nothing"),
        ("curate: {steps: [{step: laion, min_txt: 5}]}", "min_txt"),
        ("curate: {steps: [{step: laion, min_text: five}]}", "min_text"),
        ("curate: {steps: [{step: laion, preset: best}]}", "no preset 'best'"),
        ("curate: {what: 1, steps: [{step: laion}]}", "what"),
        ("curate: [", "cannot be read"),
    ],
)
def test_what_is_no_chain_is_one_line(text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    source = str(links(tmp_path / "l.parquet"))
    assert main(["curate", "--config", str(tmp_path / "bad.yaml"), source, str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
    assert main(["curate", "--config", "nowhere", source, str(tmp_path / "o")]) == 2
    assert "published chains: datacomp_image_based" in capsys.readouterr().err


def test_a_list_of_entries_may_be_made_of_wordnet_in_place_of_a_file() -> None:
    chain = read_chain("metaclip")
    assert chain is not None
    with pytest.raises(ConfigError, match=r"needs metaclip\.entries or metaclip\.wordnet \("):
        chain.operators({"metaclip.t": 5})
    (made,) = chain.operators({"metaclip.wordnet": "wn"})
    assert (made.entries, made.wordnet, made.t) == ("", "wn", 20_000)  # type: ignore[attr-defined]


def test_a_step_that_comes_twice_has_its_own_reasons_and_files(tmp_path: Path) -> None:
    rows = pool([x / 10 for x in range(10)])
    done = curate(rows, [TopFraction(share=1.0), TopFraction(share=0.6), TopFraction(share=0.5)], tmp_path)
    pages = {path.name: path.read_text().partition(" rows stay")[0][-2:].strip(">") for path in tmp_path.glob("*.html")}
    assert pages == {"top_fraction.html": "10", "top_fraction_01.html": "6", "top_fraction_02.html": "3"}
    assert [line.split() for line in done.lines() if line.startswith("   ")] == [
        ["4", "40.0%", "similarity"],
        ["3", "50.0%", "similarity"],
    ]


def test_one_word_for_a_list_is_told_how_lists_are_written() -> None:
    chain = read_chain("laion2b")
    assert chain is not None
    with pytest.raises(ConfigError, match=r"laion\.languages is 'en' \(expected a list such as \[en\]\)"):
        chain.operators({"laion.model": "m", "laion.languages": "en"})


@pytest.mark.parametrize("rows", [7, 100, 333])
def test_the_highest_share_is_that_of_datacomp_but_for_the_row_at_its_threshold(rows: int) -> None:
    score_N = np.random.default_rng(rows).permutation(rows) / rows
    data = pool(score_N.tolist())
    released = score_N >= -np.sort(-score_N)[int(rows * 0.3)]  # mlfoundations/datacomp, baselines/apply_filter.py, get_threshold
    kept = set(TopFraction(share=0.3)(data).kept)
    ours = np.array([uid in kept for uid in data.uids])
    assert not (ours & ~released).any()
    assert released.sum() - ours.sum() == (1 if rows == 100 else 0)  # 0.3 N is rounded up where it is no whole number


def test_a_field_of_a_step_that_the_chain_has_not_is_refused() -> None:
    chain = read_chain("laion2b")
    assert chain is not None
    with pytest.raises(UnknownName, match=r"top\.x"):
        chain.operators({"top.x": 1, "laion.model": "m"})
