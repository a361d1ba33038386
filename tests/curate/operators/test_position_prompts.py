"""A prompt for every region, of the picture as it is stored."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, BytesImage, FileImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.curate.operators.position_prompts import PositionPrompts
from diptych.data.dataset import Pool

REGIONS = (Region((0, 0, 10, 10), "cup", ("red",)), Region((50, 20, 60, 30), "box", ("blue",)))


def sample(uid: str, image: object, regions: tuple[Region, ...] = REGIONS) -> Sample:
    return Sample(uid, image, regions=regions)  # type: ignore[arg-type]


def test_blocks_are_those_of_the_stored_picture(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((30, 60, 3), np.uint8)).save(tmp_path / "a.png")
    pool = Pool.from_samples(
        [
            sample("file", FileImage(tmp_path / "a.png")),
            sample("array", ArrayImage(np.zeros((60, 60, 3), np.uint8))),
            sample("broken", BytesImage(b"no picture")),
            sample("bare", ArrayImage(np.zeros((6, 6, 3), np.uint8)), ()),
        ]
    )
    done = PositionPrompts(attributes=1)(pool)
    assert done.columns["position_prompts"] == {
        "file": ["The block 0 has a red cup.", "The block 8 has a blue box."],
        "array": ["The block 0 has a red cup.", "The block 5 has a blue box."],
    }
    assert done.kept == ("file", "array", "bare")
    assert [drop.uid for drop in done.dropped] == ["broken"]
    assert PositionPrompts(regions=1, grid=2)(pool).columns["position_prompts"]["array"] == ["The block 0 has a cup."]
    assert PositionPrompts().plan(pool)["items"] == 4


def test_data_without_regions_are_refused() -> None:
    bare = Pool.from_samples([replace(sample("u", ArrayImage(np.zeros((6, 6, 3), np.uint8))), regions=())])
    with pytest.raises(DataError, match="has a region"):
        PositionPrompts()(bare)
    with pytest.raises(ConfigError, match="grid 0"):
        PositionPrompts(grid=0)


def test_from_the_command_line(tmp_path: Path) -> None:
    assert main(["curate", "position_prompts", "world:small_pairs?n=8&test=2&regions=true", str(tmp_path / "out")]) == 0
