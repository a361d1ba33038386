"""Pages open offline, escape what came from data, and draw what they are given."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import MediaItem
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.report import page
from diptych.report.curves import Bar, LineSeries, interval_chart, line_chart, ticks
from diptych.report.pages.run import run_report
from diptych.report.pages.side_by_side import over_seeds
from diptych.report.pictures import Album, data_uri, thumbnail

EVIL = '<script>alert("x")</script>'


def test_whatever_came_from_data_is_escaped() -> None:
    blocks = (
        page.text(EVIL),
        page.heading(EVIL),
        page.lines([EVIL]),
        page.table([EVIL], [[EVIL]]),
        page.table([EVIL] * page.MANY, [[EVIL] * page.MANY]),
        page.cards([(EVIL, EVIL)]),
        page.figure("data:,", EVIL),
        page.query_row(EVIL, EVIL, []),
        page.folded(EVIL, EVIL),
        line_chart(EVIL, [LineSeries(EVIL, ((0, 0), (1, 1)))], reference=(EVIL, 0.5)),
        interval_chart(EVIL, [Bar(EVIL, 0.5)]),
    )
    html = page.page(EVIL, EVIL, [page.Section(EVIL, blocks)], footer=EVIL)
    assert "<script" not in html


def test_a_page_asks_for_nothing_from_elsewhere() -> None:
    html = page.page("t", "l", [page.Section("s", (page.text("x"),))])
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", html)
    assert "url(" not in html
    assert "@import" not in html
    assert 'name="viewport"' in html


def test_empty_sections_are_left_out() -> None:
    html = page.page("t", "l", [page.Section("Full", ("x",)), page.Section("Void", ("",))])
    assert "Full" in html
    assert "Void" not in html


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.37), (1e-6, 3e-6), (-5.0, 2.0), (0.0, 0.0), (4.1, 4.6), (0, 12345)])
def test_ticks_enclose_the_range_with_few_round_steps(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 8
    steps = np.diff(marks)
    assert np.allclose(steps, steps[0])


def test_numbers_that_are_none_are_not_drawn() -> None:
    chart = line_chart("loss", [LineSeries("a", ((0, 1.0), (1, math.nan), (2, 0.5)))])
    assert "nan" not in chart
    assert line_chart("loss", [LineSeries("a", ((0, math.nan),))]) == ""
    assert interval_chart("r", [Bar("a", math.nan)]) == ""
    assert "nan" not in interval_chart("r", [Bar("a", 0.2), Bar("b", 0.4, 0.3, 0.5, (0.35, 0.45), 0.01)])


def test_interval_over_seeds_is_students_t() -> None:
    mean, low, high = over_seeds([0.1, 0.2, 0.3])
    assert mean == pytest.approx(0.2)
    assert high - mean == pytest.approx(4.302652729911275 * 0.1 / math.sqrt(3))
    assert mean - low == pytest.approx(high - mean)
    assert math.isnan(over_seeds([0.1])[1])


def test_pictures_are_small_and_a_broken_one_costs_itself() -> None:
    big = np.zeros((400, 200, 3), np.uint8)
    assert len(data_uri(big, side=32)) < 1000
    assert thumbnail(MediaItem("image", (ArrayImage(big),))).startswith("data:image/webp;base64,")
    assert thumbnail(MediaItem("image", (BytesImage(b"no image"),))).startswith("data:image/webp;base64,")


def test_an_album_knows_captions_and_what_it_lacks() -> None:
    picture = ArrayImage(np.zeros((8, 8, 3), np.uint8))
    album = Album(Pool.from_samples([Sample("a", picture, (Text("eine Katze", "de"), Text("a cat", "en"))), Sample("b")]))
    assert album.of("a")[1] == "a cat"
    assert album.of("b")[1] == ""
    assert album.present(["a", "z", "b"]) == ["a", "b"]
    assert "z" not in album


def test_a_run_without_data_or_results_has_a_report_too(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", slug="clip", environment={"packages": {}})
    folder.metrics_file.write_text('{"step": 1, "kind": "train", "loss": 2.0, "seconds": 0.5, "images_per_second": 9.0}\n')
    (folder.path / "config.yaml").write_text("recipe:\n  lr: 0.1\nrun: {}\n")
    (folder.path / "prepared.json").write_text("{}")
    text = run_report(folder).read_text()
    assert "clip on data" in text
    assert "lr: 0.1" in text
    assert folder.training_seconds() == 0.5


def test_a_curve_of_few_points_marks_each_of_them() -> None:
    assert line_chart("loss", [LineSeries("a", ((30.0, 2.5),))]).count("<circle") == 1
    assert line_chart("loss", [LineSeries("a", tuple((float(step), 1.0) for step in range(40)))]).count("<circle") == 0
