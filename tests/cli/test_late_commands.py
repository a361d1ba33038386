"""filip, fused and dcd from the command line: train, index, search, explain, evaluate, and a student from a teacher's run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diptych.cli import main

WORLD = "world:small_pairs?n=16&test=16"
TINY = ["--steps", "2", "--batch-size", "8", "--image-tower", "vit_micro", "--text-tower", "text_micro", "--image-size", "48"]
TINY += ["--width", "16", "--pieces", "300"]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Any:
    def asked(*argv: str) -> dict[str, Any]:
        assert main([*argv, "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    return asked


def test_filip_trains_for_an_index_of_tokens(ask: Any, tmp_path: Path) -> None:
    run, index = str(tmp_path / "filip"), str(tmp_path / "index")
    ask("train", "filip", "--data", WORLD, "--out", run, *TINY, "--kept", "0.5")
    assert ask("index", "build", run, WORLD, index, "--kind", "late", "--split", "test")["count"] == 16
    hits = ask("search", index, "a red circle top left", "-k", "3")["hits"]
    assert len(hits) == 3
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    found = ask("eval", run, "localisation", "--data", f"{WORLD}&regions=true", "--split", "test")
    assert set(found["results"]["test"]["metrics"]) == {"pointing", "auc", "among"}
    found = ask("eval", run, "retrieval", "--data", WORLD, "--split", "test")
    assert found["results"]["test"]["notes"]["compare"] == "pairs"


def test_a_student_learns_from_the_run_of_its_teacher(ask: Any, tmp_path: Path) -> None:
    teacher, student = str(tmp_path / "fused"), str(tmp_path / "dcd")
    ask("train", "fused", "--data", WORLD, "--out", teacher, *TINY, "--fusion-layers", "1", "--fusion-heads", "4")
    ask("train", "dcd", "--data", WORLD, "--out", student, *TINY, "--teacher", teacher, "--candidates", "3")
    assert ask("eval", teacher, "retrieval", "--data", WORLD, "--split", "test")["results"]["test"]["notes"]["compare"] == "pairs"
    assert (
        ask("eval", student, "retrieval", "--data", WORLD, "--split", "test")["results"]["test"]["notes"]["compare"] == "vectors"
    )


def test_a_teacher_that_matches_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "dcd", "--data", WORLD, "--out", str(tmp_path / "dcd"), *TINY, "--teacher", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "is not a matcher (expected a run of recipe fused, or hf:FOLDER of a BLIP for retrieval)" in said
