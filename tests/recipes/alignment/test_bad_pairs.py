"""Pairs that cannot be learned from cost themselves alone: what is wrong with each, the images that are not there, the limit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from diptych.cli.commands.train import _finish
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import FileImage
from diptych.core.sample import Sample
from diptych.curate.preferences.mining import PairOptions
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.shards.build import open_built
from diptych.data.text.question_answering.preferences import distinct_pair, holds_answers, preference_of
from diptych.recipes._shared.language.preference_config import CandidateOptions
from diptych.recipes.alignment.rlaif_v import RLAIFV
from diptych.recipes.alignment.stic import STIC
from diptych.train.fit import fit
from diptych.train.options import TrainOptions
from diptych.worlds.claimed_pairs import claimed_pairs

DATA = claimed_pairs(24, seed=0).remembering()
OPTIONS = TrainOptions(progress=False, log_every=1, precision="fp32", seed=3, device="cpu", bad_limit=0.5)
SMALL: dict[str, Any] = {
    "small_steps": 2, "language_model": "small:world:claimed_pairs?n=24", "image_weights": "", "image_tower": "vit_micro",
    "image_size": 48, "batch_size": 4, "instruct_batch_size": 4, "pair_batch_size": 4,
}  # fmt: skip
GONE = FileImage(Path("nowhere/gone.png"))
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"chosen": "", "rejected": "no"}, "field 'chosen': sample 's' has an empty answer"),
    ({"chosen": "yes"}, "field 'rejected': sample 's' has no pair of answers"),
    ({"chosen": "yes", "rejected": None}, "field 'rejected': sample 's' has no pair of answers"),
    ({"rejected": "no"}, "field 'chosen': sample 's' has no pair of answers"),
    ({"chosen": "yes ", "rejected": "yes"}, "field 'rejected': sample 's' has one answer twice"),
    ({"chosen": 7, "rejected": "no"}, "field 'chosen': sample 's' has '7'"),
    ({"chosen": "yes", "rejected": 7.5}, "field 'rejected': sample 's' has '7.5'"),
    ({"chosen": "yes", "rejected": "no", "prompt": 3}, "field 'prompt': sample 's' has '3'"),
    ({"chosen": [{"content": "a"}, {"content": "b"}], "rejected": "no"}, "field 'chosen': sample 's' has"),
    ({"chosen": "yes", "rejected": [], "prompt": "q"}, "field 'rejected': sample 's' has"),
    ({"output_2": {"value": "no"}, "preference": 1}, "field 'output_1': sample 's' has no pair of answers"),
    ({"preference": {"question": "q", "chosen": "a", "rejected": "b", "turns": ["ab"]}}, "field 'turns': sample 's' has 'ab'"),
]


@pytest.mark.parametrize(("extras", "reason"), WRONG)
def test_what_is_wrong_with_a_pair_is_said(extras: dict[str, Any], reason: str) -> None:
    row = {"prompt": "is it red ?", **extras} if "preference" not in extras else extras
    sample = Sample("s", extras=row)
    assert holds_answers(sample)
    with pytest.raises(DataError) as caught:
        distinct_pair(sample)
    assert str(caught.value).startswith(reason)


def test_rows_without_answers_are_no_pairs() -> None:
    assert not holds_answers(Sample("s", extras={"chosen": None, "rejected": None, "prompt": "q"}))
    assert not holds_answers(Sample("s", extras={"questions": []}))


def reasons_of(run: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (run / "quarantine.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["stage"] for line in lines} == {"make"}
    return {line["uid"]: line["reason"] for line in lines}


@pytest.mark.parametrize("reference", ["stored", "model"])
def test_given_pairs_that_are_wrong_are_left_out_of_a_run(
    tmp_path: Path, reference: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = [
        replace(DATA[row], extras={"prompt": "what is there ?", "chosen": f"a red circle {row}", "rejected": "a blue cross"})
        for row in range(12)
    ]
    samples[2] = replace(samples[2], extras={**samples[2].extras, "chosen": " "})
    samples[5] = replace(samples[5], extras={**samples[5].extras, "rejected": "a red circle 5"})
    samples[7] = replace(samples[7], image=GONE)
    samples[9] = replace(samples[9], extras={"prompt": "what is there ?", "chosen": "a red circle"})
    recipe = replace(RLAIFV.tiny(), **SMALL, steps=2, start_share=0.0, rounds=0)
    recipe = replace(recipe, loss=replace(recipe.loss, reference=reference))
    run = fit(recipe, Pool.from_samples(samples, name="pairs"), tmp_path / "run", OPTIONS)
    assert _finish(run, data=None, evaluation=False, as_json=False) == 0
    assert f"  4 samples were left out, with reasons in {run.path / 'quarantine.jsonl'}" in capsys.readouterr().out
    bad = {samples[row].uid for row in (2, 5, 7, 9)}
    assert reasons_of(run.path).keys() == bad
    assert "gone.png" in reasons_of(run.path)[samples[7].uid]
    made = open_built(run.path / "stages" / "00-pairs")
    assert set(made.uids) == {sample.uid for sample in samples} - bad
    empty = [replace(sample, extras={**sample.extras, "chosen": ""}) for sample in samples[:8]]
    with pytest.raises(DataError, match="8 of 8 samples cannot be used, more than the limit"):
        fit(recipe, Pool.from_samples(empty, name="pairs"), tmp_path / "other", replace(OPTIONS, bad_limit=0.0))


def described(**changes: Any) -> STIC:
    sampling = CandidateOptions(candidates=1, temperature=1.5, answer_tokens=6, at_once=4)
    made = replace(STIC.tiny(), **SMALL, answer_batch_size=4, steps=8, start_share=0.0)
    return replace(made, sampling=sampling, images=0, answer_rows=0, **changes)


def test_an_image_that_is_not_there_is_not_described(tmp_path: Path) -> None:
    samples = [DATA[row] for row in range(10)]
    samples[3] = replace(samples[3], image=GONE)
    run = fit(described(), Pool.from_samples(samples, name="pictures"), tmp_path / "run", OPTIONS)
    assert reasons_of(run.path).keys() == {samples[3].uid}
    logged = next(line for line in run.metrics() if line["kind"] == "pairs")
    assert logged["images"] == 9
    assert samples[3].uid not in open_built(run.path / "stages" / "01-answers").uids


def test_a_round_answers_no_image_that_is_not_there_and_counts_why_there_is_no_pair(tmp_path: Path) -> None:
    samples = [DATA[row] for row in range(6)]
    samples[1] = replace(samples[1], image=GONE)
    sampling = CandidateOptions(candidates=2, temperature=1.5, answer_tokens=6, at_once=3)
    recipe = replace(
        RLAIFV.tiny(), **SMALL, steps=2, start_share=0.0, rounds=1, sampling=sampling, mining=PairOptions(difference=99)
    )
    with pytest.raises(ConfigError, match=r"in round 1: of 10 answers to 5 instructions \d+ are empty .* 99 or more in 0 pairs"):
        fit(recipe, Pool.from_samples(samples, name="pictures"), tmp_path / "run", OPTIONS)


def test_a_comparison_that_is_none_costs_its_row(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nwhat is it ?"}, {"from": "gpt", "value": "a cup"}]
    row = {"id": "1", "image": "a.png", "conversations": turns, "output_1": {"value": "one"}, "output_2": {"value": "two"}}
    rows = [{**row, "preference": 2}, {**row, "preference": 3}, {**row, "preference": 1, "image": "gone.png"}]
    rows.append({key: value for key, value in rows[0].items() if key != "output_1"})
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    pool = read(tmp_path / "pairs.json")
    assert len(pool) == 1
    assert preference_of(pool[0]).chosen == "two"
    reasons = [entry.reason for entry in pool.quarantine]
    assert [text.partition("row ")[2][0] for text in reasons] == ["1", "2", "3"]
    assert "prefers 3" in reasons[0]
    assert "gone.png" in reasons[1]
    assert "output_1" in reasons[2]
