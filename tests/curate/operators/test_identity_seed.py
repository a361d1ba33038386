"""The filter of noisy identities: strangers leave, join or are merged, by rule and by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.registry import OPERATORS
from diptych.curate.operators import identity_seed
from diptych.curate.operators.identity_seed import IdentitySeed, final_identities
from diptych.data.dataset import Pool
from diptych.worlds.people.world import pedestrians

RULES: dict[str, Any] = {"alike": 0.6, "joins": 0.65, "merges": 0.62, "reach": 2}


def at(*degrees: float) -> list[Any]:
    return [np.array([np.cos(np.radians(d)), np.sin(np.radians(d))]) for d in degrees]


def test_a_stranger_joins_the_neighbour_that_it_resembles() -> None:
    vectors = dict(zip("abcdefg", at(0, 5, 10, 100, 90, 95, 85), strict=True))
    numbers = {"a": 1, "b": 1, "c": 1, "d": 1, "e": 3, "f": 3, "g": 3}
    person, left = final_identities(vectors, numbers, **RULES)
    assert person == {"a": 1, "b": 1, "c": 1, "d": 3, "e": 3, "f": 3, "g": 3}
    assert not left
    far = {**numbers, "e": 4, "f": 4, "g": 4}
    person, left = final_identities(vectors, far, **RULES)
    assert "d" not in person
    assert list(left) == ["d"], "a number of three more is no neighbour's"


def test_neighbours_of_one_mean_become_one_and_others_do_not() -> None:
    vectors = dict(zip("abcdef", at(0, 10, 40, 50, 120, 125), strict=True))
    numbers = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3, "f": 3}
    person, left = final_identities(vectors, numbers, **RULES)
    assert not left
    assert [person[uid] for uid in "abcdef"] == [1, 1, 1, 1, 3, 3], "cos 40 is .77, cos 77.5 is .22"


def test_the_least_alike_leaves_first_and_one_picture_stays() -> None:
    vectors = dict(zip("abc", at(0, 80, 300), strict=True))
    person, left = final_identities(vectors, dict.fromkeys("abc", 7), **RULES)
    assert len(person) == 1, "no two of them are alike"
    assert {*left} | {*person} == {*"abc"}


class Told:
    """Embeds a rendered person by whom it shows, with a little noise."""

    name = fingerprint = "told"

    def __init__(self, pool: Pool) -> None:
        rng = np.random.default_rng(0)
        self.of = {s.image.name: int(s.extras["true_identity"]) for s in pool if s.image is not None}
        self.centres = np.linalg.qr(rng.normal(size=(32, 32)))[0]
        self.noise = {name: rng.normal(size=32) * 0.06 for name in self.of}

    def embed_images(self, images: Any, **_: Any) -> Any:
        rows = np.stack([self.centres[self.of[image.name]] + self.noise[image.name] for image in images])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def embed_texts(self, texts: Any, **_: Any) -> Any:
        return np.zeros((len(texts), 32), np.float32)


def noisy_pool() -> Pool:
    return pedestrians(80, noisy=0.25, occluded=0.0).to_pool()


def test_wrong_labels_are_put_right(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = noisy_pool()
    monkeypatch.setattr(identity_seed, "open_embedder", lambda _: Told(pool))
    found = IdentitySeed(model="told", fewest=3)(pool)
    truth = {sample.uid: sample.extras["true_identity"] for sample in pool}
    before = np.mean([sample.extras["identity"] == sample.extras["true_identity"] for sample in pool])
    after = np.mean([found.columns["person"][uid] == f"person-{truth[uid]}" for uid in found.kept])
    assert before < 0.85
    assert after > 0.97
    assert len(found.kept) > 0.9 * len(pool)
    again = IdentitySeed(model="told", fewest=3)(pool.select(list(range(len(pool)))[::-1]))
    assert (again.kept, again.columns) == (found.kept, found.columns), "the order of rows does not matter"


def test_rules_on_attributes_and_counts_name_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = pedestrians(32, occluded=0.0).to_pool()
    rows = list(clean)
    unknown = ["man", "unknown", "unknown", "unknown", "black shoes", "unknown"]
    rows[0] = replace(rows[0], extras={**rows[0].extras, "attributes": unknown})
    bare = ["man", "short black hair", "unknown", "unknown", "black shoes", "backpack"]
    rows[1] = replace(rows[1], extras={**rows[1].extras, "attributes": bare})
    for n in (8, 9, 10):  # three of eight disagree: 5 / 8 is no more than .7
        other = "woman" if rows[n].extras["attributes"][0] == "man" else "man"
        rows[n] = replace(rows[n], extras={**rows[n].extras, "attributes": [other, *rows[n].extras["attributes"][1:]]})
    pool = Pool.from_samples(rows[:29], name="rules")  # the fourth person has five
    monkeypatch.setattr(identity_seed, "open_embedder", lambda _: Told(pool))
    found = IdentitySeed(model="told", fewest=6, most=7)(pool)
    reasons = {drop.uid: drop.reason for drop in found.dropped}
    assert reasons[rows[0].uid] == "4 attributes are unknown"
    assert reasons[rows[1].uid] == "neither upper nor lower clothes are known"
    assert reasons[rows[12].uid] == "pictures of person 1 do not agree on the gender"
    assert reasons[rows[24].uid] == "person 3 has 5 pictures"
    assert sum(reason == "not among the 7 drawn of person 2" for reason in reasons.values()) == 1
    assert len(found.kept) == 6 + 7


def test_more_than_that_share_has_to_agree_and_who_is_unknown_has_no_vote() -> None:
    people = dict.fromkeys((f"u{n}" for n in range(10)), 1)
    votes = {uid: [vote, *["x"] * 5] for uid, vote in zip(people, ["man"] * 5 + ["woman"] * 3 + ["unknown"] * 2, strict=True)}
    for share, left in ((0.625, 10), (0.62, 0), (0.0, 0)):
        assert len(IdentitySeed(gender=share)._disagreeing(people, votes)) == left, "five of eight"


def test_bad_input_is_named() -> None:
    with pytest.raises(ConfigError, match="most 3"):
        IdentitySeed(fewest=5, most=3)
    rows = [replace(s, extras={**s.extras, "identity": "x"}) for s in pedestrians(2).to_pool()]
    with pytest.raises(DataError, match="row 0, field 'identity': the identity is 'x'"):
        IdentitySeed()._numbers(Pool.from_samples(rows, name="bad"))
    assert OPERATORS.load("identity_seed") is IdentitySeed
