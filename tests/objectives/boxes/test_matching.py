"""Assignments against every permutation, costs against one query and one target at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pair_examples as made
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from diptych.core.errors import ShapeError
from diptych.objectives.boxes.matching import PairCost, assign, label_cost, relation_cost


def cheapest(cost_QG: np.ndarray) -> float:
    """Least total over all ways to serve as many targets as can be served."""
    queries, targets = cost_QG.shape
    if queries < targets:
        return cheapest(cost_QG.T)
    return min(sum(cost_QG[q, g] for g, q in enumerate(chosen)) for chosen in itertools.permutations(range(queries), targets))


@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_no_permutation_is_cheaper(queries: int, targets: int, seed: int) -> None:
    cost = torch.randn(queries, targets, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    query = assign(cost, torch.ones(targets, dtype=torch.bool))
    served = query >= 0
    assert int(served.sum()) == min(queries, targets)
    assert len(set(query[served].tolist())) == int(served.sum())
    total = float(cost[query[served], served.nonzero()[:, 0]].sum())
    assert total == pytest.approx(cheapest(cost.numpy()))


@pytest.mark.parametrize("queries", [2, 5])
def test_no_permutation_of_a_batch_is_cheaper(parity: Any, queries: int) -> None:
    cost_BQG = torch.randn(20, queries, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    query_BG = assign(cost_BQG, torch.ones(20, 4, dtype=torch.bool))
    pairs = []
    for cost_QG, query_G in zip(cost_BQG, query_BG, strict=True):
        served = query_G >= 0
        pairs.append((cost_QG[query_G[served], served.nonzero()[:, 0]].sum(), cheapest(cost_QG.numpy())))
    parity("rlipv2", "cost of the match", "every permutation", pairs, tolerance=1e-12)


def test_padding_is_never_served_and_items_of_a_batch_do_not_touch() -> None:
    cost = torch.randn(3, 2, 4, 6, generator=torch.Generator().manual_seed(0))
    valid = torch.rand(3, 1, 6, generator=torch.Generator().manual_seed(1)) < 0.5
    valid[1] = False
    valid[2] = True  # more targets than queries
    query = assign(cost, valid)
    assert query.shape == (3, 2, 6)
    for b, s in itertools.product(range(3), range(2)):
        chosen = valid[b, 0].nonzero()[:, 0]
        alone = assign(cost[b, s][:, chosen], torch.ones(len(chosen), dtype=torch.bool))
        torch.testing.assert_close(query[b, s][chosen], alone)
        assert (query[b, s][~valid[b, 0]] == -1).all()
    assert ((query[2] >= 0).sum(-1) == 4).all()


def test_costs_that_are_no_numbers_do_not_stop_the_match() -> None:
    cost = torch.tensor([[torch.nan, 0.0], [0.0, torch.inf]])
    assert assign(cost, torch.ones(2, dtype=torch.bool)).tolist() == [1, 0]
    assert assign(torch.tensor([[-torch.inf, 0.0], [0.0, 5.0]]), torch.ones(2, dtype=torch.bool)).tolist() == [1, 0]
    with pytest.raises(ShapeError, match="2 targets"):
        assign(cost, torch.ones(3, dtype=torch.bool))


def by_hand(predictions: Any, targets: Any, b: int, s: int, q: int, g: int) -> float:
    p_subject, p_object = (x[b, s, q].softmax(-1) for x in (predictions.subject_logit_BSQC, predictions.object_logit_BSQC))
    p, y = predictions.relation_logit_BSQR[b, s, q].sigmoid(), targets.relation_BGR[b, g]
    label = -p_subject[targets.subject_label_BG[b, g]] - p_object[targets.object_label_BG[b, g]]
    verb = -0.5 * ((p * y).sum() / (y.sum() + 1e-4) + ((1 - p) * (1 - y)).sum() / ((1 - y).sum() + 1e-4))
    l1, giou = [], []
    for box, true, counts in (
        (predictions.subject_box_BSQ4, targets.subject_box_BG4, True),
        (predictions.object_box_BSQ4, targets.object_box_BG4, targets.has_object_BG is None or bool(targets.has_object_BG[b, g])),
    ):
        if counts:
            one, two = box[b, s, q], true[b, g]
            l1.append((one - two).abs().sum())
            giou.append(generalized_box_iou(*(box_convert(x[None], "cxcywh", "xyxy") for x in (one, two)))[0, 0])
    return float(label + verb + 2.5 * max(l1) - min(giou))


@pytest.mark.parametrize("without_object", [False, True])
def test_pair_cost_one_by_one(without_object: bool) -> None:
    predictions = made.predictions(3, 2, 4, 5, 6)
    targets = made.targets([3, 0, 2], 5, 6, without_object=without_object)
    cost = PairCost()(predictions, targets)
    assert cost.shape == (3, 2, 4, 3)
    for b, s, q, g in itertools.product(range(3), range(2), range(4), range(3)):
        if targets.valid_BG[b, g]:
            assert float(cost[b, s, q, g]) == pytest.approx(by_hand(predictions, targets, b, s, q, g))


def test_weights_choose_the_terms() -> None:
    predictions, targets = made.predictions(2, 1, 4, 5, 6), made.targets([2, 2], 5, 6)
    label = label_cost(predictions.subject_logit_BSQC, targets.subject_label_BG[:, None])
    label = label + label_cost(predictions.object_logit_BSQC, targets.object_label_BG[:, None])
    torch.testing.assert_close(PairCost(label=3, relation=0, box=0, giou=0)(predictions, targets), 3 * label)
    verb = relation_cost(predictions.relation_logit_BSQR, targets.relation_BGR[:, None])
    torch.testing.assert_close(PairCost(label=0, relation=2, box=0, giou=0)(predictions, targets), 2 * verb)


def test_perfect_predictions_find_their_own_targets() -> None:
    targets = made.targets([4, 2], 6, 5)

    def logits(label: Tensor) -> Tensor:
        return 20 * torch.nn.functional.one_hot(label, 6).double()[:, None]

    order = torch.tensor([2, 0, 3, 1])
    predictions = made.predictions(2, 1, 4, 6, 5)
    perfect = type(predictions)(
        targets.subject_box_BG4[:, None, order],
        targets.object_box_BG4[:, None, order],
        logits(targets.subject_label_BG[:, order]),
        logits(targets.object_label_BG[:, order]),
        20 * (2 * targets.relation_BGR[:, None, order] - 1),
    )
    query = assign(PairCost()(perfect, targets), targets.valid_BG[:, None])[:, 0]
    assert order[query[0]].tolist() == [0, 1, 2, 3]
    assert order[query[1, :2]].tolist() == [0, 1]


def test_half_precision_and_other_numbers_of_names_are_handled() -> None:
    predictions, targets = made.predictions(2, 1, 4, 5, 6), made.targets([2, 1], 5, 6)
    half = type(predictions)(*(getattr(predictions, f).bfloat16() for f in predictions.__dataclass_fields__))
    assert PairCost()(half, targets).dtype in (torch.float32, torch.float64)
    with pytest.raises(ShapeError, match="targets have 7 relation names but predictions have 6"):
        PairCost()(predictions, made.targets([2, 1], 5, 7))
    with pytest.raises(ShapeError, match="targets have 3 images but predictions have 2"):
        PairCost()(predictions, made.targets([2, 1, 1], 5, 6))
    with pytest.raises(ShapeError, match="object_box_BSQ4"):
        type(predictions)(
            predictions.subject_box_BSQ4,
            predictions.object_box_BSQ4[:, :, :2],
            predictions.subject_logit_BSQC,
            predictions.object_logit_BSQC,
            predictions.relation_logit_BSQR,
        )
