"""Indexes over point clouds: found by text, picture and cloud, from Python and from the command line; what cannot be read is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import diptych as dp
from diptych.api import index as build
from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import BytesImage, ImageSource
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.index.embed import cloud_of
from diptych.index.kinds.dense import DenseIndex
from diptych.index.plan import ByCloud, ByImage, ByText, SearchPlan, query_part
from diptych.recipes.points.ulip import ULIP

SIDES = {"tall": 2, "long": 0, "wide": 1}
"""A stick along each axis, by what a text calls it."""


def stick(axis: int, seed: int = 0, points: int = 40) -> np.ndarray:
    cloud_P3 = 0.05 * np.random.default_rng(seed).standard_normal((points, 3))
    cloud_P3[:, axis] += np.linspace(-1, 1, points)
    return cloud_P3.astype(np.float32)


@dataclass
class Sticks:
    """Embeds a cloud by its spread along each axis; texts and pictures by the name of an axis."""

    name: str = "sticks"
    fingerprint: str = "5715"

    def embed_points(self, clouds: Sequence[Any]) -> np.ndarray:
        spread_N3 = np.stack([cloud_PF[:, :3].std(0) for cloud_PF in clouds]).astype(np.float32)
        return spread_N3 / np.linalg.norm(spread_N3, axis=1, keepdims=True)

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[SIDES[text] for text in texts]]

    def embed_images(self, images: Sequence[ImageSource], *, batch_size: int = 64) -> np.ndarray:
        return np.eye(3, dtype=np.float32)[[SIDES[image.name] for image in images]]


def sample(name: str, axis: int, seed: int) -> Sample:
    cloud = MediaItem("cloud", (ArraySource(stick(axis, seed), f"{name}.npy"),))
    return Sample(f"{name}-{seed}", texts=(Text(name),), media={"scan": cloud})


POOL = Pool.from_samples(
    [
        *(sample(name, axis, seed) for seed in range(3) for name, axis in SIDES.items()),
        Sample("nan", media={"cloud": MediaItem("cloud", (ArraySource(np.full((9, 3), np.nan, np.float32), "nan.npy"),))}),
        Sample("picture", BytesImage(b"", "tall")),
    ],
    name="sticks",
)


def names(hits: Sequence[Any]) -> list[str]:
    return [hit.uid.partition("-")[0] for hit in hits]


@pytest.mark.parametrize("kind", ["dense", "nested", "hybrid"])
def test_clouds_are_found_by_text_picture_and_cloud(tmp_path: Path, kind: str) -> None:
    options: dict[str, Any] = {"prefix": 2} if kind == "nested" else {}
    with build(Sticks(), POOL, tmp_path / "index", kind=kind, what="clouds", progress=False, **options) as index:
        assert len(index) == 9
        (unreadable,) = index.info.unreadable
        assert unreadable.uid == "nan"
        assert "9 of 9 points are not finite" in unreadable.reason
        assert names(index.search("wide", 3)) == ["wide"] * 3
        assert names(index.search(BytesImage(b"", "tall"), 3)) == ["tall"] * 3
        assert names(index.search(stick(0, 77), 3)) == ["long"] * 3
        assert names(index.search_like("tall-0", 2)) == ["tall"] * 2
        both = SearchPlan.of("wide", cloud=MediaItem("cloud", (ArraySource(stick(0, 5)),)), weight=3.0, k=3)
        assert names(index.answer(both)) == ["wide"] * 3
        assert index.pictures is not None
        assert index.pictures("wide-1") is not None  # drawn, since the sample has no picture


def test_a_query_is_a_cloud_by_its_form(tmp_path: Path) -> None:
    file = tmp_path / "chair.npy"
    np.save(file, stick(1))
    for query in (file, str(file), stick(1), MediaItem("cloud", (ArraySource(stick(1)),))):
        part = query_part(query)
        assert isinstance(part, ByCloud)
        np.testing.assert_allclose(part.cloud.decode(), stick(1))
    assert query_part("no such chair.npy") == ByText("no such chair.npy")
    assert isinstance(query_part(BytesImage(b"", "a.png")), ByImage)
    with pytest.raises(DataError, match="no such file"):
        query_part(tmp_path / "table.ply")


def test_what_cannot_hold_or_embed_clouds_says_so(tmp_path: Path, kit: Any) -> None:
    with pytest.raises(ConfigError, match="needs a model that embeds clouds and texts; 'named' does not"):
        build(kit.model(), POOL, tmp_path / "a", what="clouds", progress=False)
    for kind, holds in (("graphs", "images"), ("late", "images or texts")):
        with pytest.raises(ConfigError, match=f"kind '{kind}' holds {holds} "):
            build("annotations", POOL, tmp_path / "b", kind=kind, what="clouds", progress=False)
    pictures = DenseIndex.build(kit.model(), kit.pool(0, 4), tmp_path / "c", progress=False)
    with pictures as index, pytest.raises(ConfigError, match="'named' does not embed point clouds"):
        index.search(stick(0))
    bad = POOL.select([9])
    with pytest.raises(DataError, match=r"nothing in .* could be embedded: .*9 of 9 points are not finite"):
        build(Sticks(), bad, tmp_path / "d", what="clouds", progress=False)


def test_the_cloud_of_a_sample() -> None:
    scan, cloud = (MediaItem("cloud", (ArraySource(stick(axis)),)) for axis in (0, 1))
    assert cloud_of(Sample("a", media={"scan": scan, "cloud": cloud})) is cloud
    assert cloud_of(Sample("a", media={"scan": scan})) is scan
    assert cloud_of(Sample("a", media={"clip": MediaItem("clip", (BytesImage(b""),))})) is None


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder and a table of clouds, an untrained model, and each file that cannot be read with its reason."""
    pool = dp.read("world:solids?n=6&points=300&views=2&size=16", split="train")
    recipe = replace(ULIP.tiny(), small_steps=0).prepare(pool)
    recipe.deploy(recipe.model()).save(tmp_path / "model")
    folder = tmp_path / "clouds"
    folder.mkdir()
    for row in range(4):
        np.save(folder / f"solid{row}.cloud.npy", pool[row].media["cloud"].decode())
    np.save(folder / "empty.cloud.npy", np.zeros((0, 3), np.float32))
    (folder / "flat.off").write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    table = tmp_path / "clouds.csv"
    table.write_text("uid,points\n" + "".join(f"row{row},clouds/solid{row}.cloud.npy\n" for row in range(4)))
    model, out = str(tmp_path / "model"), str(tmp_path / "a.index")
    assert main(["index", "build", model, str(folder), out, "--what", "clouds"]) == 0
    said = capsys.readouterr().out
    assert "4 items" in said
    assert "2 could not be read; the first, empty: " in said
    media = ["--media", "points=cloud"]
    assert main(["index", "build", model, str(table), str(tmp_path / "b.index"), "--what", "clouds", *media]) == 0
    query = folder / "solid2.cloud.npy"
    for made, uid in (("a.index", "solid2"), ("b.index", "row2")):
        capsys.readouterr()
        assert main(["search", str(tmp_path / made), str(query), "-k", "1", "--json"]) == 0
        (hit,) = json.loads(capsys.readouterr().out)["hits"]
        assert hit["uid"] == uid
        assert hit["score"] == pytest.approx(1, abs=1e-4)
    assert main(["search", out, "a red chair", "--cloud", str(query), "-k", "2"]) == 0
    assert main(["search", out, str(tmp_path / "gone.ply")]) == 2
    assert "gone.ply does not exist (a query that ends like a point cloud" in capsys.readouterr().err
