"""The set loss against a loop over images, layers and queries; what must stay finite."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pair_examples as made
import pytest
import torch
import torch.nn.functional as F
from pair_examples import LAYERS, NAMES, QUERIES, RELATIONS, TEXT, example, leaves
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou, sigmoid_focal_loss

from diptych.core.contracts import Draw, Draws
from diptych.core.errors import ConfigError, ShapeError
from diptych.core.randomness import keyed_rng
from diptych.data.graphs.batch import graph_batch
from diptych.data.graphs.label_lists import CorpusNames, ListSampler
from diptych.data.graphs.pairs import PairPredictions, PairTargets
from diptych.data.graphs.transforms import SquareResize
from diptych.objectives.boxes.matching import PairCost, assign, relation_cost
from diptych.objectives.boxes.pair_set import PairSetLoss
from diptych.objectives.boxes.relation_quality import label_similarity, pseudo_labels
from diptych.worlds import links

UNMATCHED = -100  # what cross_entropy ignores


def giou(one: Tensor, two: Tensor) -> Tensor:
    return generalized_box_iou(*(box_convert(x[None], "cxcywh", "xyxy") for x in (one, two)))[0, 0]


def naive(predictions: PairPredictions, targets: PairTargets, loss: PairSetLoss) -> dict[str, Tensor]:
    """One image, one layer, one query at a time."""
    images, layers, queries, names = predictions.subject_logit_BSQC.shape
    total = dict.fromkeys(("labels", "relations", "boxes", "giou"), torch.zeros((), dtype=torch.float64))
    cost = PairCost(subjects=loss.subjects)(predictions, targets)
    for s in range(layers):
        positives, relations = 0, torch.zeros((), dtype=torch.float64)
        apart: dict[str, list[tuple[Tensor, Tensor]]] = {"subject": [], "object": []}
        label: dict[tuple[str, int, int], int] = {}
        goal = torch.zeros_like(predictions.relation_logit_BSQR[:, s])
        for b in range(images):
            query = assign(cost[b, layers - 1 if loss.matching == "last" else s], targets.valid_BG[b])
            if loss.matching == "given":
                query = torch.arange(len(query)).where(targets.valid_BG[b], -1)
            for g, q in enumerate(query.tolist()):
                if q < 0:
                    continue
                exists = targets.has_object_BG is None or bool(targets.has_object_BG[b, g])
                ends = [("subject", predictions.subject_box_BSQ4[b, s, q], targets.subject_box_BG4[b, g])]
                ends += [("object", predictions.object_box_BSQ4[b, s, q], targets.object_box_BG4[b, g])] if exists else []
                overlap = []
                for end, box, true in ends:
                    apart[end].append(((box - true).abs().sum(), 1 - giou(box, true)))
                    overlap.append(giou(box, true).detach())
                label["subject", b, q] = int(targets.subject_label_BG[b, g])
                label["object", b, q] = int(targets.object_label_BG[b, g])
                goal[b, q] = targets.relation_BGR[b, g]
                if loss.pseudo is not None:
                    goal[b, q] = pseudo_labels(goal[b, q][None], label_similarity(TEXT), threshold=loss.pseudo)[0]
                if loss.quality:
                    goal[b, q] *= (min(overlap) + 1) / 2
        for one in apart.values():  # subjects by the pairs, objects by those that exist
            total["boxes"] = total["boxes"] + loss.box * sum(l1 for l1, _ in one) / max(1, len(one))
            total["giou"] = total["giou"] + loss.giou * sum(far for _, far in one) / max(1, len(one))
        ends = (("subject", predictions.subject_logit_BSQC), ("object", predictions.object_logit_BSQC))
        for end, logit in ends if loss.subjects else ends[1:]:
            rows = [label.get((end, b, q), UNMATCHED) for b, q in itertools.product(range(images), range(queries))]
            if loss.matching != "given":
                rows = [names - 1 if row == UNMATCHED else row for row in rows]
            weight = torch.ones(names, dtype=torch.float64)
            weight[-1] = loss.background
            total["labels"] = total["labels"] + loss.label * F.cross_entropy(
                logit[:, s].flatten(0, 1), torch.tensor(rows), weight
            )
        logit = predictions.relation_logit_BSQR[:, s]
        if loss.matching == "given":
            logit, goal = logit[targets.valid_BG], goal[targets.valid_BG]
        for x, y in zip(logit.flatten(), goal.flatten(), strict=True):
            p = x.sigmoid()
            if loss.focal == "quality":
                relations = relations + (y - p).abs() ** 2 * -(y * p.log() + (1 - y) * (1 - p).log())
                positives += bool(y > 0)
            else:
                relations = relations - ((1 - p) ** 2 * p.log() if y == 1 else (1 - y) ** 4 * p**2 * (1 - p).log())
                positives += bool(y == 1)
        total["relations"] = total["relations"] + loss.relation * relations / max(1, positives)
    return total


OPTIONS: dict[str, dict[str, Any]] = {
    "published": {},
    "plain targets": {"quality": False, "pseudo": None},
    "corner": {"quality": False, "pseudo": None, "focal": "corner"},
    "corner with pseudo-labels": {"quality": False, "focal": "corner"},
    "quality only": {"pseudo": None},
    "last match": {"matching": "last"},
    "without subject classes": {"subjects": False},
    "other weights": {"label": 2.0, "relation": 0.5, "box": 5.0, "giou": 2.0, "background": 0.3, "pseudo": 0.7},
}


@pytest.mark.parametrize("without_object", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_loops_with_every_gradient(name: str, without_object: bool, parity: Any) -> None:
    predictions, targets = example(without_object=without_object)
    inputs, loss = leaves(predictions), PairSetLoss(**OPTIONS[name])
    terms, _ = loss(predictions, targets, relation_text_RD=TEXT)
    expected = naive(predictions, targets, loss)
    for term, value in expected.items():
        torch.testing.assert_close(terms[term], value, rtol=1e-9, atol=0, msg=term)
    unused = {"allow_unused": True, "materialize_grads": True}  # the names of subjects, when nothing asks for them
    got = torch.autograd.grad(sum(terms.values()), inputs, **unused)
    want = torch.autograd.grad(sum(expected.values()), inputs, **unused)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)
    pairs = [*((terms[term], value) for term, value in expected.items()), *zip(got, want, strict=True)]
    parity(
        "rlipv2",
        "every term and gradient of the set loss under each option",
        "loops over images, pairs and names",
        pairs,
        tolerance=1e-8,
    )


@pytest.mark.parametrize("focal", ["quality", "corner"])
def test_given_pairs_are_matched_by_place_and_padding_costs_nothing(focal: str) -> None:
    predictions, targets = made.predictions(3, 2, 4, NAMES, RELATIONS), made.targets([4, 1, 2], NAMES, RELATIONS)
    loss = PairSetLoss(matching="given", focal=focal, quality=focal == "quality", pseudo=None)
    inputs = leaves(predictions)
    terms, _ = loss(predictions, targets)
    expected = naive(predictions, targets, loss)
    for term, value in expected.items():
        torch.testing.assert_close(terms[term], value, rtol=1e-9, atol=0, msg=term)
    for gradient in torch.autograd.grad(sum(terms.values()), inputs):
        assert gradient[1, :, 1:].abs().sum() == 0
        assert gradient[1, :, 0].abs().sum() > 0
    with pytest.raises(ShapeError, match="4 pairs were given but predictions have 3 queries"):
        loss(made.predictions(3, 2, 3, NAMES, RELATIONS), targets)


def test_released_divisors_count_existing_objects() -> None:
    """On one process the release differs by the 1e-4 that it adds to the number of existing objects."""
    predictions, targets = example(without_object=True)
    ours, released = (
        PairSetLoss(divisors=divisors, pseudo=None, matching="last")(predictions, targets)[0]
        for divisors in ("global", "process")
    )
    query_BG = PairSetLoss(matching="last").match(predictions, targets)[:, -1]
    assert targets.has_object_BG is not None
    exist = int((targets.has_object_BG & (query_BG >= 0)).sum())
    assert 0 < exist < int((query_BG >= 0).sum())
    assert released["boxes"] < ours["boxes"]
    torch.testing.assert_close(released["boxes"], ours["boxes"], rtol=1e-3, atol=0)


def test_predicted_boxes_without_area_are_scored() -> None:
    """Where the release stops, the loss and its gradient stay finite, and the boxes are drawn towards the true ones."""
    predictions, targets = example()
    flat = dataclasses.replace(
        predictions, subject_box_BSQ4=predictions.subject_box_BSQ4 * torch.tensor([1.0, 1.0, 0.0, 0.0]).double()
    )
    inputs = leaves(flat)
    terms, parts = PairSetLoss(pseudo=None)(flat, targets)
    gradients = torch.autograd.grad(sum(terms.values()), inputs)
    assert all(value.isfinite() for value in (*terms.values(), *parts.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][..., 2:] < 0).any()
    assert terms["giou"] > PairSetLoss(pseudo=None)(predictions, targets)[0]["giou"]


def test_gradcheck() -> None:
    """Without quality labels, which are constants by definition and not by value."""
    predictions, targets = made.predictions(2, 1, 3, 4, 3), made.targets([2, 1], 4, 3)
    text = TEXT[:3]
    match = PairSetLoss().match(predictions, targets)

    def loss(*inputs: Tensor) -> Tensor:
        held = PairSetLoss(quality=False)
        return sum(held(PairPredictions(*inputs), targets, relation_text_RD=text, cost=_fixed(match))[0].values())

    assert torch.autograd.gradcheck(loss, leaves(predictions))


def _fixed(query_BSG: Tensor) -> Any:
    """A cost by which every target finds the query that it is given here."""

    def cost(predictions: PairPredictions, targets: PairTargets) -> Tensor:
        queries = predictions.subject_box_BSQ4.shape[2]
        return -(query_BSG[:, :, None] == torch.arange(queries)[None, None, :, None]).double()

    return cost


def test_any_cost_can_match() -> None:
    predictions, targets = example()
    query = PairSetLoss().match(predictions, targets, lambda p, t: relation_cost(p.relation_logit_BSQR, t.relation_BGR[:, None]))
    cost = relation_cost(predictions.relation_logit_BSQR, targets.relation_BGR[:, None])
    torch.testing.assert_close(query, assign(cost, targets.valid_BG[:, None]))
    assert not torch.equal(query, PairSetLoss().match(predictions, targets))


def test_parts_of_perfect_and_of_constant_predictions() -> None:
    served = made.targets([3, 0, 4, 1], NAMES, RELATIONS)

    def logits(label: Tensor) -> Tensor:
        return 20 * F.one_hot(label, NAMES).double()[:, None]

    perfect = PairPredictions(
        served.subject_box_BG4[:, None],
        served.object_box_BG4[:, None],
        logits(served.subject_label_BG),
        logits(served.object_label_BG),
        20 * (2 * served.relation_BGR[:, None] - 1),
    )
    _, parts = PairSetLoss(pseudo=None)(perfect, served)
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {"pairs": 2, "label_accuracy": 1, "relation_accuracy": 1, "quality": 1}
    )
    half = dataclasses.replace(
        served, relation_BGR=served.relation_BGR * (torch.arange(served.relation_BGR.shape[1]) > 0)[:, None]
    )
    wrong = dataclasses.replace(perfect, relation_logit_BSQR=-perfect.relation_logit_BSQR)
    assert PairSetLoss(pseudo=None, matching="given")(wrong, half)[1]["relation_accuracy"] == 0
    assert (
        PairSetLoss(pseudo=None, matching="given")(perfect, half)[1]["relation_accuracy"] == 1
    )  # pairs without a relation do not count
    constant = PairPredictions(*(torch.full_like(getattr(perfect, n), 0.5) for n in perfect.__dataclass_fields__))
    assert PairSetLoss(pseudo=None)(constant, served)[1]["relation_accuracy"] == 0  # a tie is no hit


@pytest.mark.parametrize(
    ("counts", "names", "relations"),
    [([0, 0], 4, 5), ([0], 1, 0), ([2, 1], 2, 1), ([40, 3], 4, 5), ([2, 2], 200, 300), ([1, 3], 4, 0), ([2, 1], 1, 3)],
)
def test_stays_finite_and_reaches_every_prediction(counts: list[int], names: int, relations: int) -> None:
    """No pair at all, no relation names, one name, more pairs than queries, 300 names, background alone."""
    predictions, targets = made.predictions(len(counts), 2, 4, names, relations), made.targets(counts, names, relations)
    inputs = leaves(predictions)
    text = torch.randn(relations, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms, parts = PairSetLoss()(predictions, targets, relation_text_RD=text)
    assert all(torch.isfinite(value) for value in [*terms.values(), *parts.values()])
    gradients = torch.autograd.grad(sum(terms.values()), inputs)  # raises when one is out of reach
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if not sum(counts):
        assert terms["boxes"] == terms["giou"] == 0


def test_pairs_without_relations_pull_relations_down() -> None:
    predictions, targets = example()
    none = dataclasses.replace(targets, relation_BGR=torch.zeros_like(targets.relation_BGR))
    (_, _, _, _, logit) = leaves(predictions)
    terms, _ = PairSetLoss()(predictions, none, relation_text_RD=TEXT)
    (gradient,) = torch.autograd.grad(terms["relations"], logit)
    assert (gradient > 0).all()


@pytest.mark.parametrize("matching", ["layer", "last"])
def test_unlabelled_pairs_left_out_teach_boxes_and_names_alone(matching: Any) -> None:
    predictions, targets = example()
    some = dataclasses.replace(
        targets, relation_BGR=targets.relation_BGR * (torch.arange(targets.relation_BGR.shape[1]) > 0)[:, None]
    )
    (_, _, _, _, logit) = leaves(predictions)
    rule = PairSetLoss(matching=matching)
    kept, _ = rule(predictions, some, relation_text_RD=TEXT)
    left_out, _ = dataclasses.replace(rule, unlabelled="left_out")(predictions, some, relation_text_RD=TEXT)
    (before,), (after,) = (torch.autograd.grad(terms["relations"], logit) for terms in (kept, left_out))
    query_BSG = rule.match(predictions, some)
    expected = before.clone()
    for b, s, g in itertools.product(*map(range, query_BSG.shape)):
        if (q := int(query_BSG[b, s, g])) >= 0 and not some.relation_BGR[b, g].any():
            assert before[b, s, q].abs().min() > 0
            expected[b, s, q] = 0
    assert torch.equal(after, expected)
    assert all(left_out[name] == kept[name] for name in ("labels", "boxes", "giou"))


def test_duplicated_pairs_and_saturated_logits_stay_finite() -> None:
    predictions, targets = example()
    twice = PairTargets(*(getattr(targets, n)[:, [0, 0, 1]] for n in list(targets.__dataclass_fields__)[:6]))
    loud = PairPredictions(
        predictions.subject_box_BSQ4 * 0, predictions.object_box_BSQ4 * 0 + 1, *(
            getattr(predictions, n) * 1e3 for n in ("subject_logit_BSQC", "object_logit_BSQC", "relation_logit_BSQR")
        )
    )  # fmt: skip
    for dtype in (torch.float64, torch.float32):
        cast = PairPredictions(*(getattr(loud, n).detach().to(dtype) for n in loud.__dataclass_fields__))
        inputs = leaves(cast)
        terms, _ = PairSetLoss()(cast, twice, relation_text_RD=TEXT)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(sum(terms.values()), inputs))


def test_order_of_queries_pairs_and_padding_do_not_matter() -> None:
    predictions, targets = example(without_object=True)
    terms, _ = PairSetLoss()(predictions, targets, relation_text_RD=TEXT)
    order = torch.randperm(QUERIES, generator=torch.Generator().manual_seed(1))
    shuffled = PairPredictions(*(getattr(predictions, n)[:, :, order] for n in predictions.__dataclass_fields__))
    places = torch.tensor([2, 5, 0, 3, 1, 4])
    moved = PairTargets(*(getattr(targets, n)[:, places] for n in targets.__dataclass_fields__))
    padded = PairTargets(
        *(torch.cat([x := getattr(moved, n), torch.zeros_like(x[:, :2])], 1) for n in moved.__dataclass_fields__)
    )
    again, _ = PairSetLoss()(shuffled, padded, relation_text_RD=TEXT)
    for name in terms:
        torch.testing.assert_close(again[name], terms[name])


def test_order_of_names_does_not_matter() -> None:
    predictions, targets = example()
    order = torch.randperm(RELATIONS, generator=torch.Generator().manual_seed(1))
    terms, _ = PairSetLoss()(predictions, targets, relation_text_RD=TEXT)
    renamed = [getattr(predictions, n) for n in predictions.__dataclass_fields__]
    renamed[4] = renamed[4][..., order]
    same = dataclasses.replace(targets, relation_BGR=targets.relation_BGR[..., order])
    again, _ = PairSetLoss()(PairPredictions(*renamed), same, relation_text_RD=TEXT[order])
    torch.testing.assert_close(again["relations"], terms["relations"])


def test_quality_and_focal_agree_with_torchvision_on_plain_targets() -> None:
    predictions, targets = example()
    terms, _ = PairSetLoss(quality=False, pseudo=None)(predictions, targets)
    query = PairSetLoss().match(predictions, targets)
    want = torch.zeros((), dtype=torch.float64)
    for s in range(LAYERS):
        goal = torch.zeros_like(predictions.relation_logit_BSQR[:, s])
        for b, g in (query[:, s] >= 0).nonzero().tolist():
            goal[b, query[b, s, g]] = targets.relation_BGR[b, g]
        want += sigmoid_focal_loss(predictions.relation_logit_BSQR[:, s], goal, alpha=-1, gamma=2, reduction="sum") / goal.sum()
    torch.testing.assert_close(terms["relations"], want)


def test_pairs_of_twins_are_twice_the_detr_loss_of_transformers(parity: Any) -> None:
    """Subject and object are one and the same thing: match, labels and boxes are those of a plain detector."""
    from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

    said, true = made.predictions(3, 1, 6, NAMES, RELATIONS), made.targets([4, 0, 2], NAMES, RELATIONS)
    twins = dataclasses.replace(said, object_box_BSQ4=said.subject_box_BSQ4, object_logit_BSQC=said.subject_logit_BSQC)
    same = dataclasses.replace(true, object_box_BG4=true.subject_box_BG4, object_label_BG=true.subject_label_BG)
    inputs = [twins.subject_box_BSQ4.requires_grad_(), twins.subject_logit_BSQC.requires_grad_()]
    loss, cost = PairSetLoss(background=0.125, box=1.0, pseudo=None), PairCost(label=1.0, relation=0.0, box=5.0, giou=2.0)
    terms, _ = loss(twins, same, cost=cost)
    theirs = ImageLoss(HungarianMatcher(2.0, 5.0, 2.0), NAMES - 1, 0.125, ["labels", "boxes"]).double()
    plain = [
        {"class_labels": label[valid], "boxes": box[valid]}
        for label, box, valid in zip(true.subject_label_BG, true.subject_box_BG4, true.valid_BG, strict=True)
    ]
    expected = theirs({"logits": twins.subject_logit_BSQC[:, 0], "pred_boxes": twins.subject_box_BSQ4[:, 0]}, plain)
    for ours, name in (("labels", "loss_ce"), ("boxes", "loss_bbox"), ("giou", "loss_giou")):
        torch.testing.assert_close(terms[ours], 2 * expected[name], rtol=1e-9, atol=0)
    got = torch.autograd.grad(terms["labels"] + terms["boxes"] + terms["giou"], inputs)
    want = torch.autograd.grad(2 * (expected["loss_ce"] + expected["loss_bbox"] + expected["loss_giou"]), inputs)
    for one, two in zip(got, want, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-12)
    pairs = list(zip(got, want, strict=True))
    parity("rlipv2", "gradients of labels and boxes of pairs of twins", "DETR's loss of transformers", pairs, tolerance=1e-8)


def test_wrong_options_and_missing_texts_are_named() -> None:
    predictions, targets = example()
    with pytest.raises(ConfigError, match=r"PairSetLoss.matching is 'first' \(expected layer \| last \| given\)"):
        PairSetLoss(matching="first")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"PairSetLoss.unlabelled is 'ignored' \(expected negative \| left_out\)"):
        PairSetLoss(unlabelled="ignored")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"text features \[7, D\] of the relation names, got none"):
        PairSetLoss()(predictions, targets)
    with pytest.raises(ShapeError, match=r"got \[5, 8\]"):
        PairSetLoss()(predictions, targets, relation_text_RD=TEXT[:5])


# ---------------------------------------------------------------- from pictures


def test_a_batch_of_graphs_is_what_the_loss_takes() -> None:
    world = links(6, seed=0)
    draws = Draws(tuple(Draw(world[n], keyed_rng(n), world[n].image.pixels_HWC) for n in range(6)), keyed_rng(0))
    batch = graph_batch(draws, views=SquareResize(size=32), labels=ListSampler(names=CorpusNames.of(world), length=30))
    targets = batch.true_pairs()
    names, relations = batch.lists.background + 1, len(batch.lists.relations)
    said = made.predictions(6, 2, 8, names, relations)
    text = torch.randn(relations, 8, generator=torch.Generator().manual_seed(0))
    terms, parts = PairSetLoss()(said, targets, relation_text_RD=text)
    assert parts["pairs"] == 2
    assert all(torch.isfinite(value) for value in terms.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    results = []
    for device in ("cpu", "cuda"):
        predictions, targets = example(without_object=True)
        said = PairPredictions(*(getattr(predictions, n).to(device) for n in predictions.__dataclass_fields__))
        true = PairTargets(*(getattr(targets, n).to(device) for n in targets.__dataclass_fields__))
        inputs = leaves(said)
        terms, parts = PairSetLoss()(said, true, relation_text_RD=TEXT.to(device))
        gradients = torch.autograd.grad(sum(terms.values()), inputs)
        results.append([x.detach().cpu() for x in (*terms.values(), *parts.values(), *gradients)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
