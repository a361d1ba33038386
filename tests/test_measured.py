"""Measured numbers on pages are those of stored results, and a run's results can be stored."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diptych.core.result import Metric, Result
from diptych.core.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("measured", ROOT / "scripts/measured.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "measured", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path, measured: Any) -> Path:
    for folder in (measured.STORE, measured.LEDGER, measured.BENCHMARKS):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for page in (measured.README, measured.GUIDE, measured.TUNING, measured.CURATING):
        shutil.copy(ROOT / page, tmp_path / page)
    return tmp_path


def test_the_pages_say_what_the_stored_results_say(measured: Any) -> None:
    for path, text in measured.pages(ROOT).items():
        assert (ROOT / path).read_text(encoding="utf-8") == text, f"{path}: run python scripts/measured.py"


def test_another_stored_number_is_another_page(measured: Any, copy: Path) -> None:
    file = copy / measured.STORE / "demo.json"
    demo = json.loads(file.read_text())
    demo["results"]["unseen style"]["locked"] = [0.5, 0.4, 0.6]
    file.write_text(json.dumps(demo))
    measured.main([], copy)
    assert "| 0.500 [0.400, 0.600] | 0.0006 |" in (copy / measured.README).read_text()
    (copy / measured.GUIDE).write_text("no block")
    with pytest.raises(SystemExit, match="no block 'links'"):
        measured.main([], copy)


def test_the_rates_of_writers_are_those_of_the_benchmark(measured: Any, copy: Path) -> None:
    file = next((copy / measured.BENCHMARKS).glob("*/rewriting.json"))
    run = json.loads(file.read_text())
    run["results"]["endpoint"] |= {
        "asked": 1000, "used": 990, "step_seconds": 20.0, "processor_seconds": 4.0, "tokens_read": 200_000, "tokens_written": 30_000,
        "not_used": {"copy": 10}, "killed_after_answers": 500, "same_files": False,
    }  # fmt: skip
    file.write_text(json.dumps(run))
    measured.main([], copy)
    page = (copy / measured.CURATING).read_text()
    assert "| `endpoint` | 1,000 | 990 | 50 | 4,000 | 200.0, 30.0 | 29.00 |" in page  # 20 for what is read, 9 for what is written
    assert "`endpoint` killed (kill -9) after 500 answers and started again: OTHER files." in page
    assert "`endpoint`: 10 copy" in page


def kept_run(folder: Path, slug: str, task: str, parts: dict[str, Result], **state: Any) -> Path:
    """A run folder with results, as training and `diptych eval` leave them."""
    run = RunFolder.create(folder, slug=slug, environment={"commit": "abc1234", "cores": 4, "memory_gib": 16.0})
    run.write_state(**state)
    run.records.mkdir(exist_ok=True)
    for part, result in parts.items():
        (run.records / f"{task}-data-{part}.json").write_text(json.dumps(result.to_json()))
    return folder


def test_a_detectors_results_are_kept_with_their_commit(measured: Any, copy: Path) -> None:
    metrics = {"r@5": Metric(0.3, 0.2, 0.4), "r@20": Metric(0.5, 0.4, 0.6), "ng_r@20": Metric(0.7, 0.6, 0.8), "mr@5": Metric(0.1)}
    notes = {"ceiling": {"r@5": 0.6, "r@20": 0.7, "ng_r@20": 0.9, "mr@5": 0.5}, "data": {"name": "data/test"}}
    result = Result("vg150", 1, "r@20", metrics, 40, 40, notes=notes)
    run = kept_run(copy / "run", "rlipv2", "vg150", {"test": result})
    measured.main(["keep", "flat", str(run)], copy)
    page = (copy / measured.GUIDE).read_text()
    assert "| abc1234 | 0.300 [0.200, 0.400] | 0.600 | 0.500 [0.400, 0.600] | 0.700 | 0.700 [0.600, 0.800] | 0.900 |" in page
    with pytest.raises(SystemExit, match="'flatt' is none of links, flat"):
        measured.main(["keep", "flatt", str(run)], copy)


def test_the_demos_runs_are_kept_with_the_interval_over_seeds(measured: Any, copy: Path) -> None:
    for slug, first in (("clip", 0.1), ("locked", 0.3)):
        for seed in range(3):
            value = first + 0.01 * seed
            parts = {
                part: Result(
                    "retrieval",
                    1,
                    "t2i_r@1",
                    {"t2i_r@1": Metric(value, chance=0.002)},
                    9,
                    9,
                    notes={"data": {"name": f"emoji/{part}"}},
                )
                for part in ("unseen_style", "unseen_concept", "unseen_both")
            }
            kept_run(copy / "demo" / f"{slug}-{seed}", slug, "retrieval", parts, minutes=1.5)
    measured.main(["keep-demo", str(copy / "demo")], copy)
    page = (copy / measured.README).read_text()
    assert "| unseen both | 0.110 [0.085, 0.135] | 0.310 [0.285, 0.335] | 0.0020 |" in page
    assert "mean of seeds 0, 1, 2" in page
    assert "Commit abc1234" in page
    assert "9.0 minutes after set-up." in page
