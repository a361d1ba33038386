"""Running a task: what is kept, what is refused, what can be scored again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych import tasks
from diptych.core.errors import ConfigError, RunError, UnknownName
from diptych.core.result import Result
from diptych.tasks._scoring.records import read_records
from diptych.tasks.evaluate import evaluate, file_stem, rescore
from diptych.tasks.pairs.retrieval import Retrieval


def test_records_and_result_are_kept_and_score_again(kit: Any, tmp_path: Path) -> None:
    model, pool = kit.random(30, noise=2.0)
    result = evaluate(Retrieval(), model, pool, out=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["retrieval-random.json", "retrieval-random.parquet"]
    assert rescore(Retrieval(), tmp_path / "retrieval-random.parquet") == result
    kept = Result.from_json(json.loads((tmp_path / "retrieval-random.json").read_text()))
    assert kept.metrics == result.metrics
    assert result.notes["protocol"] == "retrieval v1"
    assert result.notes["model"] == {"name": "planted", "fingerprint": "f0"}
    assert result.notes["data"] == {"name": "random", "fingerprint": pool.fingerprint, "samples": 30}
    strict = rescore(Retrieval(ties="pessimistic"), tmp_path / "retrieval-random.parquet")
    assert strict.notes["ties"] == "pessimistic"


def test_model_without_the_capability_is_refused(kit: Any) -> None:
    class Writer:
        name = "writer"

        def generate(self, images: Any, prompts: Any, *, max_tokens: int = 64) -> list[str]:
            return []

    _, pool = kit.random(3)
    with pytest.raises(
        ConfigError, match="task 'retrieval' needs a model that is an Embedder or PairScorer; 'writer' offers Generator"
    ):
        evaluate(Retrieval(), Writer(), pool)


def test_tasks_are_found_by_name() -> None:
    assert tasks.find("retrieval", ks=[1, 3]) == Retrieval(ks=(1, 3))
    assert tasks.find("zero-shot", label="style").label == "style"  # type: ignore[attr-defined]
    assert tasks.find("linear_probe").name == "linear_probe"
    with pytest.raises(UnknownName, match="did you mean 'retrieval'"):
        tasks.find("retreival")
    with pytest.raises(UnknownName, match="unknown field of Retrieval 'tie'; did you mean 'ties'"):
        tasks.find("retrieval", tie="index")
    with pytest.raises(ConfigError, match="lives in recipes"):
        tasks.find("medslip")


def test_bad_records_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no records here"):
        read_records(tmp_path / "absent.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(RunError, match="cannot be read as Parquet"):
        read_records(tmp_path / "broken.parquet")


def test_file_names_hold_no_surprises() -> None:
    assert file_stem("retrieval", "emoji/unseen style") == "retrieval-emoji-unseen-style"
    assert file_stem("retrieval", "../..") == "retrieval-data"
