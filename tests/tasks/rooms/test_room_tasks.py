"""Tasks of rooms against loops of the published scorers, and models that know all, nothing, or half."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import DataError, ShapeError
from diptych.core.points.boxes_3d import SceneBoxes, box_iou_3d
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.points.room_language import (
    boxes_of_objects,
    read_multi3drefer,
    read_scanqa,
    read_scanrefer,
    room_descriptions,
    room_objects,
    room_questions,
    with_room_language,
)
from diptych.tasks.evaluate import evaluate
from diptych.tasks.rooms.room_captions import RoomCaptions
from diptych.tasks.rooms.room_detection import RoomDetection, average_precision
from diptych.tasks.rooms.room_grounding import RoomGrounding, RoomMultiGrounding, matched_f1
from diptych.tasks.rooms.room_questions import RoomQuestions, contains, plain_answer
from diptych.worlds.rooms.world import rooms

DATA = rooms(8, points=64, frames=1, size=16).to_pool()


class Oracle:
    """Knows the truth; with `shift` its boxes are that far off along x, and with `silent` it gives none."""

    name, fingerprint = "oracle", "o"

    def __init__(self, shift: float = 0.0, silent: bool = False) -> None:
        self.shift, self.silent = shift, silent

    def boxes(self, sample: Sample) -> np.ndarray[Any, Any]:
        box_N6 = boxes_of_objects(room_objects(sample))
        box_N6[:, 0] += self.shift * box_N6[:, 3]
        return box_N6[:0] if self.silent else box_N6

    def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]:
        means = {said.text: said.object_ids for said in room_descriptions(sample)}
        box_N6 = self.boxes(sample)
        hit = [np.isin(np.arange(len(box_N6)), means[text]) for text in texts]
        return [SceneBoxes(box_N6, hit_N.astype(float), hit_N) for hit_N in hit]

    def detect_room(self, sample: Sample) -> SceneBoxes:
        box_N6 = self.boxes(sample)
        labels = tuple(thing.label for thing in room_objects(sample))[: len(box_N6)]
        return SceneBoxes(box_N6, np.ones(len(box_N6)), np.ones(len(box_N6), bool), labels)

    def describe_room(self, sample: Sample) -> SceneBoxes:
        box_N6 = self.boxes(sample)
        said = {one.object_ids[0]: one.text for one in room_descriptions(sample)}
        texts = tuple(said.get(k, "a thing") for k in range(len(box_N6)))
        return SceneBoxes(box_N6, np.ones(len(box_N6)), np.ones(len(box_N6), bool), texts=texts)

    def answer_room(self, sample: Sample, questions: Sequence[str]) -> list[str]:
        known = dict(room_questions(sample))
        return [f"{known[question][0].upper()}." for question in questions]


def test_iou_is_that_of_volumes() -> None:
    """Against the released form over corners, whose 1e-8 in the divisor is the difference."""
    rng = np.random.default_rng(0)
    one, other = rng.uniform(0, 2, (6, 6)), rng.uniform(0, 2, (5, 6))
    expected = np.zeros((6, 5))
    for (i, a), (j, b) in itertools.product(enumerate(one), enumerate(other)):
        low, high = np.maximum(a[:3] - a[3:] / 2, b[:3] - b[3:] / 2), np.minimum(a[:3] + a[3:] / 2, b[:3] + b[3:] / 2)
        shared = float(np.maximum(high - low, 0).prod())
        expected[i, j] = shared / (a[3:].prod() + b[3:].prod() - shared + 1e-8)
    np.testing.assert_allclose(box_iou_3d(one, other), expected, atol=1e-6)
    assert box_iou_3d(one, one).diagonal() == pytest.approx(np.ones(6))
    assert box_iou_3d(np.zeros((1, 6)), np.zeros((1, 6))) == 0


def test_grounding_of_models_that_know() -> None:
    assert evaluate(RoomGrounding(draws=10), Oracle(), DATA).value == 1
    assert evaluate(RoomGrounding(draws=10), Oracle(silent=True), DATA).value == 0
    half = evaluate(RoomGrounding(draws=10), Oracle(shift=0.5), DATA)  # IoU is 1/3 everywhere
    assert (half.metrics["acc@0.25"].value, half.metrics["acc@0.5"].value) == (1, 0)
    assert half.metrics["iou"].value == pytest.approx(1 / 3)
    assert {"unique/acc@0.25", "multiple/acc@0.25"} < half.metrics.keys()


def test_a_draw_between_boxes_is_shared() -> None:
    class Undecided(Oracle):
        def ground_room(self, sample: Sample, texts: Sequence[str]) -> list[SceneBoxes]:
            box_N6 = self.boxes(sample)
            return [SceneBoxes(box_N6, np.zeros(len(box_N6)), np.ones(len(box_N6), bool)) for _ in texts]

    counts = [1 / len(room_objects(s)) for s in (DATA[row] for row in range(8)) for d in room_descriptions(s)]
    assert evaluate(RoomGrounding(draws=10), Undecided(), DATA).value == pytest.approx(np.mean(counts))


def f1_by_loops(predicted: list[Any], true: list[Any], level: float) -> float:
    """The best one-to-one matching by trying all, as the sum of IoUs decides."""
    size = max(len(predicted), len(true))
    iou = np.zeros((size, size))
    for i, a in enumerate(predicted):
        for j, b in enumerate(true):
            iou[i, j] = box_iou_3d([a], [b])[0, 0]
    best = max(itertools.permutations(range(size)), key=lambda order: sum(iou[i, j] for i, j in enumerate(order)))
    hits = sum(iou[i, best[i]] >= level for i in range(len(predicted)))
    return 2 * hits / (len(predicted) + len(true))


def test_f1_is_that_of_all_matchings() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        predicted, true = (rng.uniform(0.4, 1, (rng.integers(1, 4), 6)) for _ in range(2))
        assert matched_f1(predicted, true, 0.25) == pytest.approx(f1_by_loops(list(predicted), list(true), 0.25))
    assert (matched_f1([], [], 0.5), matched_f1([], [[0, 0, 0, 1, 1, 1]], 0.5)) == (1, 0)


def test_sentences_that_mean_nothing_or_several() -> None:
    def changed(sample: Sample) -> Sample:
        ids = [thing.id for thing in room_objects(sample)][:2]
        rows = [{"description": "two things", "object_ids": ids}, {"description": "a piano", "object_ids": []}]
        return replace(sample, extras={**sample.extras, "descriptions": rows})

    data = Pool.from_samples(changed(DATA[row]) for row in range(8))
    assert evaluate(RoomMultiGrounding(draws=10), Oracle(), data).value == 1
    silent = evaluate(RoomMultiGrounding(draws=10), Oracle(silent=True), data).metrics
    assert (silent["no thing/f1@0.5"].value, silent["several things/f1@0.5"].value, silent["f1@0.5"].value) == (1, 0, 0.5)


def ap_by_loops(rows: list[dict[str, Any]], name: str, level: float) -> float:
    """VOC's AP over all points, in another form: the sum over hits of the best precision from there on."""
    flat = sorted(
        (
            (s, r, b)
            for r, row in enumerate(rows)
            for b, own, s in zip(row["boxes"], row["labels"], row["scores"], strict=True)
            if own == name
        ),
        key=lambda one: -one[0],
    )
    truth = {
        r: [b for b, own in zip(row["true_boxes"], row["true_labels"], strict=True) if own == name] for r, row in enumerate(rows)
    }
    used: set[tuple[int, int]] = set()
    hits = []
    for _, r, box in flat:
        ious = [box_iou_3d([box], [b])[0, 0] for b in truth[r]]
        j = int(np.argmax(ious)) if ious else -1
        good = j >= 0 and ious[j] > level and (r, j) not in used
        used |= {(r, j)} if good else set()
        hits.append(good)
    precision = [sum(hits[: k + 1]) / (k + 1) for k in range(len(hits))]
    positives = sum(map(len, truth.values()))
    return sum(max(precision[k:]) for k in range(len(hits)) if hits[k]) / positives if positives else 0.0


