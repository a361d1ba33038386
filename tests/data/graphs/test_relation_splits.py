"""Hidden triplets, few-shot rows and noise on small sets where every answer can be counted."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation
from diptych.data.dataset import Pool
from diptych.data.graphs.relation_splits import few_shot_rows, noisy_predicates, without_triplets
from diptych.worlds import links


def sample(uid: str, *triplets: tuple[str, str, str]) -> Sample:
    regions = tuple(Region((0, 0, 5, 5), name) for triplet in triplets for name in (triplet[0], triplet[2]))
    return Sample(uid, regions=regions, relations=tuple(Relation(2 * n, t[1], 2 * n + 1) for n, t in enumerate(triplets)))


RIDE, HOLD, FEED = ("person", "ride", "horse"), ("person", "hold", "cup"), ("person", "feed", "horse")
DATA = Pool.from_samples([sample("a", RIDE, HOLD), sample("b", RIDE), sample("c"), sample("d", FEED, RIDE, RIDE)], name="four")


def test_hidden_triplets_go_and_nothing_else_does() -> None:
    seen = without_triplets(DATA, [RIDE])
    assert [seen[row].graph.triplets() for row in range(4)] == [[HOLD], [], [], [FEED]]
    assert [len(seen[row].regions) for row in range(4)] == [4, 2, 0, 6]
    assert tuple(seen.uids) == DATA.uids
    dropped = without_triplets(DATA, [RIDE], drop_empty=True)
    assert list(dropped.uids) == ["a", "c", "d"]  # c never had one
    assert dropped[2].graph.triplets() == [FEED]


def test_the_same_verb_with_another_object_stays() -> None:
    other = Pool.from_samples([sample("a", ("person", "ride", "bike"), RIDE)])
    assert without_triplets(other, [RIDE])[0].graph.triplets() == [("person", "ride", "bike")]


def test_views_of_a_data_set_have_their_own_fingerprint_and_can_be_cut_and_pickled() -> None:
    seen = without_triplets(DATA, [RIDE, HOLD])
    assert seen.fingerprint == without_triplets(DATA, [HOLD, RIDE]).fingerprint
    prints = {DATA.fingerprint, seen.fingerprint, without_triplets(DATA, [RIDE]).fingerprint, seen.select([0, 1]).fingerprint}
    assert len(prints) == 4
    assert seen.select([3, 0])[1].graph.triplets() == []
    again = pickle.loads(pickle.dumps(seen))
    assert again[3] == seen[3]
    assert again.fingerprint == seen.fingerprint
    world = without_triplets(links(5, seed=0), [])
    assert world.split("train")[0].graph.triplets() == links(5, seed=0)[0].graph.triplets()


@given(st.integers(0, 50), st.floats(0.3, 1.0))
@settings(max_examples=20, deadline=None)
def test_few_shot_rows_hold_every_name_and_have_the_asked_size(seed: int, share: float) -> None:
    triplets = [("person", f"verb{n % 5}", f"thing{n % 7}") for n in range(60)]
    data = Pool.from_samples([sample(f"s{n:02d}", triplet) for n, triplet in enumerate(triplets)])
    rows = few_shot_rows(data, share, seed=seed)
    assert rows == sorted(set(rows)) == few_shot_rows(data, share, seed=seed)
    assert len(rows) == round(share * 60)
    assert {triplets[row][1] for row in rows} == {f"verb{n}" for n in range(5)}
    assert {triplets[row][2] for row in rows} == {f"thing{n}" for n in range(7)}


def test_few_shot_seeds_differ_and_impossible_shares_say_what_would_do() -> None:
    data = Pool.from_samples([sample(f"s{n:02d}", ("person", f"verb{n % 20}", "cup")) for n in range(40)])
    assert few_shot_rows(data, 0.7, seed=0) != few_shot_rows(data, 0.7, seed=1)
    with pytest.raises(ConfigError, match=r"share 0.1 of 40 images is 4, but 20 were needed .* at least 0.5000"):
        few_shot_rows(data, 0.1, seed=0)
    assert len(few_shot_rows(data, 0.5, seed=0)) == 20
    with pytest.raises(DataError, match="has no relations"):
        few_shot_rows(Pool.from_samples([Sample("a")]), 0.5, seed=0)
    with pytest.raises(ConfigError, match="share is 0"):
        few_shot_rows(data, 0, seed=0)


def test_noise_changes_its_share_of_predicates_to_wrong_ones() -> None:
    world = links(150, seed=0)
    names = sorted({r.predicate for row in range(150) for r in world[row].relations})
    noisy = noisy_predicates(world, 0.3, names, seed=1)
    wrong = 0
    for row in range(150):
        old, new = world[row], noisy[row]
        assert [(r.subject, r.object) for r in old.relations] == [(r.subject, r.object) for r in new.relations]
        assert {r.predicate for r in new.relations} <= set(names)
        wrong += sum(a.predicate != b.predicate for a, b in zip(old.relations, new.relations, strict=True))
        assert new.relations == noisy[row].relations
    assert 60 < wrong < 120  # 90 of 300
    assert all(noisy_predicates(world, 0.0, names, seed=1)[row].relations == world[row].relations for row in range(5))
    everything = noisy_predicates(world, 1.0, names, seed=1)
    assert all(a.predicate != b.predicate for a, b in zip(everything[0].relations, world[0].relations, strict=True))
    with pytest.raises(ConfigError, match="two names or more"):
        noisy_predicates(world, 0.3, ["on"], seed=0)
