"""Results to look at and to take away: DataFrames, notebook views, pictures, slices, membership."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych import api
from diptych.core.errors import DataError, DecodeError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.run_folder import RunFolder
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool

pd = pytest.importorskip("pandas")
WORLD = "world:scenes?n=16&test=8"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "clip"
    return api.train("clip", WORLD, folder, steps=2, batch_size=8, width=16, log_every=1, progress=False).path


@pytest.fixture(scope="module")
def pool() -> Pool:
    pixels = np.full((6, 9, 3), 40, np.uint8)
    extra = {"score": 0.5}
    return Pool.from_samples(
        [Sample(f"s{row}", ArrayImage(pixels), (Text(f"<b>thing {row}</b>"), Text("more")), extras=extra) for row in range(20)]
    )


def test_a_pool_is_sliced_asked_shown_and_taken_away(pool: Pool) -> None:
    assert pool[2:5].uids == ("s2", "s3", "s4")
    assert pool[-2:].uids == ("s18", "s19")
    assert pool[::10].uids == ("s0", "s10")
    assert "s3" in pool
    assert "s3" not in pool[4:]
    frame = pool.to_pandas()
    assert list(frame["uid"]) == list(pool.uids)
    assert frame["texts"][0] == ["<b>thing 0</b>", "more"]
    assert frame["score"][3] == 0.5
    page = pool._repr_html_()
    assert page.count("<img") == 12
    assert "&lt;b&gt;thing 0" in page
    assert "<b>" not in page


def test_a_picture_is_one_for_pil(pool: Pool) -> None:
    picture = pool[0].image
    assert isinstance(picture, ArrayImage)
    assert picture.pil().size == (9, 6)
    assert BytesImage(picture._repr_png_()).pil().getpixel((0, 0)) == (40, 40, 40)
    with pytest.raises(DecodeError):
        BytesImage(b"no picture").pil()
    with pytest.raises(DataError):
        dp.read([])


def test_a_run_a_model_and_an_index_are_tables_in_a_notebook(run: Path, tmp_path: Path) -> None:
    shown = RunFolder.open(run)._repr_html_()
    assert "finished at step" in shown
    assert shown.count("<svg") == 1
    model = dp.load(run)
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert f"{parameters:,}" in model._repr_html_()
    with dp.index(str(run), WORLD, tmp_path / "index", progress=False) as index:
        page = index._repr_html_()
    assert f"<td>{len(dp.read(WORLD)):,}</td>" in page
    assert "MiB" in page


def test_a_result_reads_and_goes_into_a_frame(run: Path) -> None:
    result = dp.evaluate(run, "retrieval", WORLD, split="test")
    frame = result.to_pandas()
    assert frame["metric"][0] == result.main
    assert frame["value"][0] == result.value
    assert repr(result).startswith(f"Result(retrieval v{result.version} on scenes/test: {result.main} ")
    assert result.main in result._repr_html_()


def test_hits_carry_their_pictures(run: Path, tmp_path: Path) -> None:
    with dp.index(str(run), WORLD, tmp_path / "index", progress=False) as index:
        hits = index.search("a red circle", 3)
        assert list(hits.to_pandas()["uid"]) == [hit.uid for hit in hits]
        assert hits._repr_html_().count("<img") == 3
        assert [len(each) for each in index.search(["a", "b"], 2)] == [2, 2]
    with dp.open_index(tmp_path / "index") as index:
        assert index.search("a red circle", 2)._repr_html_().count("<img") == 2
        index.pictures = None
        assert "<img" not in index.search("a red circle", 2)._repr_html_()


def test_a_graph_is_a_table_of_its_relations() -> None:
    graph = SceneGraph((Region((0, 0, 4, 4), "dog"), Region((2, 2, 9, 9), "<i>ball")), (Relation(0, "chasing", 1, 0.5),))
    frame = graph.to_pandas()
    assert frame.to_dict("records") == [
        {
            "subject": "dog",
            "predicate": "chasing",
            "object": "<i>ball",
            "confidence": 0.5,
            "subject_box": (0, 0, 4, 4),
            "object_box": (2, 2, 9, 9),
        }
    ]
    assert "<i>" not in graph._repr_html_()


def test_a_comparison_has_a_row_an_arm_and_measure(tmp_path: Path) -> None:
    data = dp.read(WORLD)  # an object: its cells are trained in this process
    made: Any = dp.compare(["clip", "clip:lr=1e-3"], data, seeds=1, budget="steps:1", out=tmp_path, batch_size=8, width=16)
    frame = made.to_pandas()
    assert {"task", "split", "metric", "arm", "mean", "difference", "verdict"} <= set(frame.columns)
    assert set(frame["arm"]) == {"clip", "clip:lr=1e-3"}
    assert "clip:lr=1e-3" in made._repr_html_()