def test_average_precision_is_that_of_loops() -> None:
    rng = np.random.default_rng(2)
    rows = []
    for _ in range(4):
        true = np.concatenate([rng.uniform(0, 2, (4, 3)), np.ones((4, 3))], 1)
        boxes = np.concatenate([true + np.pad(rng.normal(0, 0.15, (4, 3)), ((0, 0), (0, 3))), true[:2]])
        labels = rng.choice(["chair", "table"], 6).tolist()
        rows.append(
            {"true_boxes": true.tolist(), "true_labels": rng.choice(["chair", "table"], 4).tolist(), "boxes": boxes.tolist()}
            | {"labels": labels, "scores": rng.random(6).tolist()}
        )
    for name, level in itertools.product(("chair", "table"), (0.25, 0.5)):
        assert average_precision(rows, name, level) == pytest.approx(ap_by_loops(rows, name, level))
    assert evaluate(RoomDetection(), Oracle(), DATA).value == 1
    assert evaluate(RoomDetection(), Oracle(silent=True), DATA).value == 0


def test_captions_count_at_their_iou() -> None:
    whole, off, none = (
        evaluate(RoomCaptions(draws=5), model, DATA).metrics for model in (Oracle(), Oracle(0.5), Oracle(silent=True))
    )
    assert whole["found@0.5"].value == 1
    assert whole["cider@0.5"].value == off["cider@0.25"].value > 1
    assert off["cider@0.5"].value == none["cider@0.5"].value < 0.5
    assert off["found@0.5"].value == 0


