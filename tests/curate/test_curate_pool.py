"""Steps in a row: what is written, what is resumed, and what a faulty step is told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.contracts import CurationStepResult, Drop
from diptych.core.errors import RunError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.registry import OPERATORS
from diptych.core.sample import Sample, Text
from diptych.curate.duplicates.exact import ExactDuplicates
from diptych.curate.duplicates.near import NearDuplicates
from diptych.curate.engine.pool import curate, plan
from diptych.data.columns import read_table
from diptych.data.dataset import Pool
from diptych.worlds import scenes

from ..helpers.killed import KillAt


@pytest.fixture
def data() -> Pool:
    world = scenes(12, seed=3)
    samples = [Sample(f"a{row:02d}", world[row].image, (Text("x"),)) for row in range(12)]
    softer = world[4].image.pixels_HWC.astype(np.int16) + 3
    samples.append(Sample("b_copy", world[2].image))
    samples.append(Sample("c_near", ArrayImage(np.clip(softer, 0, 255).astype(np.uint8))))
    return Pool.from_samples(samples, name="planted")


def test_kept_pool_removal_table_and_costs(data: Pool, tmp_path) -> None:
    result = curate(data, [ExactDuplicates(), NearDuplicates()], tmp_path)
    assert list(result.kept.uids) == [f"a{row:02d}" for row in range(12)]
    assert isinstance(result.kept, Pool)
    removed = read_table(tmp_path, "removed").table.to_pylist()
    assert [(row["uid"], row["step"], row["reason"].split(":")[0]) for row in removed] == [
        ("b_copy", "exact_duplicates", "same bytes as a02"),
        ("c_near", "near_duplicates", "near a04"),
    ]
    facts = json.loads((tmp_path / "curation.json").read_text())
    assert [(step["slug"], step["before"], step["after"]) for step in facts["steps"]] == [
        ("exact_duplicates", 14, 13),
        ("near_duplicates", 13, 12),
    ]
    assert facts["input"]["fingerprint"] == data.fingerprint
    assert facts["output"] == {"fingerprint": result.kept.fingerprint, "count": 12}
    assert read_table(tmp_path, "duplicate_of").table.to_pylist() == [
        {"uid": "b_copy", "duplicate_of": "a02"},
        {"uid": "c_near", "duplicate_of": "a04"},
    ]
    assert result.lines()[0].startswith("exact_duplicates 14 -> 13")


@dataclass(frozen=True)
class Counting:
    """Drops one uid and counts how often it ran."""

    slug: ClassVar[str] = "counting"
    runs: ClassVar[list[str]] = []

    uid: str = "a00"

    def plan(self, data) -> dict:
        return {"items": len(data), "unit": "nothing", "seconds_each": 0.0, "seconds": 0.0}

    def __call__(self, data) -> CurationStepResult:
        self.runs.append(self.uid)
        return CurationStepResult(
            tuple(u for u in data.uids if u != self.uid), (Drop(self.uid, self.slug, "chosen"),), {"n": {"a01": 5}}
        )


def test_a_second_curation_into_one_folder_is_refused(data: Pool, tmp_path) -> None:
    out = tmp_path / "out"

    @dataclass(frozen=True)
    class Nested(Counting):
        """While it runs, another curation into the same folder is tried."""

        def __call__(self, data) -> CurationStepResult:
            with pytest.raises(RunError, match="out is being curated in another process: let it end") as caught:
                curate(data, [ExactDuplicates()], out)
            assert "\n" not in str(caught.value)
            curate(data, [ExactDuplicates()], tmp_path / "elsewhere")
            return super().__call__(data)

    result = curate(data, [Nested()], out)
    assert read_table(out, "removed").table["step"].to_pylist() == ["counting"] == [drop.step for drop in result.removed]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "out"]


def test_a_full_disk_ends_a_curation_in_one_line(data: Pool, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("diptych.data.columns.write_atomic", full)
        with pytest.raises(RunError, match=r"the disk of .*out is full: finished parts are kept; free some space") as caught:
            curate(data, [ExactDuplicates()], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert curate(data, [ExactDuplicates()], tmp_path / "out").removed
    assert not (tmp_path / "out" / "parts").exists()


@dataclass(frozen=True)
class Failing(Counting):
    slug: ClassVar[str] = "failing"

    def __call__(self, data) -> CurationStepResult:
        raise KeyboardInterrupt


def test_a_second_run_resumes_after_the_last_finished_step(data: Pool, tmp_path) -> None:
    Counting.runs.clear()
    with pytest.raises(KeyboardInterrupt):
        curate(data, [Counting("a00"), Failing()], tmp_path)
    result = curate(data, [Counting("a00"), Counting("a05")], tmp_path)
    assert Counting.runs == ["a00", "a05"]
    assert [step.resumed for step in result.steps] == [True, False]
    assert {drop.uid for drop in result.removed} == {"a00", "a05"}
    assert result.columns == {"n": {"a01": 5}}
    curate(data, [Counting("a03"), Counting("a05")], tmp_path)  # another configuration: nothing may be taken over
    assert Counting.runs == ["a00", "a05", "a03", "a05"]
    curate(data.select(range(13)), [Counting("a03")], tmp_path)  # other data
    assert Counting.runs[-1] == "a03"
    assert len(Counting.runs) == 5


@dataclass(frozen=True)
class Faulty(Counting):
    slug: ClassVar[str] = "faulty"
    fault: str = ""

    def __call__(self, data) -> CurationStepResult:
        kept = list(data.uids)
        if self.fault == "invents":
            kept.append("nobody")
        if self.fault == "forgets":
            kept.pop()
        drops = (Drop("a01", "faulty", "twice"),) if self.fault == "repeats" else ()
        return CurationStepResult(tuple(kept), drops)


@pytest.mark.parametrize(
    ("fault", "says"),
    [("invents", "invented uid 'nobody'"), ("forgets", "has no result for"), ("repeats", "judged a uid twice")],
)
def test_a_step_answers_for_every_row_once(data: Pool, fault: str, says: str) -> None:
    with pytest.raises(RunError, match=says):
        curate(data, [Faulty(fault=fault)])


def test_works_on_worlds_too_and_plans() -> None:
    world = scenes(10, seed=0)
    result = curate(world, [ExactDuplicates()])
    assert len(result.kept) == 10
    assert result.kept.split("train").name == "scenes"
    costs = plan(world, [ExactDuplicates(), NearDuplicates()])
    assert [cost["step"] for cost in costs] == ["exact_duplicates", "near_duplicates"]
    assert all(cost["items"] == 10 for cost in costs)


def test_registry() -> None:
    assert OPERATORS.load("near_duplicates") is NearDuplicates
    with pytest.raises(UnknownName, match="did you mean 'near_duplicates'"):
        OPERATORS.load("near_duplicate")


def test_a_step_that_drops_nearly_everything_says_so() -> None:
    same = Pool.from_samples([Sample(f"u{n:03}", ArrayImage(np.zeros((8, 8, 3), np.uint8))) for n in range(100)])
    lines = curate(same, [ExactDuplicates()]).lines()
    assert lines[1] == "! exact_duplicates dropped 99.0% of the rows: look at the reasons below"
    half = Pool.from_samples([Sample(f"u{n}", ArrayImage(np.full((8, 8, 3), n // 2, np.uint8))) for n in range(6)])
    assert not any(line.startswith("!") for line in curate(half, [ExactDuplicates()]).lines())


@dataclass(frozen=True)
class Lists(Counting):
    """A step with a nested column, whose Arrow type Parquet does not give back as it was."""

    slug: ClassVar[str] = "lists"

    def __call__(self, data) -> CurationStepResult:
        table = pa.table({"uid": list(data.uids), "parts": [[{"n": 1}]] * len(data)})
        return CurationStepResult(tuple(data.uids), (), {"parts": table})


def test_a_run_killed_anywhere_writes_the_bytes_of_an_undisturbed_one(data: Pool, tmp_path, kill: KillAt) -> None:
    def files(out: Path) -> dict[str, bytes]:
        paths = (path for path in out.rglob("*") if path.is_file() and path.name not in ("costs.json", "lineage.json"))
        return {str(path.relative_to(out)): path.read_bytes() for path in paths}

    steps = [Lists("a00"), Counting("a05")]
    curate(data, steps, tmp_path / "whole")
    whole, moment, killed = files(tmp_path / "whole"), 0, [0]
    while killed:
        out = tmp_path / f"killed-{moment}"
        with kill(moment) as killed:
            curate(data, steps, out)
        (out / "tables").mkdir(parents=True, exist_ok=True)
        (out / "tables" / ".removed.parquet.0123abcd").write_bytes(b"half")  # as a kill in the middle of a file leaves it
        curate(data, steps, out)
        assert files(out) == whole, moment
        moment += 1
    assert moment > 10
