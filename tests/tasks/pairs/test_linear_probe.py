"""The probe against scikit-learn, its search against the whole grid, its hold-out by group."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.tasks._scoring.ranking.class_lists import list_values
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs import linear_probe
from diptych.tasks.pairs.linear_probe import KNNClassifier, LinearProbe, fit, hold_out, search


def blobs(classes: int, n: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((classes, 8))
    label = rng.integers(0, classes, n)
    rows = centre[label] + spread * rng.standard_normal((n, 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), label


def planted(kit: Any, rows: np.ndarray, label: np.ndarray, *, test_from: int, per_group: int = 2) -> tuple[Any, Any]:
    model = kit.model({f"u{i}": row for i, row in enumerate(rows)}, {})
    samples = [
        kit.sample(f"u{i}", group=f"g{i // per_group}", label=f"class {k}", split="train" if i < test_from else "test")
        for i, k in enumerate(label)
    ]
    return model, kit.pool(*samples)


@pytest.mark.parametrize("classes", [2, 4])
def test_scores_are_scikit_learns(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    rows, label = blobs(classes, 200, 1.0)
    ours = fit(rows, label, 0.1)(rows)
    theirs = LogisticRegression(C=10.0, max_iter=1000).fit(rows, label)
    assert (ours.argmax(1) == theirs.predict(rows)).all()
    if classes > 2:
        np.testing.assert_allclose(ours, theirs.decision_function(rows), atol=1e-9)
    else:
        np.testing.assert_allclose(ours[:, 1] - ours[:, 0], theirs.decision_function(rows), atol=1e-9)


def test_whole_probe_against_scikit_learn(kit: Any) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, balanced_accuracy_score

    rows, label = blobs(3, 300, 0.8)
    rows = rows.astype(np.float32)  # the precision of an embedder
    model, pool = planted(kit, rows, label, test_from=200)
    result = evaluate(LinearProbe(l2=0.01), model, pool)
    theirs = (
        LogisticRegression(C=100.0, max_iter=1000).fit(rows[:200].astype(float), label[:200]).predict(rows[200:].astype(float))
    )
    assert result.value == pytest.approx(accuracy_score(label[200:], theirs))
    assert result.metrics["mean_per_class"].value == pytest.approx(balanced_accuracy_score(label[200:], theirs))
    assert result.metrics["acc@1"].chance == pytest.approx(1 / 3)
    assert (result.n_items, result.n_groups) == (100, 50)
    assert result.notes["converged"] is True
    assert result.notes["c"] == pytest.approx(100.0)


def test_search_takes_fifteen_fits_and_the_largest_of_equal_lambdas(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted accuracy curve: a plateau from 10^-1 to 10^0.5; its upper edge must win."""
    tried: list[float] = []

    class Scripted:
        converged = True

        def __init__(self, share: float) -> None:
            self.right = np.arange(100) < 100 * share

        def __call__(self, rows: Any) -> Any:
            return np.stack([~self.right, self.right], axis=1).astype(float)

    def fake(rows: Any, label: Any, l2: float, **_: Any) -> Scripted:
        tried.append(l2)
        distance = abs(np.log10(l2) + 0.25)
        return Scripted(1.0 if distance < 0.76 else 0.5 / (1 + distance))

    monkeypatch.setattr(linear_probe, "fit", fake)
    found = search(np.zeros((2, 1)), np.zeros(2, int), np.zeros((100, 1)), np.ones(100, int))
    assert found["l2"] == pytest.approx(10**0.5)
    assert found["fits"] == len(tried) <= 15
    assert found["val_accuracy"] == 1.0
    found = search(np.zeros((2, 1)), np.zeros(2, int), np.zeros((100, 1)), np.ones(100, int), ties="smallest")
    assert found["l2"] == pytest.approx(10**-1.0)  # |log10 + 0.25| < 0.76 holds from 10 ** -1 to 10 ** 0.5


def test_search_is_as_good_as_the_whole_grid() -> None:
    rows, label = blobs(3, 240, 1.2, seed=1)
    train, check = slice(0, 160), slice(160, 240)
    found = search(rows[train], label[train], rows[check], label[check])
    coarse = [(fit(rows[train], label[train], l2)(rows[check]).argmax(1) == label[check]).mean() for l2 in linear_probe.GRID[::4]]
    assert found["val_accuracy"] >= max(coarse) - 0.03
    assert found["fits"] <= 15


