"""Label lists: order, lengths, draws by frequency, hard negatives by a loop, what is asked for, and lists that cannot be."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.graphs.label_lists import NO_OBJECTS, CorpusNames, LabelLists, ListSampler, names_of
from diptych.worlds import links


def graph(*triplets: tuple[str, str, str]) -> SceneGraph:
    labels = list(dict.fromkeys(name for s, _, o in triplets for name in (s, o)))
    regions = tuple(Region((0, 0, 4 + n, 4), label) for n, label in enumerate(labels))
    return SceneGraph(regions, tuple(Relation(labels.index(s), p, labels.index(o)) for s, p, o in triplets))


GRAPHS = [graph(("man", "riding", "horse"), ("man", "wearing", "hat")), graph(("dog", "chasing", "man")), SceneGraph()]
NAMES = CorpusNames.counted(
    {"man": 50, "hat": 9, "car": 40, "tree": 30, "dog": 5, "cup": 1}, {"riding": 7, "on": 90, "near": 60, "under": 3}
)


def test_own_names_come_first_in_order_of_appearance_and_no_objects_stands_between() -> None:
    lists = ListSampler(names=NAMES, length=0).lists(GRAPHS, keyed_rng(0))
    assert lists.objects == ("man", "horse", "hat", "dog")
    assert lists.relations == ("riding", "wearing", "chasing")
    assert lists.texts == ("man", "horse", "hat", "dog", NO_OBJECTS, "riding", "wearing", "chasing")
    assert lists.texts[lists.background] == NO_OBJECTS


def test_published_lengths_are_333_and_167() -> None:
    many = CorpusNames.counted({f"o{n}": n + 1 for n in range(900)}, {f"r{n}": n + 1 for n in range(900)})
    lists = ListSampler(names=many).lists(GRAPHS, keyed_rng(0))
    assert (len(lists.objects), len(lists.relations), len(lists.texts)) == (333, 167, 501)


@given(st.integers(0, 20), st.sampled_from(["frequency", "random"]), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_extension_adds_names_once_never_cuts_and_depends_on_the_key_alone(length: int, negatives: str, key: int) -> None:
    sampler = ListSampler(names=NAMES, length=length, negatives=negatives)
    lists = sampler.lists(GRAPHS, keyed_rng(key))
    assert lists == sampler.lists(GRAPHS, keyed_rng(key))
    own = names_of(GRAPHS)
    room = int(length * 2 / 3)
    for listed, mine, corpus, most in (
        (lists.objects, own[0], NAMES.objects, room),
        (lists.relations, own[1], NAMES.relations, length - room),
    ):
        assert list(listed[: len(mine)]) == mine
        assert len(set(listed)) == len(listed)
        assert set(listed) <= set(mine) | set(corpus)
        assert len(listed) == max(len(mine), min(most, len(set(mine) | set(corpus))))


@pytest.mark.parametrize("negatives", ["frequency", "random"])
def test_first_draws_follow_the_counts(negatives: str) -> None:
    names = CorpusNames.counted({"a": 70, "b": 20, "c": 10}, {})
    sampler = ListSampler(names=names, length=1, object_share=1.0, negatives=negatives)
    rng = keyed_rng("counts")
    drawn = Counter(sampler.lists([], rng).objects[0] for _ in range(3000))
    for name, share in zip("abc", (0.7, 0.2, 0.1) if negatives == "frequency" else (1 / 3,) * 3, strict=True):
        assert drawn[name] / 3000 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 3000))


def test_second_draws_are_proportional_to_what_is_left() -> None:
    names = CorpusNames.counted({"a": 70, "b": 20, "c": 10}, {})
    sampler, rng = ListSampler(names=names, length=2, object_share=1.0), keyed_rng("second")
    after_a = Counter(two[1] for two in (sampler.lists([], rng).objects for _ in range(4000)) if two[0] == "a")
    assert after_a["b"] / after_a.total() == pytest.approx(2 / 3, abs=0.04)


def test_hard_negatives_are_the_most_similar_names_by_a_loop() -> None:
    generator = np.random.default_rng(0)
    tables = tuple(generator.normal(size=(len(names), 5)).astype(np.float32) for names in (NAMES.objects, NAMES.relations))
    sampler = ListSampler(names=NAMES, length=9, negatives="hard", features=tables)
    lists = sampler.lists(GRAPHS, keyed_rng(0))
    for listed, own, corpus, table in zip(
        (lists.objects, lists.relations), names_of(GRAPHS), (NAMES.objects, NAMES.relations), tables, strict=True
    ):
        similarity = {}
        for n, name in enumerate(corpus):
            if name not in own:
                similarity[name] = sum(
                    float(table[n] @ table[m] / np.linalg.norm(table[n]) / np.linalg.norm(table[m]))
                    for m, mine in enumerate(corpus)
                    if mine in own
                )
        ranked = sorted(similarity, key=lambda name: -similarity[name])
        assert list(listed[len(own) :]) == ranked[: len(listed) - len(own)]


def test_a_share_of_the_triplets_is_asked_for_and_the_rest_is_never_a_negative() -> None:
    graphs = [graph((f"s{n}", f"p{n}", f"o{n}")) for n in range(10)]
    everything = CorpusNames.counted(
        {name: 1 for n in range(10) for name in (f"s{n}", f"o{n}")} | {"car": 9}, {f"p{n}": 1 for n in range(10)} | {"on": 2}
    )
    seen = set()
    for key in range(30):
        lists = ListSampler(names=everything, triplet_share=0.3).lists(graphs, keyed_rng(key))
        assert len(lists.relations) == 3 + 1
        assert "on" in lists.relations
        numbers = {name[1:] for name in lists.relations if name != "on"}
        assert {name[1:] for name in lists.objects if name != "car"} == numbers
        seen |= numbers
    assert len(seen) == 10
    assert ListSampler(names=everything, triplet_share=0.01).lists(graphs, keyed_rng(0)).relations[1:] == ("on",)
    alone = ListSampler(names=CorpusNames(), triplet_share=0.5).lists([SceneGraph((Region((0, 0, 1, 1), "cat"),))], keyed_rng(0))
    assert alone == LabelLists(("cat",))


def test_counts_of_a_pool_a_world_and_the_published_file_agree() -> None:
    world = links(30, seed=0)
    counted = CorpusNames.of(world)
    assert counted == CorpusNames.of(world.to_pool())
    assert sum(counted.relation_counts) == 60
    assert list(counted.object_counts) == sorted(counted.object_counts, reverse=True)
    assert CorpusNames.from_json(counted.to_json()) == counted
    assert CorpusNames.of(Pool.from_samples([Sample("a")])) == CorpusNames()
    regions = (Region((0, 0, 4, 4), "man"), Region((0, 0, 5, 4), "hat"))
    tagged = tuple(Relation(0, name, 1, confidence) for name, confidence in (("wearing", 0.2), ("near", 0.19), ("wearing", 0.1)))
    pool = Pool.from_samples([Sample("a", regions=regions, relations=tagged)])
    assert CorpusNames.of(pool, min_confidence=0.2).to_json()["relationship_freq"] == {"wearing": 1}
    assert CorpusNames.of(pool).to_json()["relationship_freq"] == {"wearing": 2, "near": 1}
    with pytest.raises(DataError, match=r"vocab.json, field 'relationship_freq'"):
        CorpusNames.from_json({"object_freq": {}}, file="vocab.json")


@pytest.mark.parametrize(
    ("objects", "relations", "says"),
    [
        (("dog", "cat", "dog"), (), "'dog' is 2 times in the list"),
        (("dog",), ("on", "on"), "field 'relations'"),
        (("dog", " "), (), "name 1 of the list is ' '"),
        ((NO_OBJECTS,), (), "is the background"),
    ],
)
def test_lists_that_cannot_be_are_refused(objects: tuple[str, ...], relations: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        LabelLists(objects, relations)


def test_a_question_needs_a_name() -> None:
    assert LabelLists.of_query([" dog ", "cat"], ["on"]) == LabelLists(("dog", "cat"), ("on",))
    with pytest.raises(DataError, match="the list is empty"):
        LabelLists.of_query([])
    with pytest.raises(DataError, match="'dog' is 2 times in the list"):
        LabelLists.of_query(["dog", "dog "])


def test_wrong_options_are_named() -> None:
    with pytest.raises(ConfigError, match="negatives is 'easy'"):
        ListSampler(negatives="easy")
    with pytest.raises(ConfigError, match="triplet_share 0"):
        ListSampler(triplet_share=0)
    with pytest.raises(ConfigError, match=r"features of \(6, 4\).*got \(0, 0\)"):
        ListSampler(names=NAMES, negatives="hard")
    with pytest.raises(DataError, match="each name once"):
        CorpusNames(("a", "a"), (1, 1))
