"""The dense probe: a model that says the truth gets 1, one that says nothing gets the background, and numbers worked out on paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from diptych.core.errors import DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.sample import Sample, Text
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.data.masks import decode
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.pairs.dense_probe import _SCHEMA, DenseProbe, _patch_truth, depths_of, hiding_pairs
from diptych.worlds.scenes.world import scenes


def world(split: str, count: int = 60) -> Any:
    return scenes(count, split=split, size=32, lengths=("short",), paraphrases=0, negatives=False).to_pool()


class Oracle:
    """Features of a pixel's own class and depth, a patch a pixel; `blind` gives the same everywhere."""

    def __init__(self, data: list[Any], *, blind: bool = False) -> None:
        self.name, self.fingerprint, self.blind = "oracle", "0", blind
        self.samples = {d[row].image.name: d[row] for d in data for row in range(len(d))}
        labels = sorted({region.label for sample in self.samples.values() for region in sample.regions})
        self.place = {label: 1 + n for n, label in enumerate(labels)}

    def embed_dense(self, images: Any, *, batch_size: int = 64) -> np.ndarray:
        found = np.zeros((len(images), 32, 32, len(self.place) + 2), np.float32)
        for row, image in enumerate(images):
            sample = self.samples[image.name]
            depths = depths_of(sample)
            if self.blind:
                continue
            found[row, ..., 0] = 1
            for place, region in enumerate(sample.regions):
                mask = decode(region.mask)
                found[row][mask] = 0
                found[row, ..., self.place[region.label]][mask] = 1
                found[row, ..., -1][mask] = depths[place]
        return found


def scored(blind: bool) -> dict[str, Any]:
    train, test = world("train"), world("test", 40)
    task = DenseProbe(train=train, patches=12_000, draws=50, l2=1e-4)
    result = task.score(task.predict(Oracle([train, test], blind=blind), test))
    return {name: metric.value for name, metric in result.metrics.items()} | {"pairs": result.notes["pairs"]}


def test_a_model_that_says_the_truth_gets_one() -> None:
    found = scored(blind=False)
    assert found["miou"] > 0.999
    assert found["pixel_accuracy"] > 0.999
    assert found["pairs"] > 0
    assert found["depth_order"] == 1


def test_a_model_that_says_nothing_gets_the_background_and_a_coin() -> None:
    found = scored(blind=True)
    background = found["pixel_accuracy"]
    assert found["miou"] == pytest.approx(background / 9, abs=0.01), "one of nine classes is right"
    assert found["depth_order"] == 0.5


def records(*rows: dict[str, Any]) -> pa.Table:
    full = [
        {"uid": str(n), "group": str(n), "ordered": 0.0, "pairs": 0, "tied": 0, "tied_first": 0, **row}
        for n, row in enumerate(rows)
    ]
    return with_facts(pa.Table.from_pylist(full, schema=_SCHEMA))


def test_pixels_are_added_up_over_images_before_they_are_divided() -> None:
    table = records(
        {"right": [6, 1, 0], "predicted": [7, 3, 0], "true": [8, 2, 0], "ordered": 1.0, "pairs": 1},
        {"right": [0, 4, 0], "predicted": [0, 10, 0], "true": [6, 4, 0], "ordered": 0.5, "pairs": 2},
    )
    found = {name: metric.value for name, metric in DenseProbe(draws=20).score(table).metrics.items()}
    first, second = 6 / (7 + 14 - 6), 5 / (13 + 6 - 5)
    assert found["miou"] == pytest.approx((first + second) / 2), "a class that is nowhere does not count"
    assert found["pixel_accuracy"] == pytest.approx(11 / 20)
    assert found["depth_order"] == pytest.approx(0.5)


def test_equal_depths_are_worth_what_the_policy_says() -> None:
    """Two pairs of which one ties, the nearer region first; three of which two tie, one with the nearer region first."""
    counts = {"right": [1], "predicted": [1], "true": [1]}
    table = records(
        {**counts, "ordered": 1.5, "pairs": 2, "tied": 1, "tied_first": 1},
        {**counts, "ordered": 1.0, "pairs": 3, "tied": 2, "tied_first": 1},
    )
    wanted = {"expected": 2.5 / 5, "pessimistic": 1 / 5, "optimistic": 4 / 5, "index": 3 / 5}
    for ties, value in wanted.items():
        result = DenseProbe(draws=20, ties=ties).score(table)  # type: ignore[arg-type]
        assert (result.metrics["depth_order"].value, result.notes["ties"]) == (pytest.approx(value), ties)
    with pytest.raises(DataError, match="have no column of ties"):
        DenseProbe(ties="optimistic").score(table.drop_columns(["tied", "tied_first"]))


def test_a_blind_model_ties_in_every_pair() -> None:
    train, test = world("train"), world("test", 40)
    table = DenseProbe(train=train, patches=12_000, l2=1e-4).predict(Oracle([train, test], blind=True), test)
    values = {t: DenseProbe(draws=20, ties=t).score(table).metrics["depth_order"].value for t in ("pessimistic", "optimistic")}  # type: ignore[arg-type]
    assert values == {"pessimistic": 0, "optimistic": 1}
    first = [near < far for row in range(40) for near, far in hiding_pairs(test[row])]
    assert DenseProbe(draws=20, ties="index").score(table).metrics["depth_order"].value == pytest.approx(np.mean(first))


def test_classes_are_left_out_of_the_mean_by_name() -> None:
    table = with_facts(records({"right": [6, 1, 2], "predicted": [7, 3, 4], "true": [8, 2, 4]}), classes=["", "circle", "square"])
    circle, square = 1 / (3 + 2 - 1), 2 / (4 + 4 - 2)
    result = DenseProbe(draws=20, leave_out=("",)).score(table)
    assert result.metrics["miou"].value == pytest.approx((circle + square) / 2)
    assert result.metrics["pixel_accuracy"].value == pytest.approx(9 / 14)
    assert DenseProbe(draws=20, leave_out=("", "square")).score(table).metrics["miou"].value == pytest.approx(circle)
    with pytest.raises(UnknownName, match="did you mean 'circle'"):
        DenseProbe(leave_out=("circel",)).score(table)
    with pytest.raises(DataError, match="every class is left out"):
        DenseProbe(leave_out=("", "circle", "square")).score(table)


def test_a_patch_has_the_class_of_most_of_its_pixels() -> None:
    label = np.zeros((6, 6), np.int64)
    label[:3, 3:] = 2
    label[0, 0] = 1
    label_PP, depth_PP = _patch_truth(label, label.astype(float), 2, 3)
    assert label_PP.tolist() == [[0, 2], [0, 0]]
    assert depth_PP[0].tolist() == [pytest.approx(1 / 9), 2]


def test_only_pairs_of_which_one_hides_the_other_are_asked_for() -> None:
    data = world("train", 120)
    told = [(data[row], pair) for row in range(120) for pair in hiding_pairs(data[row])]
    assert len(told) > 5
    for sample, (near, far) in told:
        depth = depths_of(sample)
        assert depth[near] > depth[far]
        assert sample.extras["things"][near]["depth"] > sample.extras["things"][far]["depth"]


def test_data_without_masks_are_refused() -> None:
    sample = Sample("a", ArrayImage(np.zeros((4, 4, 3), np.uint8)), (Text("x"),), regions=(Region((0, 0, 2, 2), "dog"),))
    data = Pool.from_samples([sample])
    with pytest.raises(DataError, match="no region with a mask"):
        DenseProbe(train=data).predict(Oracle([world("train", 2)]), data)
