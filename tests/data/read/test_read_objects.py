"""What is in memory already: tables of three libraries, lists, data sets of torch; and tables with other marks than commas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import diptych as dp
from diptych.core.errors import DataError
from diptych.core.sample import Text
from diptych.data.media.decode import decode

pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    for row in range(4):
        Image.fromarray(np.full((8, 8, 3), row * 40, np.uint8)).save(place / f"{row}.png")
    return place


def shades(pool: Any) -> list[int]:
    return [int(decode(pool[row].image)[0, 0, 0]) for row in range(len(pool))]


def words(pool: Any) -> list[list[str]]:
    return [[text.string for text in pool[row].texts] for row in range(len(pool))]


TEXTS = [["a"], ["b"], ["c"], ["d"]]


def test_a_frame_of_paths_is_read_as_its_table(folder: Path) -> None:
    frame = pd.DataFrame({"path": [f"{row}.png" for row in range(4)], "caption": list("abcd"), "score": [0.5, 1.0, 2.0, None]})
    pool = dp.read(frame, root=folder)
    assert (shades(pool), words(pool)) == ([0, 40, 80, 120], TEXTS)
    assert pool.column("score")[:3] == [0.5, 1.0, 2.0]
    (folder / "same.csv").write_text(frame.to_csv(index=False))
    assert pool.uids == dp.read(folder / "same.csv").uids
    for same in (pa.Table.from_pandas(frame), pa.RecordBatch.from_pandas(frame)):
        assert words(dp.read(same, root=folder)) == TEXTS


def test_a_frame_of_pictures(folder: Path) -> None:
    pictures = [Image.open(folder / f"{row}.png") for row in range(4)]
    pool = dp.read(pd.DataFrame({"img": pictures, "says": list("abcd")}), text="says")
    assert (shades(pool), words(pool)) == ([0, 40, 80, 120], TEXTS)
    arrays = [np.asarray(picture) for picture in pictures]
    assert shades(dp.read(pd.DataFrame({"img": arrays, "caption": list("abcd")}))) == [0, 40, 80, 120]
    with pytest.raises(DataError, match=r"columns one, two hold pictures \(expected image=COLUMN"):
        dp.read(pd.DataFrame({"one": pictures, "two": pictures}))


def test_lists_of_pairs_and_of_rows(folder: Path) -> None:
    pairs = [(folder / f"{row}.png", letter) for row, letter in enumerate("abcd")]
    assert (shades(dp.read(pairs)), words(dp.read(pairs))) == ([0, 40, 80, 120], TEXTS)
    several = dp.read([(Image.open(folder / "1.png"), ["a", Text("b", "de")])])
    assert [(text.string, text.language) for text in several[0].texts] == [("a", ""), ("b", "de")]
    rows = [{"image": f"{row}.png", "caption": letter} for row, letter in enumerate("abcd")]
    assert words(dp.read(rows, root=folder)) == TEXTS
    with pytest.raises(DataError, match=r"row 1: is 3 values \(expected pairs"):
        dp.read([(folder / "0.png", "a"), (1, 2, 3)])
    with pytest.raises(DataError, match=r"row 0: .*its text is a int"):
        dp.read([(folder / "0.png", 3)])
    with pytest.raises(DataError, match="the list is empty"):
        dp.read([])
    with pytest.raises(DataError, match=r"cannot read a int \(expected a path, .* DataFrame"):
        dp.read(7)


def test_a_data_set_of_torch(folder: Path) -> None:
    class Labelled:
        classes = ("dark", "light")

        def __len__(self) -> int:
            return 4

        def __getitem__(self, row: int) -> Any:
            if not 0 <= row < 4:
                raise IndexError(row)
            return Image.open(folder / f"{row}.png"), int(row > 1)

    pool = dp.read(Labelled())
    assert shades(pool) == [0, 40, 80, 120]
    assert [(text.string, text.origin) for row in range(4) for text in pool[row].texts] == [
        *[("dark", "label")] * 2,
        *[("light", "label")] * 2,
    ]

    class Odd(Labelled):
        def __getitem__(self, row: int) -> Any:
            return row

    with pytest.raises(DataError, match="an item is a int"):
        dp.read(Odd())


@pytest.mark.parametrize(("mark", "asked"), [(";", ""), ("\t", ""), ("|", ""), ("~", "~"), ("\t", "tab")])
def test_tables_with_other_marks_than_commas(mark: str, asked: str, folder: Path) -> None:
    lines = [f"path{mark}caption", *(f"{row}.png{mark}{letter}, or so" for row, letter in enumerate("abcd"))]
    (folder / "marks.csv").write_text("\n".join(lines))
    options = {"delimiter": asked} if asked else {}
    assert words(dp.read(folder / "marks.csv", **options)) == [[f"{letter}, or so"] for letter in "abcd"]


def test_a_comma_stays_a_comma_beside_other_marks(folder: Path) -> None:
    (folder / "commas.csv").write_text('path,caption\n0.png,"a; b; c"\n1.png,d|e\n')
    assert words(dp.read(folder / "commas.csv")) == [["a; b; c"], ["d|e"]]
    with pytest.raises(DataError, match=r"delimiter is 'ab' \(expected one character"):
        dp.read(folder / "commas.csv", delimiter="ab")


def test_names_of_folders_are_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / "0.png")
    pool = dp.read(tmp_path, text="folder")
    assert [(text.string, text.origin) for row in range(2) for text in pool[row].texts] == [("cat", "label"), ("dog", "label")]
