"""Benchmarks and scripts are run by hand; here they are imported, so that a name that moved is found early, and the runner of benchmarks
is tried on small scripts. No test asks how long anything took."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = FOLDER.parent / "scripts"


@pytest.mark.parametrize("file", sorted([*FOLDER.glob("*.py"), *SCRIPTS.glob("*.py")]), ids=lambda file: file.stem)
def test_a_benchmark_or_script_can_be_imported(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = imported(file, monkeypatch)
    if file.parent == FOLDER:
        assert callable(getattr(module, "main", None)) or "__main__" not in file.read_text(encoding="utf-8")


def imported(file: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(file.parent))  # they share helpers that lie beside them
    spec = importlib.util.spec_from_file_location(f"benchmark_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def test_every_benchmark_is_run_by_make_bench_or_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = imported(FOLDER / "run_all.py", monkeypatch)
    scripts = {file.stem for file in FOLDER.glob("*.py") if "__main__" in file.read_text(encoding="utf-8")} - {"run_all"}
    assert not set(runner.BENCHMARKS) & set(runner.STUDIES)
    assert scripts == {*runner.BENCHMARKS, *runner.STUDIES}


def test_a_failure_stops_nothing_and_is_told_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runner = imported(FOLDER / "run_all.py", monkeypatch)
    (tmp_path / "breaks.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(600)\n")
    (tmp_path / "works.py").write_text("import os\nraise SystemExit(os.environ['ONEDNN_MAX_CPU_ISA'] != 'AVX2')\n")
    found = runner.run_all(["breaks", "hangs", "works"], tmp_path, runner.PLAIN, limit=3.0)
    assert {name: wrong for name, (_, wrong) in found.items()} == {
        "breaks": "exit status 3",
        "hangs": "stopped after 3 s",
        "works": "",
    }
    assert runner.summary(found).endswith("1 of 3 ended well: not breaks, hangs")


def test_a_processor_can_be_made_to_say_that_it_has_avx2_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = imported(FOLDER / "run_all.py", monkeypatch).as_avx2(tmp_path)
    if not variables:
        pytest.skip("no compiler, or CPUID cannot fault here")

    def python(code: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-X", "faulthandler", "-c", code]
        return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=60)

    asked = (
        "from numpy._core._multiarray_umath import __cpu_features__ as f; print(*(k for k in f if f[k] and k.startswith('AVX')))"
    )
    nested = (
        f"import subprocess, sys; print(subprocess.run([sys.executable, '-c', {asked!r}], capture_output=True, text=True).stdout)"
    )
    for code in (asked, nested):
        found = python(code)
        assert not found.returncode, found.stderr
        names = found.stdout.split()
        assert "AVX2" in names
        assert not [name for name in names if name.startswith("AVX5")]
    fault = python("import ctypes; ctypes.string_at(0)")  # the program's own
    assert fault.returncode < 0
    assert "Fatal Python error: Segmentation fault" in fault.stderr


def test_a_record_is_kept_with_its_class_and_read_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = imported(FOLDER / "machine_results.py", monkeypatch)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "benchmarks" / "results")
    figure = results.Figure("a step", "s", 2.0, (results.Peer("them", 3.0), results.Peer("them, fused", 1.0, best=True)))
    assert [figure.times(peer) for peer in figure.peers] == [1.5, 0.5]
    assert results.last("steps", "plain") == {}
    path = results.keep("steps", {"rows": [1]}, [figure], machine="plain")
    assert path == tmp_path / "benchmarks/results/plain/steps.json"
    record = results.last("steps", "plain")
    assert record["machine"] == "plain"
    assert record["rows"] == [1]
    assert results.figures_of(record) == [figure]
    assert results.last("steps", "amx") == {}


CLOCKS = re.compile(
    r"assert .*(?:perf_counter|process_time|monotonic)\(\).*[-<>]|assert .*(?:seconds|took|elapsed)\w* *[<>]=? *[\d.]+$"
)
WAITS = (
    "tests/serve",
    "tests/attacks",
    "tests/helpers/killed_runs.py",
    "tests/core/test_signals.py",
    "tests/train/test_rank_watchdog.py",
    "tests/train/test_resume.py",
    "tests/train/devices/test_restarting.py",
    "tests/train/devices/test_sharded_checkpoints.py",
    "tests/data/web/test_download_politeness.py",
    "tests/newcomer/test_pages.py",
    "tests/models/endpoint",
    "tests/data/load/test_stream.py",
)
"""Where a limit of time is what the product promises (a deadline, a drain, a refused wait), or a test must not wait for ever."""


def test_no_test_asks_for_a_speed() -> None:
    """On a busy machine such a test fails without a fault; speeds are kept in benchmarks/results."""
    root = FOLDER.parent
    files = [path for path in (root / "tests").rglob("*.py") if not str(path.relative_to(root)).startswith(WAITS)]
    asked = [
        f"{path.relative_to(root)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if CLOCKS.search(line)
    ]
    assert not asked, "\n".join(asked)
