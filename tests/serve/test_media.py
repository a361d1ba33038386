"""Items that hold other media than a picture: shown by their thumbnail, and never offered to a model as a picture."""

from __future__ import annotations

import io

import httpx
import numpy as np
from PIL import Image

from diptych.core.image import ArrayImage, BytesImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample, Text
from diptych.data.dataset import Pool
from diptych.data.media.cloud_views import CloudPreprocess
from diptych.serve import create_app

from .conftest import Stub, listening


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
