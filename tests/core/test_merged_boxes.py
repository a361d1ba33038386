"""Near-duplicate boxes of one name become one thing, with the relations of all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.merged_boxes import merge_boxes
from diptych.core.scene_graph import Region, Relation, SceneGraph

PLANTS = SceneGraph(
    (
        Region((0, 0, 10, 10), "plant", score=0.6),
        Region((1, 0, 10, 10), "plant", score=0.9),
        Region((0, 1, 10, 10), "plant", score=0.7),
        Region((1, 0, 10, 10), "pot", score=0.8),
        Region((30, 0, 40, 10), "plant", score=0.5),
    ),
    (
        Relation(0, "in", 3, 0.4),
        Relation(1, "in", 3, 0.3),
        Relation(2, "beside", 4, 0.2),
        Relation(0, "beside", 2, 0.9),
        Relation(4, "is", 4, 0.1),
    ),
)


def test_three_plants_are_one() -> None:
    merged = merge_boxes(PLANTS, 0.5)
    assert [(r.label, r.score) for r in merged.regions] == [("plant", 0.9), ("pot", 0.8), ("plant", 0.5)]
    assert merged.relations == (Relation(0, "in", 1, 0.4), Relation(0, "beside", 2, 0.2), Relation(2, "is", 2, 0.1))
    assert merge_boxes(merged, 0.5) == merged
    assert merge_boxes(PLANTS, 1.0) == PLANTS
    assert len(merge_boxes(PLANTS, 0.89).regions) == 4


def test_one_file_for_two_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    pictures = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(["detect", "none", *pictures, "--out", str(tmp_path / "found.png")]) != 0
    assert "expected a folder" in capsys.readouterr().err
    assert not (tmp_path / "found.png").exists()
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other/a.png")
    assert main(["detect", "none", pictures[0], str(tmp_path / "other/a.png"), "--out", str(tmp_path / "found")]) != 0
    assert "two pictures are called a" in capsys.readouterr().err
