"""The page says what was measured, opens offline, and shows the items that one arm has and another has not."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diptych.core.contracts import ReportColumns
from diptych.core.disk.files import write_atomic
from diptych.core.errors import ConfigError
from diptych.core.result import Metric, Result
from diptych.report.comparison_result import ArmCost, CellFailure, ComparisonResult, Contrast, ItemDifference, Measure
from diptych.report.pages.comparison import comparison_report, difference_chart, summary
from diptych.report.pictures import Album
from diptych.report.won_and_lost import won_and_lost
from diptych.tasks.evaluate import evaluate
from diptych.worlds.scenes.world import scenes

RIGHT = {("a", 0): "0011", ("a", 1): "0111", ("b", 0): "1010", ("b", 1): "1010"}
"""Which of four items each arm gets right under each seed: b alone has item 0, a alone has item 3."""


@pytest.fixture(scope="module")
def data() -> Any:
    return scenes(4, seed=1, size=32, split="test")


@pytest.fixture
def measured(tmp_path: Path, data: Any) -> ComparisonResult:
    folders: dict[str, dict[int, str]] = {"a": {}, "b": {}}
    for (arm, seed), right in RIGHT.items():
        folder = tmp_path / f"{arm}-{seed}"
        folders[arm][seed] = str(folder)
        rows = [
            {
                "query": uid,
                "direction": "text_to_image",
                "text": f"caption {i}",
                "group": data[i].group,
                "rank_expected": 1.0 if right[i] == "1" else 3.0,
                "top": [uid if right[i] == "1" else data.uids[(i + 1) % 4]],
            }
            for i, uid in enumerate(data.uids)
        ]
        (folder / "records").mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "records" / "retrieval-scenes-test.parquet")
        lines = [
            f'{{"step": {step}, "kind": "train", "loss": {5 - step / 10}, "seconds": 0.5, "images_per_second": 9}}'
            for step in (10, 20)
        ]
        write_atomic(folder / "metrics.jsonl", "\n".join(lines))
    view = ItemDifference(0.1, -0.2, 0.4, 0.5, 3, 2, 0.3, 8, 4)
    contrast = Contrast("b", -0.05, -0.09, -0.01, 0.03, 0.03, "reversed", view, 7, 29400)
    measure = Measure(
        "retrieval", "test", "r@1", True, True, 0.25, 8, 4, {"a": {0: 0.5, 1: 0.6}, "b": {0: 0.5, 1: 0.5}}, (contrast,)
    )
    cost = ArmCost("a", 20, 8, 1000, 900, 12.0, 20.0, 10.0, 16.0, 5e8)
    return ComparisonResult(
        arms=("a", "b"),
        seeds=(0, 1),
        data={"name": "<scenes>", "fingerprint": "f", "training_rows": 24, "source": ""},
        budget="steps:20",
        tasks=("retrieval",),
        given=False,
        measures=(measure,),
        costs=(cost, replace(cost, arm="b", peak_memory=math.nan)),
        failures=(CellFailure("b", 2, "the disk is full"),),
        folders=folders,
        configs={"a": {"recipe": "a", "lr": 1e-3, "width": 8}, "b": {"recipe": "b", "lr": 1e-3, "bias": -10.0, "width": 8}},
        environment={"cores": 2},
    )


def test_the_page_holds_what_was_measured_and_nothing_from_elsewhere(
    measured: ComparisonResult, data: Any, tmp_path: Path
) -> None:
    html = comparison_report(tmp_path / "report.html", measured, data).read_text(encoding="utf-8")
    for words in (
        "b against a: shown to be worse on test",
        "−0.050 [−0.090, −0.010]",
        "for these runs only",
        "the disk is full",
        "16",
        "loss of a over seconds",
    ):
        assert words in html
    assert "&lt;scenes&gt;" in html
    assert "<scenes>" not in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert "@import" not in html


def test_without_data_the_page_has_no_pictures(measured: ComparisonResult, tmp_path: Path) -> None:
    html = comparison_report(tmp_path / "report.html", measured).read_text(encoding="utf-8")
    assert "Won and lost" not in html


def test_won_are_items_right_under_every_seed_and_under_none(measured: ComparisonResult, data: Any) -> None:
    html = "".join(won_and_lost(measured, Album(data)))
    titles = re.findall(r"<h3>(.*?)</h3>", html)
    assert titles == [
        "retrieval on test: b right under every seed, a under none: 1 of 4",
        "retrieval on test: a right under every seed, b under none: 1 of 4",
    ]
    assert re.findall(r"<q>(.*?)</q>", html) == ["caption 0", "caption 3"]
    assert html.count("data:image/webp") == 6  # each: what was wanted, and the first answer of both


def test_configurations_are_shown_where_they_differ(measured: ComparisonResult) -> None:
    assert measured.differing_fields() == {"recipe": {"a": "a", "b": "b"}, "bias": {"b": -10.0}}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("shown", "b against a: shown to be better on test (−0.050)."),
        ("equal within the margin", "b against a: equal within the margin on test (−0.050)."),
        ("open", "b against a: open on test (−0.050)."),
    ],
)
def test_an_arm_in_a_sentence(measured: ComparisonResult, word: Any, said: str) -> None:
    measure = measured.measures[0]
    changed = replace(measure, contrasts=(replace(measure.contrasts[0], verdict=word),))
    assert summary(replace(measured, measures=(changed,)), "b") == said


def test_a_sentence_names_the_metric_where_there_are_several(measured: ComparisonResult) -> None:
    probe = replace(measured.measures[0], task="probe:minimum=2", metric="macro", split="unseen_style")
    words = summary(replace(measured, measures=(*measured.measures, probe), tasks=("retrieval", "probe:minimum=2")), "b")
    assert words == "b against a: shown to be worse on retrieval r@1 of test (−0.050) and probe macro of unseen style (−0.050)."


def test_the_difference_chart_has_zero_and_every_seed(measured: ComparisonResult) -> None:
    svg = difference_chart("difference", measured, measured.measures[0])
    assert svg.count("<circle") == 2
    zero = re.search(r'x1="([\d.]+)"[^>]*stroke="var\(--soft\)"', svg)
    mean = re.search(r'x1="([\d.]+)"[^>]*stroke-width="3"/>', svg)
    assert zero is not None
    assert mean is not None
    assert float(mean[1]) < float(zero[1])


@dataclass(frozen=True)
class FloorPlans:
    """A task of another package, whose records have columns of their own."""

    answers: str
    declared: bool = True
    name: ClassVar[str] = "floor_plans"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = object
    main: ClassVar[str] = "share"

    @property
    def report_columns(self) -> ReportColumns | None:
        columns = ReportColumns(item="plan", right="solved", truth="room", answer="reply", uid="picture")
        return columns if self.declared else None

    def predict(self, model: Any, data: Any) -> pa.Table:
        rows = [
            {"plan": i, "solved": int(right), "room": f"room {i}", "reply": f"hall {i}", "picture": data.uids[i]}
            for i, right in enumerate(self.answers)
        ]
        return pa.Table.from_pylist(rows)

    def score(self, records: pa.Table) -> Result:
        share = sum(records.column("solved").to_pylist()) / len(records)
        return Result(self.name, 1, "share", {"share": Metric(share, share, share)}, len(records), len(records))


def planned(measured: ComparisonResult, data: Any, folder: Path, *, declared: bool) -> ComparisonResult:
    """The comparison with records of the outside task in place of those of retrieval."""
    folders: dict[str, dict[int, str]] = {"a": {}, "b": {}}
    for (arm, seed), right in RIGHT.items():
        folders[arm][seed] = str(folder / f"{arm}-{seed}")
        evaluate(FloorPlans(right, declared), object(), data, out=folder / f"{arm}-{seed}" / "records")
    split = data.name.split("/")[-1]
    measure = replace(measured.measures[0], task="floor_plans", metric="share", split=split)
    return replace(measured, measures=(measure,), folders=folders, tasks=("floor_plans",))


def test_records_of_an_outside_task_are_read_by_the_columns_that_it_declares(
    measured: ComparisonResult, data: Any, tmp_path: Path
) -> None:
    html = "".join(won_and_lost(planned(measured, data, tmp_path, declared=True), Album(data)))
    assert [title.rpartition(": ")[2] for title in re.findall(r"<h3>(.*?)</h3>", html)] == ["1 of 4", "1 of 4"]
    assert "room 0. a says hall 0" in html
    assert "room 3. b says hall 3" in html
    assert "room 1" not in html
    assert html.count('src="data:image/webp') == 2


def test_a_task_that_declares_no_columns_leaves_the_report_whole(measured: ComparisonResult, data: Any, tmp_path: Path) -> None:
    plans = planned(measured, data, tmp_path, declared=False)
    html = comparison_report(tmp_path / "report.html", plans, data).read_text(encoding="utf-8")
    assert "a task names its own as `report_columns`" in html
    assert "floor_plans on" in html


def test_a_declared_column_that_the_records_lack_is_refused_before_scoring(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ReportColumns(item="plan", right="won", truth="room", answer="reply", uid="")
    monkeypatch.setattr(FloorPlans, "report_columns", wrong)
    with pytest.raises(ConfigError, match="'floor_plans' declares report columns that its records lack: won"):
        evaluate(FloorPlans("0101"), object(), data)
