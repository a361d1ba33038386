"""Lists of pairs of people: boxes, relations by number, pictures below the root, and lines that are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import DataError
from diptych.data.graphs.formats.social_pairs import RELATIONS
from diptych.data.media.decode import decode
from diptych.pipelines._social.prompts import PIPA, PISC

LINES = "a.jpg 297 103 704 681 781 198 1023 681 14\nb.jpg 5 2 10 9 0 1 4 9 4\na.jpg 297 103 704 681 0 0 90 80 0\n"


def test_pairs_of_a_list(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((40, 60, 3), 7, np.uint8)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "relation_trainidx.txt").write_text(LINES)
    pool = dp.read(str(tmp_path / "relation_trainidx.txt"), format="pipa")
    first, second, third = pool[0], pool[1], pool[2]
    assert [region.box for region in first.regions] == [(297, 103, 704, 681), (781, 198, 1023, 681)]
    assert first.graph.triplets() == [("person", "sport team members", "person")]
    assert [pair.extras["relation"] for pair in (first, second, third)] == ["sport team members", "friends", "father-child"]
    assert [pair.extras["symbols"] for pair in (first, second, third)] == [["P1", "P2"], ["P1", "P2"], ["P1", "P3"]]
    assert first.group == third.group != second.group
    assert list(pool.split_names) == ["train"]
    assert first.image is not None
    assert decode(first.image, exact=True).shape == (40, 60, 3)
    other = dp.read(str(tmp_path / "relation_trainidx.txt"), format="pipa", root=str(tmp_path / "images"))
    assert other[0].image is not None
    assert decode(other[0].image, exact=True).shape == (40, 60, 3)


def test_relations_are_those_of_the_pipeline() -> None:
    assert {"pipa": tuple(PIPA), "pisc": tuple(PISC)} == RELATIONS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg 1 2 3 4 5 6 7 8", "row 1: is 'a.jpg 1 2 3 4 5 6 7 8'"),
        ("a.jpg 1 2 3 4 5 6 7 8 6", r"row 1: has the label 6 \(expected 0 to 5\)"),
        ("a.jpg 5 2 3 4 5 6 7 8 0", r"row 1: has the box \[5, 2, 3, 4\]"),
        ("../a.jpg 1 2 3 4 5 6 7 8 0", "row 1: names the picture '../a.jpg'"),
        ("a.jpg 1 2 three 4 5 6 7 8 0", "row 1: is 'a.jpg"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text(f"a.jpg 1 2 3 4 5 6 7 8 0\n{line}\n")
    with pytest.raises(DataError, match=message):
        dp.read(str(file), format="pisc")


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("\n")
    with pytest.raises(DataError, match="contains no pair"):
        dp.read(str(tmp_path / "pairs.txt"), format="pisc")
