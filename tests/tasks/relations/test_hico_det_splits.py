"""Sets of HICO-DET's classes: rare by training, unseen by published lists or by rule, and what they are worth."""

from __future__ import annotations

import math

import pytest
from interactions import Planted, pool_of, riding

from diptych.core.errors import ConfigError
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.vocabularies import vocabulary
from diptych.tasks.evaluate import evaluate
from diptych.tasks.relations.graph_records import records
from diptych.tasks.relations.hico_det import HicoDet
from diptych.tasks.relations.hico_det_splits import unseen, unseen_by_count


def test_published_unseen_lists_fit_the_published_rare_classes() -> None:
    rare = set(vocabulary("hico-det").rare)
    rf, nf, uo = (set(unseen(setting)) for setting in ("uc_rf", "uc_nf", "uo"))
    assert (len(rf), len(nf), len(uo)) == (120, 120, 100)
    assert rf <= rare
    assert not nf & rare
    assert not rf & nf
    assert len({vocabulary("hico-det").triplets[k][2] for k in uo}) == 12
    for hidden in (rf, nf):
        seen = [triplet for k, triplet in enumerate(vocabulary("hico-det").triplets) if k not in hidden]
        assert len({t[1] for t in seen}) == 117
        assert len({t[2] for t in seen}) == 80


def test_rare_is_counted_on_the_whole_training_set_also_where_a_few_shots_are_given() -> None:
    """A frequent class of which the model saw one instance stays frequent."""
    known = vocabulary("hico-det")
    frequent = next(k for k in range(600) if k not in known.rare and known.triplets[k][2] != "person")
    _, verb, thing = known.triplets[frequent]
    graph = SceneGraph((Region((0, 0, 9, 9), "person"), Region((20, 20, 29, 29), thing)), (Relation(0, verb, 1, 0.9),))
    shots = Pool.from_samples([Sample("t", regions=graph.regions, relations=graph.relations)])
    result = evaluate(HicoDet(train=shots, draws=0), Planted([graph]), pool_of([graph]))
    assert result.notes["rare"] == "fewer than 10 training instances, published list"
    assert result.metrics["non_rare"].value == 1.0
    assert math.isnan(result.metrics["rare"].value)


def test_hidden_combinations_by_rule_leave_every_verb_and_object_a_class() -> None:
    classes = [("person", verb, thing) for verb in "abcd" for thing in "xyz"]
    counts = list(range(len(classes)))
    rare, frequent = (unseen_by_count(classes, counts, rare_first=first) for first in (True, False))
    assert (rare, frequent) == ((0, 1), (10, 11))
    assert unseen_by_count([("person", "a", "x"), ("person", "b", "x")] * 3, [0] * 6, rare_first=True) == (0,)


def test_zero_shot_and_rare_parts_are_means_over_their_classes() -> None:
    known = vocabulary("hico-det")
    hidden = unseen("uc_nf")
    seen = next(k for k in range(600) if k not in hidden and k not in known.rare)
    rare = known.rare[0]
    graphs = []
    for k in (hidden[0], seen, rare):
        _, verb, thing = known.triplets[k]
        regions = (Region((0, 0, 9, 9), "person"), Region((20, 20, 29, 29), thing))
        graphs.append(SceneGraph(regions, (Relation(0, verb, 1, 0.9),)))
    found = [graphs[0], SceneGraph(), SceneGraph()]
    scored = HicoDet(zero_shot="uc_nf").score(records(list("abc"), graphs, found))
    points = {name: scored.metrics[name].value for name in ("full", "rare", "non_rare", "unseen", "seen")}
    assert points == pytest.approx({"full": 1 / 3, "rare": 0.0, "non_rare": 0.5, "unseen": 1.0, "seen": 0.0})
    matlab = HicoDet(compat="matlab", draws=0).score(records(list("abc"), graphs, found))
    assert matlab.metrics["full"].value == pytest.approx(1 / 600)


def test_own_classes_count_rare_on_the_training_set_and_need_it_for_unseen() -> None:
    train = Pool.from_samples([Sample(f"t{n}", regions=riding().regions, relations=riding().relations) for n in range(9)])
    test = pool_of([riding()])
    result = evaluate(HicoDet(vocabulary="data", train=train), Planted([riding(0.9)]), test)
    assert result.metrics["rare"].value == 1.0
    assert math.isnan(result.metrics["non_rare"].value)
    with pytest.raises(ConfigError, match="no published list"):
        evaluate(HicoDet(vocabulary="data", zero_shot="uc_rf"), Planted([riding(0.9)]), test)