def test_questions_are_matched_as_plain_text() -> None:
    assert evaluate(RoomQuestions(draws=5), Oracle(), DATA).value == 1
    assert plain_answer("  Two   Chairs. ") == "two chairs"
    assert contains("brown table", ["table"])
    assert not contains("", ["table"])


def test_published_files_join_their_scenes(tmp_path: Path) -> None:
    (tmp_path / "refer.json").write_text(
        json.dumps(
            [
                {
                    "scene_id": "scene0000_00",
                    "object_id": "3",
                    "object_name": "office_chair",
                    "ann_id": "0",
                    "description": "the chair",
                },
                {
                    "scene_id": "scene0000_00",
                    "object_id": "4",
                    "object_name": "office_chair",
                    "ann_id": "1",
                    "description": "the other",
                },
                {"scene_id": "scene0000_00", "object_id": "5", "object_name": "table", "ann_id": "0", "description": "the table"},
            ]
        )
    )
    asked = {
        "scene_id": "scene0000_00",
        "question": "what is it?",
        "answers": ["a chair"],
        "question_id": "val-0",
        "object_ids": [3],
    }
    (tmp_path / "qa.json").write_text(json.dumps([asked]))
    multi = {"scene_id": "scene0000_00", "object_ids": [3, 4], "description": "two chairs", "eval_type": "mt"}
    (tmp_path / "multi.json").write_text(json.dumps([multi]))
    box = [0.0, 0, 0, 1, 1, 1]
    objects = [{"id": number, "label": "chair" if number < 5 else "table", "box": box} for number in (3, 4, 5)]
    scene = Sample("scene0000_00", extras={"objects": objects})
    pool = with_room_language(
        [scene], descriptions=read_scanrefer(tmp_path / "refer.json"), questions=read_scanqa(tmp_path / "qa.json")
    )
    said = room_descriptions(pool[0])
    assert [(one.object_ids, one.unique, one.ann_id) for one in said] == [((3,), False, 0), ((4,), False, 1), ((5,), True, 0)]
    assert room_questions(pool[0]) == [("what is it?", ("a chair",))]
    several = with_room_language([scene], descriptions=read_multi3drefer(tmp_path / "multi.json"))
    assert room_descriptions(several[0])[0].object_ids == (3, 4)
    with pytest.raises(DataError, match="none of the 1 scenes"):
        with_room_language([Sample("other")], descriptions=read_scanrefer(tmp_path / "refer.json"))
    (tmp_path / "qa.json").write_text(json.dumps([{"question": "?"}]))
    with pytest.raises(DataError, match="has no scene_id"):
        read_scanqa(tmp_path / "qa.json")
    with pytest.raises(DataError, match="ids among those"):
        room_descriptions(Sample("x", extras={"objects": objects, "descriptions": [{"description": "a", "object_id": 9}]}))
    with pytest.raises(DataError, match="six finite numbers"):
        room_objects(Sample("x", extras={"objects": [{"id": 1, "label": "a", "box": [1.0, 2.0]}]}))
    with pytest.raises(ShapeError, match=r"expected \[N, 6\]"):
        SceneBoxes(np.zeros((2, 6)), np.zeros(1), np.zeros(2, bool))
