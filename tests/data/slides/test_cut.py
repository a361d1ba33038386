"""Tiles of slides as data: where they lie, searched by text on the page, and embedded by a process that is killed."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from warm_programs import run

from diptych.cli.commands.slides import main as slides_command
from diptych.core.errors import DataError
from diptych.data.media.decode import decode
from diptych.data.read import read
from diptych.data.slides.cut import MARK, marked, tile_samples
from diptych.data.slides.tiling import Tiling
from diptych.recipes.domains.keep import KEEP
from diptych.worlds.tissue.slides import slides
from diptych.worlds.tissue.world import tissue

pytest.importorskip("openslide", reason="needs the extra 'slides'")
pytest.importorskip("h5py", reason="needs the extra 'slides'")

ADDRESS = "world:slides?n=3&val=1&test=1&tiles=8"


def test_tiles_know_their_slide_and_their_place() -> None:
    pool = slides(2, tiles=8)
    tiles = list(tile_samples(pool, Tiling(size=48)))
    assert {tile.extras["slide"] for tile in tiles} == {pool[0].uid, pool[1].uid}
    assert {tile.group for tile in tiles} == {"train-patient-0"}
    one = tiles[5]
    slide = pool[0].media["slide"].decode()
    x, y = one.extras["x"], one.extras["y"]
    assert np.array_equal(decode(one.image), slide.region(x, y, 48, 48))
    place = decode(one.media["place"].parts[0])
    red = (place.astype(int) - MARK).__abs__().sum(2) < 80
    rows, columns = np.nonzero(red)
    scale = place.shape[1] / slide.size[0]
    assert abs(rows.min() - y * scale) <= 4
    assert abs(columns.max() - (x + 48) * scale) <= 4
    assert marked(np.zeros((10, 20, 3), np.uint8), (2000, 1000), 0, 0, 10).any(), "a small place is drawn large enough to be seen"
    with pytest.raises(DataError, match="more coarsely"):
        list(tile_samples(pool, Tiling(size=48, mpp=0.25)))
    refused: list[tuple[str, str]] = []
    assert not list(tile_samples(pool, Tiling(size=48, mpp=0.25), refused=refused))
    assert [uid for uid, _ in refused] == [pool[0].uid, pool[1].uid]


def test_the_command_cuts_slides_and_the_page_shows_a_hit_on_its_slide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fastapi", reason="needs the extra 'serve'")
    from fastapi.testclient import TestClient

    from diptych import api
    from diptych.serve.app import create_app

    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "tiles"
    assert slides_command(["cut", ADDRESS, str(out), "--size", "48", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    pool = read(str(out))
    assert (report["slides"], report["tiles"]) == (5, len(pool))
    recipe = KEEP(
        **{**vars(KEEP.tiny()), "image_tower": "vit_micro", "text_tower": "text_micro", "width": 64, "knowledge_share": 0.0}
    )
    recipe = recipe.prepare(tissue(24))
    model = recipe.deploy(recipe.model().eval())
    index = api.index(model, pool, tmp_path / "index", progress=False)
    hit = index.search("tissue of fibroma", k=1)[0]
    app = create_app(model, index, pool=pool)
    with TestClient(app, base_url="http://localhost") as client:
        item = client.get(f"/items/{hit.uid}").json()
        assert item["media"] == {"place": "image"}
        assert {"slide", "x", "y", "extent"} <= set(item["columns"])
        answer = client.get(f"/image/{hit.uid}", params={"side": 512, "medium": "place"})
        assert answer.status_code == 200
        from diptych.core.image import BytesImage

        shown = decode(BytesImage(answer.content)).astype(int)
        red = np.abs(shown - MARK).sum(2) < 120
        scale = shown.shape[1] / 384
        rows, columns = np.nonzero(red)
        assert abs(columns.min() - item["columns"]["x"] * scale) <= 6
        assert abs(rows.min() - item["columns"]["y"] * scale) <= 6
        assert client.get(f"/image/{hit.uid}", params={"medium": "other"}).status_code == 404


SCRIPT = """
import os, signal, sys
from diptych.api import slide_features
sys.path.insert(0, sys.argv[3])
from slide_models import Grey
class Dying(Grey):
    def embed_images(self, images, **options):
        if int(sys.argv[2]) and len(os.listdir(sys.argv[1])) >= int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_images(images, **options)
os.makedirs(sys.argv[1], exist_ok=True)
report = slide_features(Dying(), "ADDRESS", sys.argv[1], size=48)
print(report.slides, report.kept)
"""


def embed(folder: Path, killed_after: int) -> Any:
    script = SCRIPT.replace("ADDRESS", ADDRESS)
    return run("-c", script, str(folder), str(killed_after), str(Path(__file__).parent))


def test_a_killed_run_goes_on_behind_the_last_slide(tmp_path: Path) -> None:
    killed = embed(tmp_path / "a", 2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len([*(tmp_path / "a").glob("*.h5")]) == 2
    again, whole = embed(tmp_path / "a", 0), embed(tmp_path / "b", 0)
    assert again.stdout.split() == ["5", "2"], again.stderr
    assert whole.stdout.split() == ["5", "0"], whole.stderr
    from diptych.data.slides.features import read_features

    for path in (tmp_path / "b").glob("*.h5"):
        one, other = read_features(path), read_features(tmp_path / "a" / path.name)
        assert np.array_equal(one.vector_ND, other.vector_ND)
        assert np.array_equal(one.tiles.place_N2, other.tiles.place_N2)
