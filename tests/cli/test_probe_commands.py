"""Published probes and probes of scenes from the command line: a run, published weights, and a page of what was confused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from diptych.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "data" / "probes"))

import published_probes as published

WORLD = "world:scenes?n=16&val=1&test=24"
TINY = ["--steps", "2", "--batch-size", "8", "--image-tower", "vit_micro", "--text-tower", "text_micro", "--image-size", "48"]
TINY += ["--width", "16", "--pieces", "300"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("runs") / "clip")
    assert main(["train", "clip", "--data", WORLD, "--out", folder, *TINY, "--json"]) == 0
    return folder


@pytest.mark.parametrize("task", ["aro", "snare", "sugarcrepe", "vl_checklist"])
def test_a_run_is_probed_on_scenes(run: str, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    few = ["--minimum", "1"] if task in ("aro", "snare") else []
    assert main(["eval", run, task, "--data", WORLD, "--split", "test", "--draws", "20", *few, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["results"]["test"]
    assert 0 <= result["metrics"]["macro"]["value"] <= 1
    assert result["metrics"]["blind"]["value"] is not None
    assert result["notes"]["options"]["train"].endswith("scenes")


def test_published_files_are_probed_with_a_page(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out, page = published.aro(tmp_path / "aro"), tmp_path / "records", tmp_path / "page.html"
    argv = ["eval", run, "aro", "--data", str(data), "--out", str(out), "--page", str(page), "--minimum", "1", "--draws", "20"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "visual_genome_attribution: aro v1, 2 items in 2 groups" in said
    assert "left out when the data were read: 3, such as" in said
    assert "cases whose false captions equal the true one: 1" in said
    html = page.read_text(encoding="utf-8")
    assert "Confused: visual genome relation" in html
    for name in ("visual_genome_relation", "coco_karpathy_test"):
        rows = _rows(out / f"aro-aro-{name}.parquet")
        wrong = [row for row in rows if _best(row, "false") > _best(row, "true")]
        assert html.count("data:image/webp") >= len(wrong)


def test_winoground_and_its_world(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (str(published.winoground(tmp_path / "w")), "world:mirrored?n=4&test=8"):
        assert main(["eval", run, "winoground", "--data", data, "--draws", "20", "--json"]) == 0
        result = next(iter(json.loads(capsys.readouterr().out)["results"].values()))
        assert set(result["metrics"]) >= {"group", "text", "image"}


def test_a_page_needs_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["eval", "hf:nowhere", "aro", "--data", WORLD, "--page", str(tmp_path / "page.html")]
    assert main(argv) == 2
    assert "needs its records (expected --out FOLDER beside --page)" in capsys.readouterr().err


def _rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _best(row: dict[str, Any], role: str) -> float:
    return max(score for score, each in zip(row["scores"], row["roles"], strict=True) if each == role)


def test_ptp_and_syvic_train_and_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world, out = "world:small_pairs?n=16&test=8&regions=true", str(tmp_path / "ptp")
    small = ["--text-width", "32", "--text-layers", "1", "--queue", "16", "--steps", "2", "--batch-size", "8"]
    tower = ["--image-tower", "vit_micro", "--image-size", "48", "--width", "16", "--pieces", "320", "--json"]
    assert main(["train", "ptp", "--data", world, "--out", out, *small, *tower]) == 0
    assert main(["eval", out, "retrieval", "--data", world, "--split", "test", "--json"]) == 0
    capsys.readouterr()
    assert main(["eval", out, "aro", "--data", WORLD, "--split", "test", "--compare", "mean", "--draws", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["test"]["notes"]["compare"] == "mean"
    scenes, syvic = "world:scenes?n=16&val=1&test=8&lengths=dense", str(tmp_path / "syvic")
    assert main(["train", "syvic", "--data", scenes, "--out", syvic, *TINY, "--mix-style", "0.5", "--json"]) == 0
    assert main(["eval", syvic, "snare", "--data", scenes, "--split", "test", "--draws", "20", "--json"]) == 0


def test_ptp_on_vilt_trains_and_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has no vectors: retrieval and probes ask it for pairs, and a search says what it lacks."""
    world, out = "world:small_pairs?n=16&test=8&regions=true", str(tmp_path / "vilt")
    small = ["--layers", "1", "--heads", "2", "--width", "16", "--image-size", "48", "--pieces", "320"]
    assert main(["train", "ptp_vilt", "--data", world, "--out", out, *small, "--steps", "2", "--batch-size", "8", "--json"]) == 0
    capsys.readouterr()
    assert main(["eval", out, "retrieval", "--data", world, "--split", "test", "--draws", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"]["test"]["notes"]["compare"] == "pairs"
    assert (
        main(
            ["eval", out, "vl_checklist", "--data", WORLD, "--split", "test", "--decide", "threshold", "--draws", "20", "--json"]
        )
        == 0
    )
    assert main(["index", "build", out, world, str(tmp_path / "index")]) != 0
    assert "needs a model that embeds images and texts; 'ptp_vilt' does not" in capsys.readouterr().err
