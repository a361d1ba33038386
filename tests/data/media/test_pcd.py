"""PCD files as clouds, and published lists of shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diptych.core.errors import DataError, DecodeError
from diptych.core.image import BytesImage
from diptych.core.media import MediaItem
from diptych.data.points.shape_lists import SCANOBJECTNN, read_modelnet, read_scanobjectnn, read_shapenet

HEAD = "# .PCD v0.7\nVERSION 0.7\nFIELDS {fields}\nSIZE {size}\nTYPE {kind}\nCOUNT {count}\nWIDTH {n}\nHEIGHT 1\nPOINTS {n}\nDATA {form}\n"


def cloud(data: bytes) -> np.ndarray:  # type: ignore[type-arg]
    return MediaItem("cloud", (BytesImage(data, "scan.pcd"),)).decode()


def test_text_binary_and_packed_colours_are_the_same() -> None:
    xyz_P3 = np.array([[1, 2, 3], [-4.5, 0, 6]], np.float32)
    rgb_P = np.array([(200 << 16) | (100 << 8) | 7, (1 << 16) | (2 << 8) | 3], np.uint32)
    head = HEAD.format(fields="intensity x y z rgb", size="4 4 4 4 4", kind="F F F F F", count="1 1 1 1 1", n=2, form="binary")
    row = np.dtype([("i", "<f4"), ("xyz", "<f4", (3,)), ("rgb", "<u4")])
    packed = np.zeros(2, row)
    packed["i"], packed["xyz"], packed["rgb"] = [9, 8], xyz_P3, rgb_P
    expected = np.concatenate([xyz_P3, [[200, 100, 7], [1, 2, 3]], [[9], [8]]], 1)
    np.testing.assert_allclose(cloud(head.encode() + packed.tobytes()), expected)
    text = HEAD.format(fields="x y z rgb", size="4 4 4 4", kind="F F F U", count="1 1 1 1", n=2, form="ascii")
    lines = "\n".join(f"{x} {y} {z} {c}" for (x, y, z), c in zip(xyz_P3, rgb_P, strict=True))
    np.testing.assert_allclose(cloud((text + lines).encode()), expected[:, :6])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"form": "binary_compressed"}, "binary_compressed"),
        ({"n": 5}, "values for 5 points"),
        ({"fields": "x y w"}, "no field z"),
        ({"kind": "F F Q"}, "broken header"),
        ({"size": "4 4"}, "broken header"),
    ],
)
def test_broken_files_are_one_line(change: dict[str, object], problem: str) -> None:
    facts = {"fields": "x y z", "size": "4 4 4", "kind": "F F F", "count": "1 1 1", "n": 1, "form": "ascii"} | change
    with pytest.raises(DecodeError, match=problem):
        cloud((HEAD.format(**facts) + "1 2 3\n").encode())


def test_lists_of_shapes(tmp_path: Path) -> None:
    (tmp_path / "night_stand").mkdir()
    (tmp_path / "modelnet40_test.txt").write_text("night_stand_0001\n\n")
    (tmp_path / "night_stand" / "night_stand_0001.txt").write_text("1,2,3,0,0,1\n4,5,6,0,0,1\n")
    pool = read_modelnet(tmp_path)
    assert pool[0].extras["label"] == "night stand"
    np.testing.assert_allclose(pool[0].media["cloud"].decode(), [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(DataError, match="no such list"):
        read_modelnet(tmp_path, split="train")
    (tmp_path / "test.txt").write_text("02691156-abc.npy\n")
    (tmp_path / "taxonomy.json").write_text(json.dumps([{"synsetId": "02691156", "name": "airplane,plane"}]))
    np.save(tmp_path / "02691156-abc.npy", np.eye(3, dtype=np.float32))
    shapes = read_shapenet(tmp_path, tmp_path)
    assert shapes[0].extras["label"] == "airplane,plane"
    assert shapes[0].media["cloud"].decode().shape == (3, 3)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "objects.h5", "w") as file:
        file["data"], file["label"] = np.ones((2, 4, 3), np.float32), np.array([4, 14])
    scans = read_scanobjectnn(tmp_path / "objects.h5")
    assert [scans[row].extras["label"] for row in range(2)] == ["chair", "toilet"]
    assert len(SCANOBJECTNN) == 15
    with pytest.raises(DataError, match="labels of 3 names"):
        read_scanobjectnn(tmp_path / "objects.h5", names=("a", "b", "c"))
