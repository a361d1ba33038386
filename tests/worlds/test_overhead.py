"""Views from above: what is drawn is what ten languages say, scenes lie where their coordinates say."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from diptych.core.errors import ConfigError, UnknownName
from diptych.data.masks import decode
from diptych.data.media.augment.rotated_views import mentions_direction
from diptych.data.media.scene_file import SceneFile
from diptych.worlds.overhead.drawing import PAINT
from diptych.worlds.overhead.lexicon import COLOURS, GROUNDS, KINDS, LANGUAGES, KindCount, caption
from diptych.worlds.overhead.scenes import METRES, ORIGIN, geotiff, overhead_scenes
from diptych.worlds.overhead.world import overhead
from diptych.worlds.resolve import resolve

EVERY = [
    (mentions, ground)
    for ground in GROUNDS
    for kind in KINDS
    for colour in COLOURS
    for count in (1, 2, 3)
    for mentions in ((KindCount(kind, count, colour),), (KindCount(kind, count, colour), KindCount("road")))
]


def test_captions_are_grammatical_by_hand() -> None:
    """One sentence a rule, written by hand: agreement, genitive behind numerals, classifiers and word order."""
    planes, ships = (
        (KindCount("plane", 2, "white"), KindCount("road")),
        (KindCount("ship", 1, "red"), KindCount("building", 3, "black")),
    )
    by_hand = {
        "en": ("two white planes and a road in the desert", "a red ship and three black buildings on the coast"),
        "pt": ("dois aviões brancos e uma estrada no deserto", "um navio vermelho e três edifícios pretos na costa"),
        "es": ("dos aviones blancos y una carretera en el desierto", "un barco rojo y tres edificios negros en la costa"),
        "fr": ("deux avions blancs et une route dans le désert", "un bateau rouge et trois bâtiments noirs sur la côte"),
        "de": ("zwei weiße Flugzeuge und eine Straße in der Wüste", "ein rotes Schiff und drei schwarze Gebäude an der Küste"),
        "nl": ("twee witte vliegtuigen en een weg in de woestijn", "een rood schip en drie zwarte gebouwen aan de kust"),
        "it": ("due aerei bianchi e una strada nel deserto", "una nave rossa e tre edifici neri sulla costa"),
        "zh": ("沙漠中有两架白色飞机和一条道路", "海岸边有一艘红色船和三栋黑色建筑"),
        "ko": ("사막에 흰색 비행기 두 대와 도로 한 곳이 있다", "해안에 빨간색 선박 한 척과 검은색 건물 세 채가 있다"),
        "ru": ("два белых самолёта и дорога в пустыне", "красный корабль и три чёрных здания на побережье"),
    }
    assert tuple(by_hand) == LANGUAGES
    for language, (desert, coast) in by_hand.items():
        assert caption(planes, "desert", language) == desert
        assert caption(ships, "coast", language) == coast
    with pytest.raises(UnknownName, match="language"):
        caption(planes, "desert", "ja")


def test_captions_tell_contents_apart_in_every_language() -> None:
    scripts = {"zh": "CJK", "ko": "HANGUL", "ru": "CYRILLIC"}
    for language in LANGUAGES:
        texts = [caption(*case, language) for case in EVERY]
        assert len({*texts}) == len(EVERY)
        assert all(text == text.strip() and "  " not in text for text in texts)
        letters = Counter(unicodedata.name(c).split()[0] for text in texts for c in text if c.isalpha())
        assert {*letters} == {scripts.get(language, "LATIN")}, language
    assert not any(mentions_direction(caption(*case, "en")) for case in EVERY)


def test_pictures_show_what_captions_count() -> None:
    """Blobs of each paint in the picture, counted by connected components, are those of the English caption."""
    numbers = {"a": 1, "two": 2, "three": 3}
    data = overhead(60, seed=4, size=128, regions=True)
    for row in range(len(data)):
        sample = data[row]
        pixels_HWC = sample.image.pixels_HWC.astype(int)  # type: ignore[union-attr]
        named = re.findall(r"(a|two|three) (white|red|yellow|black) (plane|ship|building)", sample.texts[0].string)
        counted = Counter({(kind, colour): numbers[number] for number, colour, kind in named})
        assert counted == Counter((region.label, region.attributes[0]) for region in sample.regions)
        for region in sample.regions:
            mask_HW = decode(region.mask)
            inside = ndimage.binary_erosion(mask_HW, iterations=1)
            paint = pixels_HWC[inside]
            near = np.abs(paint - PAINT[region.attributes[0]]).max(1) < 60
            assert near.mean() > 0.6, (sample.uid, region.label)
            assert region.box[0] <= np.argwhere(mask_HW)[:, 1].min()
            assert region.box[3] >= np.argwhere(mask_HW)[:, 0].max()


def test_ships_lie_on_water_and_all_else_on_land() -> None:
    world = overhead(300, seed=2).world
    shores = 0
    for index in range(300):
        view = world.view("train", index)  # type: ignore[attr-defined]
        for thing in view.things:
            if view.shore is not None:
                shores += 1
                assert (view.shore.distance(thing.x, thing.y) > 0) == (thing.kind == "ship")
            else:
                assert (view.ground == "water") == (thing.kind == "ship")
    assert shores > 50


def test_fronts_point_everywhere_or_right() -> None:
    angles = [angle for sample in (overhead(200)[row] for row in range(200)) for angle in sample.extras["angles"]]
    assert all(len([a for a in angles if low <= a < low + 90]) > 40 for low in (0, 90, 180, 270))
    upright = overhead(20, turned="upright")
    assert {a for row in range(20) for a in upright[row].extras["angles"]} == {0.0}


def test_options_and_longer_data_sets() -> None:
    data = resolve("world:overhead?n=4&test=3&languages=en,ko&size=48")
    assert data.split_names == ("train", "val", "test")
    assert [text.language for text in data[0].texts] == ["en", "ko"]
    assert dict.fromkeys(data.groups, 1).keys() == {data[row].group for row in range(len(data))}
    long = overhead(9, seed=0, size=48, languages=("en", "ko"))
    assert np.array_equal(long[3].image.pixels_HWC, data[3].image.pixels_HWC)  # type: ignore[union-attr]
    with pytest.raises(UnknownName, match="ja"):
        overhead(1, languages=("ja",))
    with pytest.raises(ConfigError, match=r"32\.\.1024"):
        overhead(1, size=8)


def test_scenes_are_geotiff_with_things_at_their_coordinates(tmp_path: Path) -> None:
    data = overhead_scenes(1, seed=3, side=512, things=8)
    sample = data[0]
    path = tmp_path / "scene.tif"
    path.write_bytes(sample.media["raster"].parts[0].read())
    with rasterio.open(path) as file:
        assert (file.crs.to_epsg(), file.count, file.shape) == (32630, 3, (512, 512))
        whole_HWC = file.read().transpose(1, 2, 0)
        for thing, region in zip(sample.extras["things"], sample.regions, strict=True):
            assert file.index(ORIGIN[0] + METRES * thing["x"], ORIGIN[1] - METRES * thing["y"]) == (
                math.floor(thing["y"]),
                math.floor(thing["x"]),
            )
            colour = PAINT[region.attributes[0]]
            around = whole_HWC[int(thing["y"]) - 3 : int(thing["y"]) + 4, int(thing["x"]) - 3 : int(thing["x"]) + 4].reshape(
                -1, 3
            )
            assert (np.abs(around.astype(int) - colour).max(1) < 60).any()
    with SceneFile.open(path) as scene:
        first = sample.extras["things"][0]
        assert scene.lon_lat(first["x"], first["y"]) == pytest.approx((first["longitude"], first["latitude"]), abs=1e-9)
    assert np.array_equal(sample.media["raster"].decode(), whole_HWC)
    assert sample.extras["things"][0]["name"] in [text.string for text in sample.texts]


def test_scenes_of_sixteen_bits_with_a_border(tmp_path: Path) -> None:
    sample = overhead_scenes(1, side=512, things=6, bits=16, border=40)[0]
    path = tmp_path / "scene.tif"
    path.write_bytes(sample.media["raster"].parts[0].read())
    with SceneFile.open(path) as scene:
        window = scene.window((0, 0, 512, 512))
    assert (window[:, :40] == 0).all()
    assert window[:, 40:].std() > 20
    assert all(region.box[0] >= 40 for region in sample.regions)
    nowhere = tmp_path / "nowhere.tif"
    nowhere.write_bytes(geotiff(np.zeros((64, 64, 1), np.float32), crs=None))
    with rasterio.open(nowhere) as file:
        assert file.crs is None
    for options in ({"side": 64}, {"bits": 12}, {"things": 500, "side": 256}, {"border": 400}):
        with pytest.raises(ConfigError):
            overhead_scenes(1, **options)  # type: ignore[arg-type]
