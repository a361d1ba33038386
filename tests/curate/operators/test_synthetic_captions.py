"""Captions from what the data know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.registry import OPERATORS
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.curate.engine.pool import curate, plan
from diptych.curate.operators.synthetic_captions import TemplateCaptions
from diptych.data.columns import read_table
from diptych.data.dataset import Pool
from diptych.worlds.scenes.world import scenes

IMAGE = ArrayImage(np.zeros((8, 8, 3), np.uint8))


def region(label: str, *attributes: str) -> Region:
    return Region((0.0, 0.0, 1.0, 1.0), label, attributes)


def test_regions_are_named_once_with_their_first_attribute() -> None:
    regions = (region("apple", "red", "large"), region("bus", "blue"), region("apple", "red", "small"), region("orange"))
    pool = Pool.from_samples([Sample("a", IMAGE, regions=regions)])
    assert TemplateCaptions()(pool).columns["synthetic_caption"] == {"a": "an image of a red apple, a blue bus and an orange"}
    bare = TemplateCaptions(template="I see {}!", attributes=0)(pool).columns["synthetic_caption"]
    assert bare == {"a": "I see an apple, a bus and an orange!"}


def test_labels_or_tags_stand_in_and_raw_texts_never_do(tmp_path: Path) -> None:
    raw = Text("buy now", "en", "alt")
    samples = [
        Sample("both", IMAGE, (raw, Text("wolf, animal", "en", "tags"), Text("wolf", "en", "label"))),
        Sample("tags", IMAGE, (raw, Text("Wolf, Tier", "de", "tags"), Text("wolf, animal", "en", "tags"))),
        Sample("neither", IMAGE, (raw,)),
    ]
    done = curate(Pool.from_samples(samples), [TemplateCaptions()], tmp_path)
    assert len(done.kept) == 3
    table = read_table(tmp_path, "synthetic_caption").table.to_pylist()
    expected = {"both": "an image of wolf", "tags": "an image of wolf, animal"}
    assert {row["uid"]: row["synthetic_caption"] for row in table} == expected


def test_a_rendered_scene_is_described_without_places() -> None:
    world = scenes(3, negatives=False)
    captions = TemplateCaptions()(world).columns["synthetic_caption"]
    for row in range(3):
        nouns = {f"{thing['colour']} {thing['label']}" for thing in world[row].extras["things"]}
        assert all(noun in captions[world.uids[row]] for noun in nouns)
    assert plan(world, [OPERATORS.load("template_captions")()])[0]["items"] == 3


def test_data_that_say_nothing_about_any_image_are_refused() -> None:
    pool = Pool.from_samples([Sample("a", IMAGE, (Text("buy now", "en", "alt"),))], name="shop")
    with pytest.raises(
        DataError, match=r"the images of 'shop' have no annotations .*origin label or tags; .*the step generated_captions"
    ):
        TemplateCaptions()(pool)
    assert not TemplateCaptions()(Pool.from_samples([])).columns


def test_the_template_needs_one_place() -> None:
    with pytest.raises(ConfigError, match=r"expected one \{\} in it"):
        TemplateCaptions(template="an image")
