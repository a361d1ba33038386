"""Lists of shapes with classes, as ModelNet40, ScanObjectNN and ShapeNet-55 are published, as samples with a cloud and the column `label`.

read_modelnet     FOLDER/modelnet40_test.txt lists shapes, FOLDER/CLASS/SHAPE.txt holds x,y,z and normals
read_shapenet     FOLDER/test.txt lists SYNSET-MODEL.npy, FOLDER/taxonomy.json names synsets; clouds lie in a folder beside
read_scanobjectnn an .h5 file with "data" [N, P, 3] and "label" [N]; its 15 names in their order
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.core.errors import DataError, MissingExtra
from diptych.core.image import FileImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool

SCANOBJECTNN = (
    "bag", "bin", "box", "cabinet", "chair", "desk", "display", "door", "shelf", "table", "bed", "pillow", "sink", "sofa", "toilet",
)  # fmt: skip
"""Names of ScanObjectNN in the order of their numbers."""


def read_modelnet(folder: str | Path, *, split: str = "test", classes: int = 40) -> Pool:
    """ModelNet's resampled points (`modelnet40_normal_resampled`): x y z and normals of every shape of the list of a split. y is up."""
    root = Path(folder)
    names = _lines(root / f"modelnet{classes}_{split}.txt")
    samples = []
    for name in names:
        kind = name.rpartition("_")[0]
        path = root / kind / f"{name}.txt"
        if not path.is_file():
            raise DataError("there is no such shape", file=path, expected=f"a shape of modelnet{classes}_{split}.txt")
        values = np.loadtxt(path, delimiter=",", dtype=np.float32, ndmin=2)
        samples.append(_sample(name, values[:, :3], kind.replace("_", " "), split))
    return Pool.from_samples(samples, name=f"modelnet{classes}-{split}")


def read_shapenet(folder: str | Path, clouds: str | Path, *, split: str = "test") -> Pool:
    """ShapeNet-55's lists with the names of synsets, several with commas between them; clouds are .npy files of `clouds`, read when asked
    for."""
    root = Path(folder)
    try:
        taxonomy = json.loads((root / "taxonomy.json").read_text(encoding="utf-8"))
        name_of = {row["synsetId"]: row["name"] for row in taxonomy}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"is not read: {error}", file=root / "taxonomy.json", expected="a list of {synsetId, name}") from error
    samples = []
    for number, line in enumerate(_lines(root / f"{split}.txt")):
        synset, _, model = line.partition("-")
        if synset not in name_of:
            raise DataError(
                f"names the synset {synset!r}", file=root / f"{split}.txt", row=number, expected="one of taxonomy.json"
            )
        media = {"cloud": MediaItem("cloud", (FileImage(Path(clouds) / line),))}
        uid, label = Path(line).stem.replace(".", "-"), name_of[synset]
        extras = {"label": label, "split": split, "model": model.partition(".")[0]}
        samples.append(Sample(uid, texts=(Text(label, "en", "label"),), group=uid, extras=extras, media=media))
    return Pool.from_samples(samples, name=f"shapenet55-{split}")


def read_scanobjectnn(file: str | Path, *, names: Sequence[str] = SCANOBJECTNN, split: str = "test") -> Pool:
    """ScanObjectNN's .h5 file of a split and variant. y is up, and clouds are not centred: readers centre them. Needs h5py."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtra("h5py", "points", needed_for="ScanObjectNN's files") from error
    path = Path(file)
    try:
        with h5py.File(path, "r") as stored:
            point_NP3, label_N = np.asarray(stored["data"], np.float32), np.asarray(stored["label"], np.int64).ravel()
    except (OSError, KeyError) as error:
        raise DataError(f"is not read: {error}", file=path, expected="an .h5 file with 'data' and 'label'") from error
    if point_NP3.ndim != 3 or point_NP3.shape[2] < 3 or len(label_N) != len(point_NP3) or label_N.max(initial=0) >= len(names):
        raise DataError(
            f"holds data {list(point_NP3.shape)} and labels {list(label_N.shape)} up to {label_N.max(initial=0)}",
            file=path,
            expected=f"[N, P, 3], [N], and labels of {len(names)} names",
        )
    rows = zip(point_NP3, label_N.tolist(), strict=True)
    made = [_sample(f"{path.stem}-{number:05d}", cloud, names[label], split) for number, (cloud, label) in enumerate(rows)]
    return Pool.from_samples(made, name=path.stem)


def _sample(uid: str, cloud: np.ndarray[Any, Any], label: str, split: str) -> Sample:
    media = {"cloud": MediaItem("cloud", (ArraySource(cloud, uid),))}
    texts = (Text(label, "en", "label"),)
    return Sample(uid, texts=texts, group=uid, extras={"label": label, "split": split}, media=media)


def _lines(file: Path) -> list[str]:
    if not file.is_file():
        raise DataError("there is no such list", file=file, expected="the published list of a split")
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line]
