"""The estimate of `benchmarks/growth.py` on curves whose answer is known, and one small size of every kind of index."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def growth() -> Iterator[Any]:
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmark_growth_tested", FOLDER / "growth.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


def test_both_lines_are_continued_and_each_is_right_where_it_fits(growth: Any) -> None:
    line = [{"items": n, "x": 5 + 2e-3 * n} for n in (1000, 2000, 4000)]
    straight, bent, slope = growth.continued(line, "x", 1_000_000)
    assert straight == pytest.approx(5 + 2e-3 * 1_000_000)
    assert slope < 1  # the constant
    assert bent < straight
    square = [{"items": n, "x": 3e-6 * n**2} for n in (4000, 1000, 2000)]  # in any order
    straight, bent, slope = growth.continued(square, "x", 1_000_000)
    assert bent == pytest.approx(3e-6 * 1e12)
    assert slope == pytest.approx(2)
    assert straight < bent
    early = [{"items": 10, "x": 100.0}, *line]  # no part of the three largest
    assert growth.continued(early, "x", 1_000_000) == growth.continued(line, "x", 1_000_000)
    falling = [{"items": n, "x": 1 / n} for n in (1000, 2000, 4000)]
    assert growth.continued(falling, "x", 1_000_000)[0] == 0


def test_what_breaks_first_is_the_largest_share_of_the_machine(growth: Any) -> None:
    def rows(memory: float) -> list[dict[str, float]]:
        flat = {"build_cpu_seconds": 1.0, "disk_gib": 0.1, "search_gib": 0.01, "search_cpu_ms": 1.0}
        return [{"items": n, "build_gib": memory * n / growth.TARGET, **flat} for n in (10_000, 30_000, 100_000)]

    said = growth.estimate({"dense": rows(2 * growth.HARDWARE["memory_gib"]), "late": rows(1)})
    assert said[-1] == "What breaks first is dense: memory while it is built, at 2.0 times what there is."
    said = growth.estimate({"dense": rows(0.25 * growth.HARDWARE["memory_gib"]), "late": rows(1)})
    assert said[-1] == "Nothing breaks; nearest to it is dense: memory while it is built, at 0.25 of what there is."


def test_a_curve_that_is_too_short_has_no_estimate(growth: Any) -> None:
    rows = [{"items": n, "build_cpu_seconds": 1.0, "build_gib": 1.0} for n in (10_000, 20_000, 30_000)]
    assert growth.estimate({"curate": rows}) == []
    assert growth.estimate({"curate": [rows[0], {**rows[1], "items": 100_000}]}) == []


@pytest.mark.parametrize("kind", ["dense", "nested", "lexical", "late"])
def test_every_kind_is_built_by_one_call_and_searched_by_another(growth: Any, kind: str, tmp_path: Path) -> None:
    made = growth.built(kind, 300, tmp_path)
    assert made["disk_gib"] > 0
    asked = growth.searched(kind, tmp_path)
    assert asked["search_ms"] > 0
    assert asked["search_gib"] >= 0
