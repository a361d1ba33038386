"""Triplet search against a plain scan of the graphs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych import api
from diptych.core.errors import ConfigError, UnknownName
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.index.kinds import open_index
from diptych.index.kinds.graphs import AnnotatedGraphs, GraphIndex, Pattern, stored_triplets, triplet
from diptych.worlds.links.world import links

NAMES = ("cat", "dog", "bird")
VERBS = ("chases", "sees")


def graph(key: str) -> SceneGraph:
    """Some relations between four things, with confidences of two digits; one graph in five has none."""
    rng = keyed_rng("graphs", key)
    regions = tuple(Region((i, 0, i + 5, 9), str(rng.choice(NAMES))) for i in range(4))
    count = int(rng.integers(0, 5))
    pairs = [tuple(int(x) for x in rng.choice(4, 2, replace=False)) for _ in range(count)]
    edges = tuple(Relation(s, str(rng.choice(VERBS)), o, int(rng.integers(1, 100)) / 100) for s, o in pairs)
    return SceneGraph(regions, edges)


def pool(count: int) -> Pool:
    samples = []
    for i in range(count):
        made = graph(f"s{i}")
        extras = {"split": "train" if i % 3 else "test"}
        samples.append(Sample(f"s{i}", None, regions=made.regions, relations=made.relations, extras=extras))
    return Pool.from_samples(samples, name="made")


class Eyes:
    """A detector that knows every picture by its name."""

    name, fingerprint = "eyes", "e1"
    objects, relations = NAMES, VERBS

    def __init__(self) -> None:
        self.asked: list[tuple[int, Sequence[str], Sequence[str]]] = []

    def detect(
        self, images: Sequence[ImageSource], *, objects: Sequence[str], relations: Sequence[str] = (), **options: Any
    ) -> list[SceneGraph]:
        self.asked.append((len(images), objects, relations))
        return [graph(image.name) for image in images]


def scan(count: int, wanted: Pattern, least: float = 0.05) -> dict[str, float]:
    """The best confidence of a fitting triplet in every picture that has one."""
    best: dict[str, float] = {}
    for i in range(count):
        made = graph(f"s{i}")
        for names, relation in zip(made.triplets(), made.relations, strict=True):
            if relation.confidence >= least and all(w in ("", n) for w, n in zip(wanted, names, strict=True)):
                best[f"s{i}"] = max(best.get(f"s{i}", 0.0), relation.confidence)
    return best


def test_every_pattern_equals_a_scan(tmp_path: Path) -> None:
    index = GraphIndex.build(AnnotatedGraphs(), pool(120), tmp_path / "i", progress=False)
    asked = 0
    for wanted in product(("", *NAMES), ("", *VERBS), ("", *NAMES)):
        if not any(wanted):
            continue
        asked += 1
        found = {hit.uid: hit.score for hit in index.search_triplet(wanted, 200)}
        expected = scan(120, wanted)
        assert found.keys() == expected.keys()
        np.testing.assert_allclose([found[uid] for uid in expected], list(expected.values()), atol=1e-6)
        for hit in index.search_triplet(wanted, 5):
            rows = hit.payload["triplets"]
            assert rows[0]["confidence"] == pytest.approx(hit.score, abs=1e-4)
            assert all(w in ("", row[r]) for row in rows for w, r in zip(wanted, ("subject", "relation", "object"), strict=True))
    assert asked == 47
    scores = [hit.score for hit in index.search_triplet(("cat", "", ""), 200)]
    assert scores == sorted(scores, reverse=True)
    index.close()


def test_stored_triplets_are_sorted_and_rounded() -> None:
    regions = Region((0.123, 1, 5, 9.987), "cat"), Region((2, 0, 7, 9), "dog")
    rows = stored_triplets(SceneGraph(regions, (Relation(0, "sees", 1, 0.123456), Relation(1, "chases", 0, 0.987654))))
    assert [(row["relation"], row["confidence"]) for row in rows] == [("chases", 0.9877), ("sees", 0.1235)]
    assert rows[0]["object_box"] == rows[1]["subject_box"] == [0.1, 1.0, 5.0, 10.0]


def test_pictures_without_triplets_are_not_there_and_filters_hold(tmp_path: Path) -> None:
    with GraphIndex.build(AnnotatedGraphs(), pool(60), tmp_path / "i", progress=False) as index:
        silent = {f"s{i}" for i in range(60) if not any(r.confidence >= 0.05 for r in graph(f"s{i}").relations)}
        assert silent
        assert set(index.uids()) == {f"s{i}" for i in range(60)} - silent
        hits = index.search_triplet(("", "chases", ""), 100, where={"split": "test"})
        assert hits
        assert all(hit.payload["split"] == "test" for hit in hits)
        assert {hit.uid for hit in hits} == {uid for uid in scan(60, ("", "chases", "")) if int(uid[1:]) % 3 == 0}


def test_names_in_any_case_open_parts_and_unknown_ones(tmp_path: Path) -> None:
    assert triplet(" Cat , *, dog ") == ("Cat", "", "dog")
    assert triplet("any,sees,") == ("", "sees", "")
    with pytest.raises(ConfigError, match="three names"):
        triplet("cat sees dog")
    with GraphIndex.build(AnnotatedGraphs(), pool(30), tmp_path / "i", progress=False) as index:
        assert index.search_text("CAT, Sees, *") == index.search_triplet(("cat", "sees", ""))
        with pytest.raises(UnknownName, match="cat"):
            index.search_triplet(("cta", "", ""))
        with pytest.raises(ConfigError, match="the triplet is empty"):
            index.search_triplet(("", "", ""))


def test_a_detector_is_asked_once_for_the_names_of_the_index(tmp_path: Path) -> None:
    rendered = links(20, split="test")
    samples = [dataclasses.replace(rendered[i], uid=f"s{i}", regions=(), relations=()) for i in range(20)]
    named = [dataclasses.replace(s, image=dataclasses.replace(s.image, name=s.uid)) for s in samples]  # type: ignore[type-var]
    eyes = Eyes()
    with GraphIndex.build(eyes, Pool.from_samples(named), tmp_path / "i", progress=False, objects=("cat", "dog")) as index:
        assert [count for count, _, _ in eyes.asked] == [16, 4]
        assert all(objects == ["cat", "dog"] and relations == list(VERBS) for _, objects, relations in eyes.asked)
        found = {hit.uid: hit.score for hit in index.search_triplet(("cat", "", ""), 50)}
        assert found == pytest.approx(scan(20, ("cat", "", "")))
        first = next(iter(found))
        image = next(s.image for s in named if s.uid == first)
        assert image is not None
        assert index.search_image(image, 1)[0].uid == first or index.search_image(image, 1)[0].score >= found[first]
        assert first not in {hit.uid for hit in index.search_like(first, 30)}
    with open_index(tmp_path / "i") as again, pytest.raises(Exception, match="without a model"):
        again.search_image(image)


def test_wrong_builds_are_named(tmp_path: Path) -> None:
    class Blind:
        name, fingerprint = "blind", "0"

    build: Any = GraphIndex.build
    with pytest.raises(ConfigError, match="needs a detector"):
        build(Blind(), pool(3), tmp_path / "i", progress=False)
    with pytest.raises(ConfigError, match="no objects"):
        build(AnnotatedGraphs(), pool(3), tmp_path / "i", progress=False, objects=("cat",))
    with pytest.raises(ConfigError, match="min_confidence is 2"):
        build(AnnotatedGraphs(), pool(3), tmp_path / "i", progress=False, min_confidence=2)
    with pytest.raises(ConfigError, match="holds images"):
        build(AnnotatedGraphs(), pool(3), tmp_path / "i", progress=False, what="texts")


def test_searching_the_graphs_of_data_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.cli import main

    out = str(tmp_path / "i")
    assert main(["index", "build", "annotations", "world:links?n=40", out, "--kind", "graphs", "--split", "test"]) == 0
    subject, relation, thing = api.read("world:links?n=40").split("test")[0].graph.triplets()[0]
    capsys.readouterr()
    assert main(["search", out, "--triplet", f"{subject}, {relation}, *"]) == 0
    assert f"{subject} | {relation} | " in capsys.readouterr().out
    assert main(["search", out, "--triplet", f"{subject}, {relation}, {thing}x"]) == 2
    assert "object in the triplets of this index" in capsys.readouterr().err
