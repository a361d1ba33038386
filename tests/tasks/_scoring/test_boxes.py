"""Average precision of boxes against pycocotools and torchmetrics, and LVIS's rules by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch

from diptych.core.box_iou import box_iou
from diptych.data.masks import encode
from diptych.tasks._scoring.detection.boxes import Boxes, average_precision


def _case(seed: int, *, images: int = 12, classes: int = 3, ties: bool = False) -> tuple[Boxes, Boxes]:
    rng = np.random.default_rng(seed)

    def boxes(count: int, near: np.ndarray | None = None) -> np.ndarray:  # type: ignore[type-arg]
        low = rng.uniform(0, 60, (count, 2))
        made = np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], 1)
        if near is not None and len(near):
            some = rng.random(count) < 0.7
            made[some] = near[rng.integers(len(near), size=some.sum())] + rng.uniform(-3, 3, (some.sum(), 4))
        return made.round(1)

    true_image = rng.integers(images, size=40)
    true = Boxes(true_image, rng.integers(classes, size=40), boxes(40), np.zeros(40))
    found_image = rng.integers(images, size=400)
    near = np.concatenate([boxes(1, true.box_N4[true_image == image]) for image in found_image])
    score = rng.random(400).round(1 if ties else 6)
    return true, Boxes(found_image, rng.integers(classes, size=400), near, score)


def _coco(true: Boxes, found: Boxes, classes: int, crowd: np.ndarray | None = None) -> np.ndarray:  # type: ignore[type-arg]
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    def wide(box: np.ndarray) -> list[float]:  # type: ignore[type-arg]
        return [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]

    flags = np.zeros(len(true.image_N), bool) if crowd is None else crowd
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": int(n), "height": 100, "width": 100} for n in range(12)],
            "categories": [{"id": k + 1} for k in range(classes)],
            "annotations": [
                {"id": n + 1, "image_id": int(i), "category_id": int(k) + 1, "bbox": wide(b), "area": 1.0, "iscrowd": int(c)}
                | ({} if true.code_N is None else {"segmentation": true.code_N[n]})
                for n, (i, k, b, c) in enumerate(zip(true.image_N, true.class_N, true.box_N4, flags, strict=True))
            ],
        }
        truth.createIndex()
        rows = zip(found.image_N, found.class_N, found.box_N4, found.score_N, strict=True)
        shapes = (
            [{"bbox": wide(b)} for b in found.box_N4] if found.code_N is None else [{"segmentation": c} for c in found.code_N]
        )
        answers = truth.loadRes(
            [
                {"image_id": int(i), "category_id": int(k) + 1, "score": float(s)} | shape
                for (i, k, _, s), shape in zip(rows, shapes, strict=True)
            ]
        )
        scorer = COCOeval(truth, answers, "bbox" if found.code_N is None else "segm")
        scorer.params.areaRng, scorer.params.areaRngLbl = [[0, 1e10]], ["all"]
        scorer.evaluate()
        scorer.accumulate()
    return scorer.eval["precision"][:, :, :, 0, -1].mean(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_average_precision_of_pycocotools(seed: int, ties: bool) -> None:
    true, found = _case(seed, ties=ties)
    np.testing.assert_allclose(average_precision(true, found, classes=3), _coco(true, found, 3), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_crowds_are_left_out_as_pycocotools_leaves_them(seed: int) -> None:
    true, found = _case(seed)
    crowd = np.random.default_rng(seed).random(40) < 0.3
    got = average_precision(true.of(~crowd), found, classes=3, crowds=true.of(crowd))
    np.testing.assert_allclose(got, _coco(true, found, 3, crowd), atol=1e-12)
    assert np.abs(got - average_precision(true.of(~crowd), found, classes=3)).max() > 1e-3


@pytest.mark.parametrize("crowded", [False, True])
def test_masks_are_scored_as_pycocotools_scores_them(crowded: bool) -> None:
    """Discs in and around the boxes, some with a hole."""
    true, found = _case(1)
    y, x = np.mgrid[:100, :100]

    def coded(boxes: Boxes, seed: int) -> Boxes:
        rng = np.random.default_rng(seed)
        codes = np.empty(len(boxes.image_N), object)
        for row, (x0, y0, x1, y1) in enumerate(boxes.box_N4):
            apart = ((x - (x0 + x1) / 2) / (x1 - x0)) ** 2 + ((y - (y0 + y1) / 2) / (y1 - y0)) ** 2
            codes[row] = encode((apart < 0.25) & ((apart > 0.05) | (rng.random() < 0.5)))
        return Boxes(boxes.image_N, boxes.class_N, boxes.box_N4, boxes.score_N, codes)

    true, found = coded(true, 2), coded(found, 3)
    crowd = np.random.default_rng(4).random(40) < (0.3 if crowded else 0.0)
    got = average_precision(true.of(~crowd), found, classes=3, crowds=true.of(crowd))
    np.testing.assert_allclose(got, _coco(true, found, 3, crowd), atol=1e-12)
    boxes = [Boxes(one.image_N, one.class_N, one.box_N4, one.score_N) for one in (true.of(~crowd), found)]
    assert np.abs(got - average_precision(*boxes, classes=3)).max() > 1e-2


def test_it_is_the_mean_average_precision_of_torchmetrics() -> None:
    detection = pytest.importorskip("torchmetrics.detection")
    pytest.importorskip("faster_coco_eval")
    true, found = _case(7)
    metric = detection.MeanAveragePrecision(backend="faster_coco_eval")
    for image in range(12):
        mine, theirs = found.of(found.image_N == image), true.of(true.image_N == image)
        metric.update(
            [{"boxes": torch.tensor(mine.box_N4), "scores": torch.tensor(mine.score_N), "labels": torch.tensor(mine.class_N)}],
            [{"boxes": torch.tensor(theirs.box_N4), "labels": torch.tensor(theirs.class_N)}],
        )
    ap_TK = average_precision(true, found, classes=3)
    told = metric.compute()
    assert ap_TK.mean() == pytest.approx(float(told["map"]), abs=1e-6)
    assert ap_TK[0].mean() == pytest.approx(float(told["map_50"]), abs=1e-6)


def _boxes(rows: list[tuple[int, int, float]]) -> Boxes:
    """(image, class, score) of one and the same box."""
    image, kind, score = zip(*rows, strict=True)
    return Boxes(np.array(image), np.array(kind), np.array([[0.0, 0, 10, 10]] * len(rows)), np.array(score, float))


def test_the_fixed_rule_limits_classes_and_not_images() -> None:
    true = _boxes([(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    wrong = Boxes(np.zeros(5, int), np.zeros(5, int), np.array([[50.0, 50, 60, 60]] * 5), np.full(5, 0.9))
    found = _boxes([(0, 0, 0.5), (1, 0, 0.4), (2, 0, 0.3)])
    both = Boxes(*(np.concatenate(pair) for pair in zip(_parts(wrong), _parts(found), strict=True)))
    every = average_precision(true, both, classes=1, per_image=0)[0, 0]
    assert every == pytest.approx(3 / 8, abs=0.002)  # five wrong before three right: precision 3/8 at every recall
    cut = average_precision(true, both, classes=1, per_image=0, per_class=6)[0, 0]
    assert cut == pytest.approx(34 / 101 / 6)  # one of three is reached, recalls 0 to .33
    assert average_precision(true, both, classes=1, per_image=2)[0, 0] < every


def _parts(boxes: Boxes) -> tuple[np.ndarray, ...]:  # type: ignore[type-arg]
    return boxes.image_N, boxes.class_N, boxes.box_N4, boxes.score_N


def test_what_nobody_looked_for_is_not_counted() -> None:
    true = _boxes([(0, 0, 0)])
    found = _boxes([(1, 0, 0.9), (0, 0, 0.5)])
    assert average_precision(true, found, classes=1)[0, 0] == pytest.approx(0.5)
    assert average_precision(true, found, classes=1, judged=[(0, 0)])[0, 0] == 1
    assert average_precision(true, found, classes=1, partial=[(1, 0)])[0, 0] == 1
    twice = _boxes([(0, 0, 0.9), (0, 0, 0.95)])
    assert average_precision(true, twice, classes=1, partial=[(0, 0)])[0, 0] == 1


def test_classes_without_truth_are_left_out_and_empty_answers_are_zero() -> None:
    true, none = _boxes([(0, 0, 0)]), _boxes([(0, 0, 0.5)]).of(np.zeros(1, bool))
    ap_TK = average_precision(true, none, classes=2)
    assert (ap_TK[:, 0] == 0).all()
    assert np.isnan(ap_TK[:, 1]).all()


def test_overlaps_are_half_open_and_finite() -> None:
    np.testing.assert_allclose(box_iou([[0, 0, 2, 2], [5, 5, 5, 5]], [[1, 1, 3, 3], [5, 5, 5, 5]]), [[1 / 7, 0], [0, 0]])
