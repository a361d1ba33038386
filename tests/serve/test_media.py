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