def test_shared_neighbours_are_the_mean_over_the_orders_of_rows() -> None:
    rows = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    label = np.array([0, 1, 2, 2, 1])
    query = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    for k in (1, 2, 3, 5):
        orders = [list(order) for order in permutations(range(5))]
        each = [KNNClassifier(rows[order], label[order], 3, k, 0.5)(query) for order in orders]
        shared = KNNClassifier(rows, label, 3, k, 0.5, "shared")(query)
        np.testing.assert_allclose(shared, np.mean(each, axis=0), rtol=1e-12)
    by_row = KNNClassifier(rows, label, 3, 2, 0.5)(query[:1])
    assert by_row[0, 1] > 0
    assert by_row[0, 2] == 0, "by index the earlier of equal rows votes"
    with pytest.raises(ConfigError, match="neighbour_ties is 'mean'"):
        LinearProbe(neighbour_ties="mean")  # type: ignore[arg-type]


def test_hold_out_takes_whole_groups_of_every_class() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{i}" for i in rng.integers(0, 60, 300)]
    label = np.array([int(group[1:]) % 3 for group in groups])
    held = hold_out(label, groups, seed=0)
    assert not {g for g, h in zip(groups, held, strict=True) if h} & {g for g, h in zip(groups, held, strict=True) if not h}
    for k in range(3):
        assert held[label == k].mean() == pytest.approx(0.2, abs=0.07)
    assert (hold_out(label, groups, seed=0) == held).all()
    assert (hold_out(label, groups, seed=1) != held).any()


def test_class_with_one_group_stays_in_training() -> None:
    held = hold_out(np.array([0, 0, 1, 1]), ["a", "a", "b", "c"])
    assert not held[:2].any()
    assert held[2:].sum() == 1
    with pytest.raises(DataError, match="nothing can be held out"):
        hold_out(np.array([0, 1]), ["a", "b"])


def test_neighbours_against_loops(kit: Any) -> None:
    rows, label = blobs(3, 60, 0.8)
    votes = KNNClassifier(rows, label, 3, 5, 0.07)(rows[:10])
    for i in range(10):
        near = sorted(range(60), key=lambda j: -float(rows[i] @ rows[j]))[:5]
        for k in range(3):
            want = sum(np.exp((rows[i] @ rows[j] - 1) / 0.07) for j in near if label[j] == k)
            assert votes[i, k] == pytest.approx(want)
    model, pool = planted(kit, rows, label, test_from=40)
    assert evaluate(LinearProbe(head="knn"), model, pool).value > 0.6


RELEASED_LISTS = {
    1: (0.25, 0.25, 0.0001923076923076923, 0.25),
    10: (0.12216865079365077, 0.24500000000000002, 0.0018846153846153845, 0.7),
    25: (0.10120480241098698, 0.22999999999999998, 0.004423076923076923, 0.75),
}
"""By k: mAP, precision, recall (of 1,300) and top-k that `compute_mAP_recall_at_k` of the released notebook gives for the rows below."""


def test_lists_of_neighbours_are_judged_as_in_the_released_notebook(kit: Any, parity: Any) -> None:
    rng = np.random.default_rng(8)
    rows, label = rng.standard_normal((80, 6)), rng.integers(0, 4, 80)
    rows += 1.2 * np.eye(6)[label]
    label[75:] = 4  # a class that training lacks
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    model, pool = planted(kit, rows, label, test_from=60)
    task = LinearProbe(head="knn", lists=(1, 10, 25))
    records = task.predict(model, pool)
    result = task.score(records)
    there = np.array([(label[:60] == k).sum() for k in label[60:]])
    pairs = []
    for k, (*theirs, recall, hit) in RELEASED_LISTS.items():
        pairs += [
            (result.metrics[f"{name}@{k}"].value, value) for name, value in zip(("map_by_k", "precision"), theirs, strict=True)
        ]
        own_N = task.item_values(records, f"recall@{k}")
        pairs += [((own_N[:, 0] * there).mean() / 1300, recall), (result.metrics[f"hit@{k}"].value, hit)]
    parity(
        "mrl",
        "retrieval by class: mAP, precision, recall, hits",
        "RAIVNLab/MRL 7ccb42d, compute_metrics.ipynb",
        pairs,
        tolerance=1e-12,
    )
    assert result.metrics["recall@25"].low <= result.metrics["recall@25"].value
    assert task.item_values(records, "acc@1") is not None
    plain = LinearProbe(head="knn").predict(model, pool)
    assert "neighbours_right" not in plain.column_names
    with pytest.raises(ConfigError, match="lists reach 61 and there are 60"):
        LinearProbe(head="knn", lists=(61,)).predict(model, pool)
    with pytest.raises(ConfigError, match="with head 'logistic'"):
        LinearProbe(lists=(10,))


