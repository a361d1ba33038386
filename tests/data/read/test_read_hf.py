"""Hugging Face `datasets` objects."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as Pictures

from diptych.core.errors import DataError
from diptych.core.sample import Text
from diptych.data.read import read
from diptych.data.shards.build import build, open_built

datasets = pytest.importorskip("datasets")


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Pictures.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def made(n: int = 4, **extra: list) -> object:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "caption": datasets.Value("string"),
            "kind": datasets.ClassLabel(names=["cat", "dog"]),
            **{name: datasets.Value("string") for name in extra},
        }
    )
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(n)],
        "caption": [f"c{i}" for i in range(n)],
        "kind": [i % 2 for i in range(n)],
    }
    return datasets.Dataset.from_dict({**rows, **extra}, features=features)


def test_images_are_fetched_undecoded() -> None:
    pool = read(made())
    assert [s.texts for s in pool] == [(Text(f"c{i}"),) for i in range(4)]
    assert [s.extras for s in pool] == [{"kind": "cat"}, {"kind": "dog"}] * 2
    assert [s.image.read() for s in pool if s.image] == [png(i) for i in range(4)]
    assert list(pickle.loads(pickle.dumps(pool)))[2].image.read() == png(2)


def test_a_subset_keeps_its_order() -> None:
    pool = read(made().select([3, 1]))
    assert [(s.texts[0].string, s.image.read()) for s in pool if s.image] == [("c3", png(3)), ("c1", png(1))]


def test_splits_of_a_dict() -> None:
    pool = read(datasets.DatasetDict(train=made(3), test=made(2)))
    assert {name: len(pool.split(name)) for name in pool.split_names} == {"train": 3, "test": 2}
    assert pool.split("test")[1].image.read() == png(1)


def test_it_builds(tmp_path: Path) -> None:
    build(read(made(), uid="caption"), tmp_path)
    assert {s.uid: s.image.read() for s in open_built(tmp_path) if s.image} == {f"c{i}": png(i) for i in range(4)}


def test_columns_of_paths(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    data = datasets.Dataset.from_dict({"path": [str(tmp_path / "a.png")], "text": ["hello"], "who": ["p"]})
    sample = read(data, group="who")[0]
    assert (sample.texts, sample.group, sample.image.read()) == ((Text("hello"),), "p", png(1))


def test_what_cannot_be_read_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'captoin'; did you mean 'caption'"):
        read(made(), text="captoin")
    with pytest.raises(DataError, match="load it without streaming"):
        read(made().to_iterable_dataset())
    with pytest.raises(DataError, match="is empty"):
        read(made(0))


def test_the_package_is_not_imported_for_other_data() -> None:
    code = "import sys, diptych.data.read; print('datasets' in sys.modules, 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"
