"""Items that hold other media than a picture: shown by their thumbnail, and never offered to a model as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from diptych.core.errors import DecodeError
from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.index.kinds.dense import DenseIndex
from diptych.serve import Limits, create_app

from .conftest import Stub, b64, listening


def test_a_thumbnail_of_a_medium_and_its_name_in_the_item() -> None:
    frame_THWC = np.stack([np.full((40, 60, 3), value, np.uint8) for value in (0, 200, 90)])
    volume = np.arange(5 * 30 * 20, dtype=np.int16).reshape(5, 30, 20)
    pool = Pool.from_samples(
        [
            Sample("clip", texts=(Text("a"),), media={"clip": MediaItem("clip", tuple(map(ArrayImage, frame_THWC)))}),
            Sample("scan", texts=(Text("b"),), media={"ct": MediaItem("volume", (ArraySource(volume),))}),
            Sample("bad", texts=(Text("c"),), media={"cloud": MediaItem("cloud", (BytesImage(b"no cloud"),))}),
        ]
    )
    with listening(create_app(Stub(), pool=pool)) as address, httpx.Client(base_url=address) as http:
        item = http.get("/items/scan").json()
        assert (item["image"], item["shown"], item["media"]) == (False, True, {"ct": "volume"})
        picture = Image.open(io.BytesIO(http.get("/image/clip", params={"side": 32}).content)).convert("RGB")
        assert picture.size == (32, 21)
        assert abs(int(np.asarray(picture).mean()) - 200) < 3  # the frame in the middle
        scan = np.asarray(Image.open(io.BytesIO(http.get("/image/scan", params={"side": 64}).content)).convert("L"))
        assert scan.shape == (30, 20)
        assert scan[0].mean() < 20 < 230 < scan[-1].mean()
        assert http.get("/image/bad").status_code == 404


class Clouds(Stub):
    """A model that reads clouds whose axis y points up."""

    clouds = CloudPreprocess(up="y")


def test_a_cloud_is_drawn_as_its_model_reads_it_and_its_points_are_sent() -> None:
    pole_P6 = np.zeros((300, 6), np.float32)
    pole_P6[:, 1] = np.linspace(0, 4, 300)  # along y, green
    pole_P6[:, 4] = 200
    many_P3 = np.random.default_rng(0).standard_normal((9000, 3)).astype(np.float32)
    samples = [
        Sample(uid, media={"scan": MediaItem("cloud", (ArraySource(of),))}) for uid, of in (("pole", pole_P6), ("many", many_P3))
    ]
    samples += [
        Sample("bad", media={"cloud": MediaItem("cloud", (BytesImage(b"no cloud"),))}),
        Sample("none", texts=(Text("a"),)),
    ]
    pool = Pool.from_samples(samples)
    with listening(create_app(Clouds(), pool=pool)) as address, httpx.Client(base_url=address) as http:
        shown = np.asarray(Image.open(io.BytesIO(http.get("/image/pole", params={"side": 64}).content)).convert("RGB")).astype(
            int
        )
        green = np.argwhere(shown[..., 1] - shown[..., 0] > 60)
        assert np.ptp(green[:, 0]) > 40 > 12 > np.ptp(green[:, 1])
        pole = http.get("/cloud/pole").json()
        assert (pole["count"], pole["colours"][0]) == (300, [0, 200, 0])
        np.testing.assert_allclose(pole["points"][0], [0, 0, -1])  # z is up, whatever the data say
        np.testing.assert_allclose(pole["points"][-1], [0, 0, 1])
        many = http.get("/cloud/many", params={"points": 500}).json()
        assert (many["count"], len(many["points"]), many["colours"]) == (9000, 500, None)
        assert np.linalg.norm(many["points"], axis=1).max() <= 1.001
        assert [http.get(f"/cloud/{uid}").status_code for uid in ("bad", "none", "nobody")] == [404] * 3
        assert http.get("/cloud/many", params={"medium": "cloud"}).status_code == 404


class ShapeColours(Clouds):
    """The mean colour of a cloud, which needs colours."""

    def embed_points(self, clouds: Sequence[Any]) -> np.ndarray:
        if any(cloud_PF.shape[1] < 6 for cloud_PF in clouds):
            raise DecodeError("a cloud without colours", medium="cloud", expected="x y z and colours")
        mean_N3 = np.stack([cloud_PF[:, 3:6].mean(0) for cloud_PF in clouds]).astype(np.float32) + 1
        return mean_N3 / np.linalg.norm(mean_N3, axis=1, keepdims=True)


def test_items_are_found_by_a_cloud_that_is_sent(tmp_path: Path) -> None:
    rng, colours = np.random.default_rng(0), {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}
    clouds = {
        name: np.hstack([rng.standard_normal((50, 3)), np.tile(rgb, (50, 1))]).astype(np.float32) for name, rgb in colours.items()
    }
    samples = [Sample(name, media={"cloud": MediaItem("cloud", (ArraySource(of),))}) for name, of in clouds.items()]
    pool = Pool.from_samples(samples)
    index = DenseIndex.build(ShapeColours(), pool, tmp_path / "index", what="clouds", progress=False)

    def ply(cloud_P6: np.ndarray) -> bytes:
        names = ("x", "y", "z", "red", "green", "blue")
        head = [
            "ply",
            "format ascii 1.0",
            f"element vertex {len(cloud_P6)}",
            *(f"property float {name}" for name in names),
            "end_header",
        ]
        return "\n".join([*head, *(" ".join(map(str, row)) for row in cloud_P6.tolist())]).encode()

    def npy(cloud_PF: np.ndarray) -> bytes:
        file = io.BytesIO()
        np.save(file, cloud_PF)
        return file.getvalue()

    triangle = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    app = create_app(ShapeColours(), index, pool=pool, limits=Limits(cloud_points=15_000))
    with index, listening(app) as address, httpx.Client(base_url=address) as http:

        def search(data: bytes, **more: Any) -> httpx.Response:
            return http.post("/search", json={"cloud": b64(data), "k": 3, **more})

        for encode in (ply, npy):
            for name, cloud_P6 in clouds.items():
                assert search(encode(cloud_P6[:40])).json()["hits"][0]["uid"] == name
        for data, more, problem in (
            (b"ply nonsense", {}, "cloud is not one that can be read"),
            (npy(np.zeros((0, 6), np.float32)), {}, "cloud is not one that can be read"),
            (npy(np.full((9, 6), np.nan, np.float32)), {}, "not finite"),
            (npy(np.zeros((15_001, 6), np.float32)), {}, "15,001 points are more than the limit of 15,000"),
            (npy(np.array([object()])), {}, "never unpickled"),
            (triangle[:24], {"cloud_format": "obj"}, "a mesh without faces"),
            (triangle, {"cloud_format": "obj"}, "the model cannot read that cloud: a cloud without colours"),
        ):
            refused = search(data, **more)
            assert (refused.status_code, len(refused.json()["error"]["message"].splitlines())) == (400, 1), refused.text
            assert problem in refused.text
        assert http.post("/search", json={"cloud": "%%%"}).status_code == 400
        assert search(triangle, cloud_format="exe").status_code == 422
    with listening(create_app(Stub(), pool=pool)) as address, httpx.Client(base_url=address) as http:
        assert http.post("/search", json={"cloud": b64(npy(clouds["red"]))}).status_code == 404, "no index"
    shown = Pool.from_samples([Sample("a", ArrayImage(np.zeros((8, 8, 3), np.uint8)))])
    pictures = DenseIndex.build(Stub(), shown, tmp_path / "pictures", progress=False)
    with pictures, listening(create_app(Stub(), pictures, pool=shown)) as address, httpx.Client(base_url=address) as http:
        refused = http.post("/search", json={"cloud": b64(npy(clouds["red"]))})
        assert (refused.status_code, "does not embed point clouds" in refused.text) == (422, True)
