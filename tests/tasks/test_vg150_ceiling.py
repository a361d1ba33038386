"""The ceiling of recall at K: reached by a detector that knows the truth, passed by none."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.tasks.relations.graph_records import records
from diptych.tasks.relations.vg150 import VG150


def crowded(rng: np.random.Generator) -> SceneGraph:
    """Things far apart, several predicates on some pairs, some of them written down twice."""
    count = int(rng.integers(2, 6))
    regions = tuple(Region((30 * i, 0, 30 * i + 20, 20), str(rng.choice(["cat", "dog"]))) for i in range(count))
    edges = []
    for _ in range(int(rng.integers(1, 12))):
        subject, thing = (int(x) for x in rng.choice(count, 2, replace=False))
        edges.append(Relation(subject, str(rng.choice(["on", "by", "has"])), thing))
    return SceneGraph(regions, tuple(edges))


def knowing(graph: SceneGraph, *, one_a_pair: bool) -> SceneGraph:
    """Every true triplet once (or each pair's most frequent predicate), those that answer most truths first."""
    counts = Counter((r.subject, r.predicate, r.object) for r in graph.relations)
    best: dict[tuple[int, int], tuple[int, str, int]] = {}
    for triplet in sorted(counts, key=lambda t: -counts[t]):
        best.setdefault((triplet[0], triplet[2]), triplet)
    chosen = sorted(best.values() if one_a_pair else counts, key=lambda t: -counts[t])
    return replace(graph, relations=tuple(Relation(*triplet, 1 - 0.01 * n) for n, triplet in enumerate(chosen)))


@pytest.mark.parametrize("seed", range(5))
def test_a_detector_that_knows_the_truth_reaches_the_ceiling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths = [crowded(rng) for _ in range(30)]
    # Two things of one name at the same place would let one prediction answer two pairs; here names may repeat, places not.
    uids = [str(i) for i in range(30)]
    task = VG150(ks=(1, 2, 5, 50), draws=0)
    for prefix, one_a_pair in (("", True), ("ng_", False)):
        result = task.score(records(uids, truths, [knowing(graph, one_a_pair=one_a_pair) for graph in truths]))
        ceiling = result.notes["ceiling"]
        for k in task.ks:
            assert result.metrics[f"{prefix}r@{k}"].value == pytest.approx(ceiling[f"{prefix}r@{k}"], abs=1e-12)
    assert ceiling["r@1"] < ceiling["ng_r@5"] <= ceiling["ng_r@50"] == 1.0


def test_two_links_have_a_ceiling_of_one() -> None:
    regions = tuple(Region((30 * i, 0, 30 * i + 20, 20), "cat") for i in range(3))
    graph = SceneGraph(regions, (Relation(0, "on", 1), Relation(1, "by", 2)))
    ceiling = VG150(ks=(1, 5), draws=0).score(records(["a"], [graph], [graph])).notes["ceiling"]
    assert ceiling == {"r@1": 0.5, "r@5": 1.0, "ng_r@1": 0.5, "ng_r@5": 1.0}


def test_the_graph_constraint_lets_one_predicate_of_a_pair_through() -> None:
    regions = tuple(Region((30 * i, 0, 30 * i + 20, 20), "cat") for i in range(2))
    graph = SceneGraph(regions, (Relation(0, "on", 1), Relation(0, "by", 1), Relation(0, "by", 1)))
    ceiling = VG150(ks=(5,), draws=0).score(records(["a"], [graph], [graph])).notes["ceiling"]
    assert ceiling == {"r@5": pytest.approx(2 / 3), "ng_r@5": 1.0}


def test_the_command_says_it_where_it_is_below_one() -> None:
    from diptych.cli.commands.eval import table

    regions = tuple(Region((30 * i, 0, 30 * i + 20, 20), "cat") for i in range(3))
    graph = SceneGraph(regions, (Relation(0, "on", 1), Relation(1, "by", 2)))
    lines = [table("test", VG150(ks=ks, draws=0).score(records(["a"], [graph], [graph])))[-1] for ks in ((1, 5), (5,))]
    assert lines[0] == "  at most: r@1 0.500, ng_r@1 0.500"
    assert "at most" not in lines[1]
