"""Captions of persons from their attributes, by numbered templates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from diptych.cli import main
from diptych.core.errors import ConfigError, DataError
from diptych.curate.operators.person_captions import PersonCaptions
from diptych.data.dataset import Pool
from diptych.data.read import read
from diptych.data.text.persons.attribute_captions import COUNT, numbers_of, person_caption
from diptych.worlds.people.world import pedestrians

SHOWN = ("man", "short brown hair", "orange t-shirt", "grey shorts", "white shoes", "backpack")


def test_each_of_1664_templates_says_all_in_words_of_its_own() -> None:
    said = [person_caption(SHOWN, number) for number in range(COUNT)]
    assert COUNT == len({*said}) == 1664
    for text in said:
        assert all(phrase in text for phrase in SHOWN)
        assert text[0].isupper()
        assert text.endswith(".")
        assert not {"  ", " ,", " ."} & {text[at : at + 2] for at in range(len(text))}
        assert "a short brown hair" not in text
        assert "a white shoes" not in text
        assert "an orange t-shirt" in text
    sparse = {
        person_caption(("woman", "unknown", "red dress", "unknown", "unknown", "unknown"), number) for number in range(COUNT)
    }
    assert all("unknown" not in text and "a red dress" in text and "with" not in text for text in sparse)
    with pytest.raises(ConfigError, match="expected six"):
        person_caption(SHOWN[:5], 0)
    with pytest.raises(ConfigError, match=r"0\.\.1663"):
        person_caption(SHOWN, COUNT)


def test_the_step_writes_a_caption_and_its_template_and_held_out_wordings_stay_apart() -> None:
    pool = pedestrians(200).to_pool()
    done = PersonCaptions()(pool)
    assert done.kept == tuple(sorted(pool.uids))
    for sample in pool:
        number = int(done.columns["template"][sample.uid].removeprefix("person_captions/"))
        assert done.columns["synthetic_caption"][sample.uid] == person_caption(sample.extras["attributes"], number)
    assert len({*done.columns["template"].values()}) > 150
    again = PersonCaptions()(pool.select(list(range(200))[::-1]))
    assert again.columns == done.columns
    assert PersonCaptions(seed=1)(pool).columns != done.columns
    openings = ("The camera shows ", "The pedestrian is ", "The person is ")
    for part in ("training", "held_out"):
        texts = PersonCaptions(wordings=part)(pool).columns["synthetic_caption"].values()
        assert {text.startswith(openings) for text in texts} == {part == "held_out"}
    assert not {*numbers_of("training")} & {*numbers_of("held_out")}


def test_rows_without_attributes_stay_and_wrong_ones_are_named() -> None:
    shown = [pedestrians(3)[at] for at in range(3)]
    bare = replace(shown[0], extras={})
    done = PersonCaptions()(Pool.from_samples([bare, *shown[1:]], name="some"))
    assert len(done.kept) == 3
    assert bare.uid not in done.columns["template"]
    with pytest.raises(DataError, match=r"no row of 'none' has attributes"):
        PersonCaptions()(Pool.from_samples([bare], name="none"))
    short = replace(shown[0], extras={"attributes": ["man", "unknown"]})
    with pytest.raises(DataError, match=r"row 1.*2 entries.*expected six: gender"):
        PersonCaptions()(Pool.from_samples([shown[1], short], name="short"))
    with pytest.raises(ConfigError, match="held_out"):
        PersonCaptions(wordings="some")  # type: ignore[arg-type]


def test_from_the_command_line(tmp_path: Path) -> None:
    assert main(["data", "build", "world:pedestrians?n=16&test=2", str(tmp_path / "crops")]) == 0
    assert main(["curate", "person_captions", str(tmp_path / "crops"), str(tmp_path / "out")]) == 0
    sample = read(tmp_path / "out")[0]
    number = int(sample.extras["template"].removeprefix("person_captions/"))
    assert sample.extras["synthetic_caption"] == person_caption(sample.extras["attributes"], number)
