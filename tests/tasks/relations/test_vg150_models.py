"""VG150 asks models: planted ones come in order, given boxes come back, a broken image costs itself, names come from data or files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.contracts import Detector, Relater, Task
from diptych.core.errors import ConfigError, DataError, DecodeError, ShapeError
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region, Relation, SceneGraph
from diptych.data.dataset import Pool
from diptych.data.graphs.columns import GraphColumns
from diptych.tasks import find
from diptych.tasks.evaluate import evaluate
from diptych.tasks.relations import given_regions
from diptych.tasks.relations.vg150 import VG150, VG150PredCls, VG150SGCls
from diptych.worlds.links.world import links


class Planted:
    """Answers the truth of rendered scenes with a share of the predicates replaced; wrong ones come first."""

    name, fingerprint = "planted", "0"

    def __init__(self, data: Any, wrong: float, *, move: bool = False) -> None:
        self.truth = {data[row].image.name: data[row].graph for row in range(len(data))}
        self.wrong, self.move, self.asked = wrong, move, []
        self.rng = np.random.default_rng(0)

    def detect(self, images: Any, *, objects: Sequence[str], relations: Sequence[str] = (), **options: Any) -> list[SceneGraph]:
        return [self._graph(self.truth[image.name], relations) for image in images]

    def relate(
        self, images: Any, regions: Any, *, objects: Sequence[str], relations: Sequence[str], labels_known: bool
    ) -> list[SceneGraph]:
        self.asked += [region.label for each in regions for region in each]
        graphs = self.detect(images, objects=objects, relations=relations)
        assert [len(graph.regions) for graph in graphs] == [len(each) for each in regions]
        return graphs

    def _graph(self, graph: SceneGraph, names: Sequence[str]) -> SceneGraph:
        said = []
        for n, r in enumerate(graph.relations):
            place = names.index(r.predicate)
            if self.rng.random() < self.wrong:
                place = (place + 1) % len(names)
            said.append(Relation(r.subject, names[place], r.object, 0.9 - 0.1 * n))
        shift = 30.0 if self.move else 0.0
        regions = tuple(Region(tuple(v + shift for v in r.box), r.label) for r in graph.regions)
        return SceneGraph(regions, tuple(said))


def test_is_a_task_and_planted_models_come_in_order() -> None:
    data = links(20, split="test")
    assert isinstance(VG150(), Task)
    assert isinstance(Planted(data, 0), Detector | Relater)
    task = find("vg150", ks=(5,), draws=50)
    results = [evaluate(task, Planted(data, wrong), data) for wrong in (0.0, 0.5, 1.0)]
    values = [result.value for result in results]
    assert values[0] == 1.0 > values[1] > values[2] == 0.0
    assert results[0].main == "r@5"
    metric = results[1].metrics["r@5"]
    assert metric.low < metric.value < metric.high
    assert evaluate(task, Planted(data, 0, move=True), data).value == 0.0
    notes = results[0].notes
    assert (notes["scorer"], notes["relation_nms"]) == ("VG150 SGDet, recall", "none")
    assert "half_open" in notes["iou"]
    assert "none" in notes["ap_rule"]


def test_given_boxes_and_labels() -> None:
    data = links(6, split="test")
    model = Planted(data, 0)
    assert evaluate(find("vg150_predcls", ks=(5,), draws=0), model, data).value == 1.0
    assert set(model.asked) <= {region.label for row in range(6) for region in data[row].regions}
    model = Planted(data, 0)
    result = evaluate(find("vg150_sgcls", ks=(5,), draws=0), model, data)
    assert set(model.asked) == {""}
    assert (result.value, result.notes["scorer"]) == (1.0, "VG150 SGCls, recall")
    with pytest.raises(ShapeError, match="was given as"):
        evaluate(VG150PredCls(draws=0), _Mover(data, 0, move=True), data)
    with pytest.raises(ConfigError, match="Relater"):
        evaluate(VG150SGCls(), object(), data)


def test_truth_beside_given_boxes_is_read_by_column_and_keeps_its_place() -> None:
    """An image without a picture and a broken one stand between the others: every truth stays with its own uid."""
    data = links(8, split="test")
    samples = [data[row] for row in range(8)]
    samples[3] = replace(samples[3], image=None)
    pool = Pool.from_samples(samples, name="gaps")
    labels, predicates = GraphColumns.of(pool).names()

    class Fussy(Planted):
        def relate(self, images: Any, regions: Any, **names: Any) -> list[SceneGraph]:
            if any(image.name == samples[5].uid for image in images):
                raise DecodeError("cut off", file=samples[5].uid)
            return super().relate(images, regions, **names)

    table = given_regions.predict(Fussy(data, 0), pool, sorted(labels), sorted(predicates), labels_known=True, batch_size=3)
    kept = [sample for n, sample in enumerate(samples) if n not in (3, 5)]
    assert table["uid"].to_pylist() == [sample.uid for sample in kept]
    for row, sample in zip(table.to_pylist(), kept, strict=True):
        assert row["truth_label"] == row["label"] == [region.label for region in sample.regions]
        assert row["truth_box"] == [list(region.box) for region in sample.regions]
        assert row["truth_predicate"] == [relation.predicate for relation in sample.relations]
        assert row["truth_subject"] == [relation.subject for relation in sample.relations]


def test_an_image_that_cannot_be_decoded_costs_itself_only() -> None:
    data = links(6, split="test")
    broken = data[2].uid

    class Fussy(Planted):
        def relate(self, images: Any, regions: Any, **names: Any) -> list[SceneGraph]:
            if any(image.name == broken for image in images):
                raise DecodeError("cut off", file=broken)
            return super().relate(images, regions, **names)

    result = evaluate(VG150PredCls(ks=(5,), draws=0, batch_size=4), Fussy(data, 0), data)
    assert (result.value, result.n_items) == (1.0, 5)
    assert [each["uid"] for each in result.notes["unreadable"]] == [broken]


class _Mover(Planted):
    def relate(self, images: Any, regions: Any, **names: Any) -> list[SceneGraph]:
        return self.detect(images, objects=names["objects"], relations=names["relations"])


def test_unseen_triplets_come_from_training_data_or_a_file(tmp_path: Path) -> None:
    train, data = links(40), links(30, split="test")
    model = Planted(data, 0.0)
    result = evaluate(VG150(ks=(5,), draws=0, train=train), model, data)
    assert result.metrics["zr@5"].value == 1.0
    triples = sorted({triple for row in range(40) for triple in train[row].graph.triplets()})
    assert result.notes["triplets_seen"] == len(triples)
    listed = tmp_path / "seen.json"
    listed.write_text(json.dumps(triples), encoding="utf-8")
    again = evaluate(VG150(ks=(5,), draws=0, seen=str(listed)), Planted(data, 0.5), data)
    assert again.metrics["zr@5"].value < 1.0
    listed.write_text('[["cat", "on"]]', encoding="utf-8")
    with pytest.raises(DataError, match=r"seen.json, row 0: .* is not a triplet"):
        evaluate(VG150(seen=str(listed)), model, data)
    assert "zr@5" not in evaluate(VG150(ks=(5,), draws=0), model, data).metrics


def test_a_published_vocabulary_is_asked_for() -> None:
    image = ArrayImage(np.zeros((40, 40, 3), np.uint8), "one")
    regions = (Region((0, 0, 10, 10), "dog"), Region((20, 20, 30, 30), "tree"))
    data = Pool.from_samples([Sample("one", image, regions=regions, relations=(Relation(0, "near", 1),))], name="one")

    class Asked:
        name, fingerprint = "asked", "0"

        def detect(
            self, images: Any, *, objects: Sequence[str], relations: Sequence[str] = (), **options: Any
        ) -> list[SceneGraph]:
            self.counts = len(objects), len(relations)
            return [SceneGraph(regions, (Relation(0, "near", 1, 0.5),))]

    model = Asked()
    result = evaluate(VG150(vocabulary="vg150", draws=0), model, data)
    assert model.counts == (150, 50)
    assert (result.value, result.main) == (1.0, "r@50")
    assert evaluate(VG150(vocabulary="vg150", draws=0, compat="published"), model, data).metrics["mr@50"].value == 1 / 50