def test_map_divides_by_the_relevant_items_as_ranx_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest.importorskip("numba").config, "DISABLE_JIT", True)  # compiling takes longer than thirty queries
    ranx = pytest.importorskip("ranx")
    rng = np.random.default_rng(0)
    right_NK, more_N = rng.random((30, 12)) < 0.3, rng.integers(1, 9, 30)
    there_N = right_NK.sum(1) + more_N
    asked = {
        f"q{n}": {f"d{n}-{k}": 1 for k in np.flatnonzero(row)} | {f"gone{n}-{m}": 1 for m in range(more)}
        for n, (row, more) in enumerate(zip(right_NK, more_N, strict=True))
    }
    given = {f"q{n}": {f"d{n}-{k}": 1.0 / (k + 1) for k in range(12)} for n in range(30)}
    values = list_values(right_NK, there_N, (1, 5, 12))
    theirs = ranx.evaluate(ranx.Qrels(asked), ranx.Run(given), [f"map@{k}" for k in (1, 5, 12)] + ["precision@5", "recall@5"])
    for name, value in theirs.items():
        assert values[name].mean() == pytest.approx(value, abs=1e-9), name
    assert values["map_by_k@5"].mean() > values["map@5"].mean()


def test_searches_by_itself_and_says_so(kit: Any) -> None:
    rows, label = blobs(3, 240, 0.6)
    model, pool = planted(kit, rows, label, test_from=180)
    result = evaluate(LinearProbe(seed=3), model, pool)
    assert result.value > 0.7
    assert "held out by group, seed 3" in result.notes["search"]
    assert result.notes["fits"] <= 15
    assert result.notes["train_items"] == 180
    short = evaluate(LinearProbe(l2=1e-6, max_iterations=2), model, pool)
    assert short.notes["converged"] is False


def test_given_data_sets_and_a_validation_split(kit: Any) -> None:
    rows, label = blobs(3, 240, 0.6)
    model, pool = planted(kit, rows, label, test_from=180)
    train, test = pool.split("train"), pool.split("test")
    assert evaluate(LinearProbe(train=train, l2=1.0), model, test).value == evaluate(LinearProbe(l2=1.0), model, pool).value
    checked = LinearProbe(train=train.select(range(120)), val=train.select(range(120, 180)))
    assert evaluate(checked, model, test).notes["search"] == "validation split"
    with pytest.raises(DataError, match="180 samples are in both"):
        evaluate(LinearProbe(train=train), model, pool)


def test_item_of_a_class_that_training_lacks_is_wrong(kit: Any) -> None:
    rows, label = blobs(2, 60, 0.1)
    label[50:55] = 2
    model, pool = planted(kit, rows, label, test_from=40)
    result = evaluate(LinearProbe(l2=0.01), model, pool)
    assert result.notes["items_of_unseen_classes"] == 5
    assert result.value == pytest.approx(15 / 20)
    assert result.metrics["acc@1"].chance == pytest.approx(0.5 * 15 / 20)


def test_bad_input(kit: Any) -> None:
    rows, label = blobs(2, 20, 0.5)
    model, pool = planted(kit, rows, np.zeros_like(label), test_from=10)
    with pytest.raises(DataError, match="only one class"):
        evaluate(LinearProbe(), model, pool)
    with pytest.raises(UnknownName, match="unknown split 'tests'; did you mean 'test'"):
        evaluate(LinearProbe(test_split="tests"), model, pool)
    with pytest.raises(ConfigError, match="head"):
        LinearProbe(head="mlp")  # type: ignore[arg-type]
