"""UniPT's texts of persons: wordings by template, and what a model sees of a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError
from diptych.curate.operators import pseudo_texts
from diptych.curate.operators.pseudo_texts import CAPTION, COLUMN, PseudoTexts, attributes_of
from diptych.data.dataset import Pool
from diptych.data.text.persons.descriptions import OPTIONAL, PLACES, REQUIRED, combine, templates
from diptych.worlds.people.world import pedestrians


def test_there_are_456_wordings_and_each_says_what_was_found() -> None:
    assert len({*templates()}) == 456
    assert len(REQUIRED) == 6
    assert len(OPTIONAL) == 8
    found = {name: phrases[0] for name, phrases in {**REQUIRED, **OPTIONAL}.items()} | {"age": "young"}
    rng = np.random.default_rng(0)
    said = [combine(found, number, rng, exchanged=0.0) for number in range(456)]
    assert len({*said}) == 456
    for text in said:
        assert all(found[name] in text for name in PLACES if name not in ("age", "gender"))
        assert "young man" in text
    other = {combine(found, 0, rng, exchanged=1.0) for _ in range(40)}
    assert len(other) > 10
    assert any("guy" in text or "gentleman" in text for text in other)
    few = combine({"gender": "woman", "upper": "wearing a red coat"}, 3, rng, exchanged=0.0)
    assert "bag" not in few
    assert "  " not in few
    with pytest.raises(ConfigError, match="templates requested"):
        templates(5000)


class Seeing:
    """Sees the upper clothes and the gender of rendered persons, and no optional thing."""

    name = fingerprint = "seeing"

    def __init__(self, pool: Pool) -> None:
        self.of = {s.image.name: s.extras["attributes"] for s in pool if s.image is not None}

    def embed_images(self, images: Any, **_: Any) -> Any:
        return np.stack([self._vector(f"{self.of[i.name][0]} {self.of[i.name][2]}") for i in images])

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return np.stack([self._vector(text.replace("A photo of a ", "").replace("person wearing a ", "x ")) for text in texts])

    def _vector(self, text: str) -> Any:
        made = np.full(300, 1e-3, np.float32)
        for word in text.split():
            made[sum(map(ord, word)) % 300] += 1
        return made / np.linalg.norm(made)


def test_the_curation_step_writes_what_a_model_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pedestrians(24, occluded=0.0, captioned=False).to_pool()
    monkeypatch.setattr(pseudo_texts, "open_embedder", lambda _: Seeing(pool))
    found = PseudoTexts(model="seeing", skip=("vehicle",))(pool)
    assert found.kept == tuple(sorted(pool.uids))
    plain = PseudoTexts(model="seeing", skip=("vehicle",), exchanged=0.0)(pool).columns
    for uid, template in plain["template"].items():
        number = int(template.removeprefix("persons/"))
        assert plain[CAPTION][uid] == combine(attributes_of(plain[COLUMN][uid]), number, np.random.default_rng(0), exchanged=0.0)
    right = 0
    for sample in pool:
        attributes = attributes_of(found.columns[COLUMN][sample.uid])
        assert {*REQUIRED} <= {*attributes}
        right += sample.extras["attributes"][2] in attributes["upper"]
        assert attributes["gender"] == sample.extras["attributes"][0]
    assert right >= 22
    assert len({*found.columns[CAPTION].values()}) > 20, "another wording each"
    again = PseudoTexts(model="seeing", skip=("vehicle",))(pool.select(list(range(24))[::-1]))
    assert again.columns == found.columns
    with pytest.raises(Exception, match="attribute"):
        PseudoTexts(skip=("mood",))
