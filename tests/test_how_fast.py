"""The page "How fast" says what the stored results say, and each result lies with the class of machine that it was taken on."""

from __future__ import annotations

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from diptych.core.machine import MACHINES, machine_class

ROOT = Path(__file__).resolve().parents[1]
RECORDS = sorted((ROOT / "benchmarks/results").rglob("*.json"))


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def how_fast() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield module(ROOT / "scripts/how_fast.py")
    sys.path.remove(str(ROOT / "scripts"))


def test_page_and_pictures_are_what_the_results_say(how_fast: Any) -> None:
    pages = how_fast.pages(ROOT)
    stale = [str(path) for path, text in pages.items() if (ROOT / path).read_text(encoding="utf-8") != text]
    assert not stale, f"run python scripts/how_fast.py: {stale}"
    left = {path.relative_to(ROOT) for path in (ROOT / how_fast.PICTURES).glob("*.svg")} - set(pages)
    assert not left, f"pictures without a result: {left}"


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_record_lies_with_its_class_and_says_what_it_was_measured_on(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["name"] == path.stem
    assert record["machine"] == path.parent.name in MACHINES
    if record["machine"] != "cuda":
        assert machine_class(record["environment"]["processor_flags"]) == record["machine"]
    assert record["environment"]["commit"]


def test_another_number_makes_another_page_and_picture(how_fast: Any, tmp_path: Path) -> None:
    """A ratio is peer / ours for times and ours / peer for rates; the class stands beside every number."""
    peers = [{"name": "them", "value": 3.0, "best": False}, {"name": "them, fused", "value": 2.0, "best": True}]
    figures = [
        {"case": "a step", "unit": "s", "ours": 1.0, "peers": peers, "less": True},
        {"case": "a rate", "unit": "images/s", "ours": 6.0, "peers": peers, "less": False},
    ]
    machine = {"commit": "abc", "cores": 2, "processor_flags": ["avx2"]}
    record = {"name": "steps", "machine": "plain", "date": "2026-01-01", "processor": "Some CPU", "limited_by": {"A": "b"}}
    folder = tmp_path / how_fast.RESULTS / "plain"
    folder.mkdir(parents=True)
    (folder / "steps.json").write_text(json.dumps({**record, "load_average": 0.5, "environment": machine, "figures": figures}))
    (tmp_path / "benchmarks/steps.py").write_text('"""What is timed.\n\nMore."""\n')
    pages = how_fast.pages(tmp_path)
    page = pages[how_fast.PAGE]
    assert "| `plain` | a step | 1 s | 3 (them) | 3.00 | 2 (them, fused) | 2.00 |" in page
    assert "| `plain` | a rate | 6 images/s | 3 (them) | 2.00 | 2 (them, fused) | 3.00 |" in page
    assert "What is timed.\n" in page
    assert "More." not in page
    assert "Some CPU; 2 cores; avx2; limited to this class by A=b; load average 0.5" in page
    drawn = ET.fromstring(pages[how_fast.PICTURES / "steps.svg"])
    bars = [bar for bar in drawn.iter("{http://www.w3.org/2000/svg}rect") if float(bar.get("width", "0")) > 12]
    assert len(bars) == 2
    assert float(bars[0].get("width", "0")) < float(bars[1].get("width", "0"))  # 2 times and 3 times its best


def test_curves_have_a_column_for_each_size_and_a_line_for_each_part(how_fast: Any, tmp_path: Path) -> None:
    machine = {"commit": "abc", "cores": 2, "processor_flags": ["avx2"]}
    record = {"name": "grown", "machine": "plain", "date": "2026-01-01", "processor": "Some CPU", "limited_by": {}}
    rows = [{"items": n, "build_cpu_seconds": n / 1000, "build_gib": 0.5, "search_cpu_ms": 2.0} for n in (1000, 10_000, 100_000)]
    curves = {"dense": rows, "curate": [{"items": 10_000, "build_cpu_seconds": 7.0, "build_gib": 0.25}]}
    folder = tmp_path / how_fast.RESULTS / "plain"
    folder.mkdir(parents=True)
    found = {**record, "load_average": 0.5, "environment": machine, "figures": [], "curves": curves}
    found["measured"] = {"dense": {**found, "load_average": 1.5}, "curate": {**found, "load_average": 0.5}}
    (folder / "grown.json").write_text(json.dumps(found))
    (tmp_path / "benchmarks/grown.py").write_text('"""What grows."""\n')
    pages = how_fast.pages(tmp_path)
    assert "| class | what | 1,000 | 10,000 | 100,000 |" in pages[how_fast.PAGE]
    assert "| `plain` | dense: built, processor s | 1 | 10 | 100 |" in pages[how_fast.PAGE]
    assert "| `plain` | curate: built, processor s |  | 7 |  |" in pages[how_fast.PAGE]
    assert "- `plain`: dense: 2026-01-01; commit abc; Some CPU; 2 cores; avx2; load average 1.5\n" in pages[how_fast.PAGE]
    assert "- `plain`: curate: 2026-01-01; commit abc; Some CPU; 2 cores; avx2; load average 0.5\n" in pages[how_fast.PAGE]
    drawn = ET.fromstring(pages[how_fast.PICTURES / "grown.svg"])
    lines = [line.get("points", "").split() for line in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(points) for points in lines] == [3, 1, 3, 3, 1]  # time, a query (curation has none), memory
    x, y = zip(*(map(float, point.split(",")) for point in lines[0]), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)  # decades are equally wide
    assert y[0] > y[1] > y[2]
