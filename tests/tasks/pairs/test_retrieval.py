"""Retrieval: worked by hand, against published scorers, and on models whose score is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Text
from diptych.tasks._scoring.records import array, facts_of
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.retrieval import Retrieval


def test_three_pairs_by_hand(kit: Any) -> None:
    """Images on the axes; the text of b lies nearer to a, so: b's query ranks 2, image a still finds its own text first."""
    model = kit.model(
        {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]},
        {"A": kit.unit([1, 0.1, 0]), "B": kit.unit([0.8, 0.6, 0]), "C": kit.unit([0, 0, 1])},
    )
    pool = kit.pool(kit.sample("a", "A"), kit.sample("b", "B"), kit.sample("c", "C"))
    result = evaluate(Retrieval(ks=(1, 2)), model, pool)
    value = {name: metric.value for name, metric in result.metrics.items()}
    assert value["t2i_r@1"] == pytest.approx(2 / 3)
    assert value["i2t_r@1"] == pytest.approx(1.0)
    assert value["t2i_mrr"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert value["t2i_medr"] == 1.0
    assert value["r@1"] == result.value == pytest.approx((2 / 3 + 1) / 2)
    assert value["rsum"] == pytest.approx(100 * (2 / 3 + 1 + 1 + 1))
    assert result.metrics["t2i_r@1"].chance == pytest.approx(1 / 3)
    assert result.metrics["t2i_medr"].chance == 2.0
    assert (result.n_items, result.n_groups) == (6, 3)
    assert list(value)[:4] == ["r@1", "r@2", "rsum", "t2i_r@1"]


def test_image_hits_when_one_of_its_captions_is_found(kit: Any) -> None:
    model = kit.model({"a": [1, 0], "b": [0, 1]}, {"A": [1, 0], "far": kit.unit([-1, 0.01]), "B": kit.unit([0.1, 1])})
    pool = kit.pool(kit.sample("a", "A", "far"), kit.sample("b", "B"))
    metrics = evaluate(Retrieval(ks=(1,)), model, pool).metrics
    assert metrics["i2t_r@1"].value == 1.0
    assert metrics["t2i_r@1"].value == pytest.approx(2 / 3)  # "far" asks for a and gets b
    assert metrics["i2t_r@1"].chance == pytest.approx((2 / 3 + 1 / 3) / 2)


@pytest.mark.parametrize("captions", [1, 5])
def test_parity_with_clip_benchmark(kit: Any, captions: int, parity: Any) -> None:
    theirs = pytest.importorskip("clip_benchmark.metrics.zeroshot_retrieval")
    import torch

    model, pool = kit.random(80, captions=captions, noise=2.5)
    ours = evaluate(Retrieval(draws=10), model, pool).metrics
    images = torch.from_numpy(np.stack([model.images[uid] for uid in pool.uids]))
    texts = torch.from_numpy(np.stack(list(model.texts.values())))
    scores = texts @ images.T
    positive = torch.eye(80, dtype=torch.bool).repeat_interleave(captions, dim=0)
    pairs: list[tuple[float, Any]] = []
    for k in (1, 5, 10):
        assert ours[f"t2i_r@{k}"].value == pytest.approx((theirs.recall_at_k(scores, positive, k) > 0).float().mean().item())
        assert ours[f"i2t_r@{k}"].value == pytest.approx((theirs.recall_at_k(scores.T, positive.T, k) > 0).float().mean().item())
        pairs.append((ours[f"t2i_r@{k}"].value, (theirs.recall_at_k(scores, positive, k) > 0).float().mean()))
        pairs.append((ours[f"i2t_r@{k}"].value, (theirs.recall_at_k(scores.T, positive.T, k) > 0).float().mean()))
    parity("clip", "recall at 1, 5 and 10 both ways", "clip_benchmark", pairs, tolerance=1e-6)


@pytest.mark.slow
def test_parity_with_ranx(kit: Any) -> None:
    ranx = pytest.importorskip("ranx")
    model, pool = kit.random(60, captions=3, noise=2.5, seed=3)
    ours = evaluate(Retrieval(draws=10), model, pool).metrics
    images = np.stack([model.images[uid] for uid in pool.uids])
    names, texts = list(model.texts), np.stack(list(model.texts.values()))
    scores = images @ texts.T
    truth = {f"u{i}": dict.fromkeys(names[3 * i : 3 * i + 3], 1) for i in range(60)}
    run = {f"u{i}": dict(zip(names, scores[i].tolist(), strict=True)) for i in range(60)}
    metrics = ["hit_rate@1", "hit_rate@5", "hit_rate@10", "mrr"]
    want = ranx.evaluate(ranx.Qrels(truth), ranx.Run(run), metrics)
    for name, mine in zip(metrics, ("i2t_r@1", "i2t_r@5", "i2t_r@10", "i2t_mrr"), strict=True):
        assert ours[mine].value == pytest.approx(want[name], abs=1e-9)


def test_perfect_constant_and_random_models(kit: Any) -> None:
    perfect = evaluate(Retrieval(draws=50), *kit.random(40, noise=0.0)).metrics
    assert perfect["r@1"].value == 1.0
    assert perfect["i2t_medr"].value == 1.0

    model, pool = kit.random(40, captions=2)
    constant = kit.model({uid: [1, 0] for uid in pool.uids}, {text: [1, 0] for text in model.texts})
    result = evaluate(Retrieval(draws=50), constant, pool)
    for name, metric in result.metrics.items():
        if "medr" not in name:
            assert metric.value == pytest.approx(metric.chance), name
    assert result.notes["share_tied"] == 1.0
    assert evaluate(Retrieval(draws=50, ties="pessimistic"), constant, pool).metrics["r@10"].value == 0.0
    assert evaluate(Retrieval(draws=50, ties="optimistic"), constant, pool).metrics["r@1"].value == 1.0
    assert evaluate(Retrieval(draws=50, ties="index"), constant, pool).metrics["t2i_r@1"].value == pytest.approx(1 / 40)

    random = evaluate(Retrieval(draws=200), *kit.random(400, noise=1e6)).metrics
    for name in ("t2i_r@10", "i2t_r@10"):
        assert random[name].low <= random[name].chance <= random[name].high
    assert random["t2i_medr"].value == pytest.approx(random["t2i_medr"].chance, rel=0.25)


def test_any_picture_of_the_concept_answers(kit: Any) -> None:
    """Two styles of one concept share their name: the name is one text, and either picture is right."""
    model = kit.model({"a1": [1, 0], "a2": kit.unit([1, 0.5]), "b1": [0, 1]}, {"cat": [1, 0.0], "dog": [0, 1.0]})
    pool = kit.pool(kit.sample("a1", "cat", group="a"), kit.sample("a2", "cat", group="a"), kit.sample("b1", "dog", group="b"))
    result = evaluate(Retrieval(ks=(1,)), model, pool)
    assert (result.notes["relevant"], result.notes["texts"], result.notes["texts_merged"]) == ("group", 2, 1)
    assert result.metrics["t2i_r@1"].value == 1.0
    assert result.metrics["t2i_r@1"].chance == pytest.approx((2 / 3 + 1 / 3) / 2)
    strict = evaluate(Retrieval(ks=(1,), relevant="uid"), model, pool)
    assert strict.notes["texts"] == 3
    assert strict.metrics["t2i_r@1"].value == pytest.approx(2 / 3)  # a2's name finds a1
    assert strict.notes["texts_with_several_answers"] == 2
    assert strict.metrics["i2t_r@1"].value == pytest.approx((0.5 + 0.5 + 1) / 3)  # one string at two answers ties


def test_language_origin_and_number_of_texts(kit: Any) -> None:
    texts = {name: kit.unit(v) for name, v in {"cat": [1, 0], "Katze": [1, 0], "pet": [1, 1], "dog": [0, 1]}.items()}
    model = kit.model({"a": [1, 0], "b": [0, 1]}, texts)
    pool = kit.pool(
        kit.sample(
            "a", Text("cat", "en", "label"), Text("Katze", "de", "label"), Text("pet", "en", "tags"), Text("no", "en", "negative")
        ),
        kit.sample("b", Text("dog", "", "label")),
    )

    def asked(**options: Any) -> set[str]:
        return {t for t in array(Retrieval(**options).predict(model, pool), "text").tolist() if t}

    assert asked() == {"cat", "pet", "dog"}
    assert asked(language="") == {"cat", "Katze", "pet", "dog"}
    assert asked(language="de") == {"Katze", "dog"}
    assert asked(origins=("label",)) == {"cat", "dog"}
    assert asked(texts_per_image=1) == {"cat", "dog"}
    with pytest.raises(DataError, match="no text of 'pool' is left"):
        asked(origins=("caption",))


def test_interval_is_over_groups(kit: Any) -> None:
    model, pool = kit.random(100, captions=5, noise=3.0, seed=5)
    records = Retrieval().predict(model, pool)
    grouped = Retrieval().score(records).metrics["t2i_r@1"]
    rows = records.num_rows
    alone = records.set_column(records.schema.get_field_index("group"), "group", [[str(i) for i in range(rows)]])
    naive = Retrieval().score(alone).metrics["t2i_r@1"]
    assert grouped.value == naive.value
    assert grouped.low < grouped.value < grouped.high
    assert Retrieval().score(records).metrics == Retrieval().score(records).metrics


@pytest.mark.parametrize("ties", ["expected", "pessimistic", "optimistic"])
def test_items_add_up_under_the_tie_policy_of_the_task(kit: Any, ties: Any) -> None:
    model = kit.model({"a": [1, 0], "b": [1, 0], "c": [0, 1]}, {"A": [1, 0], "B": [1, 0], "C": [0, 1]})
    pool = kit.pool(kit.sample("a", "A"), kit.sample("b", "B"), kit.sample("c", "C"))
    task = Retrieval(ks=(1,), draws=5, ties=ties)
    table = task.predict(model, pool)
    values_NM = task.item_values(table, "t2i_r@1")
    assert values_NM is not None
    expected = {"expected": 2 / 3, "pessimistic": 1 / 3, "optimistic": 1.0}[ties]
    assert float(np.nanmean(values_NM)) == pytest.approx(task.score(table).metrics["t2i_r@1"].value) == pytest.approx(expected)


def test_items_add_up_to_the_metric_and_each_metric_says_its_direction(kit: Any) -> None:
    model, pool = kit.random(40, captions=3, noise=2.5)
    task = Retrieval(draws=5)
    table = task.predict(model, pool)
    result = task.score(table)
    for name in ("r@1", "r@10", "t2i_r@5", "i2t_r@1"):
        values_NM = task.item_values(table, name)
        assert values_NM is not None
        assert float(np.nanmean(values_NM, axis=0).mean()) == pytest.approx(result.metrics[name].value)
    assert task.item_values(table, "rsum") is None
    assert task.item_values(table, "t2i_medr") is None
    assert {name for name, metric in result.metrics.items() if not metric.higher_is_better} == {"t2i_medr", "i2t_medr"}
    assert (result.metrics["t2i_r@1"].items, result.metrics["i2t_r@1"].items) == (120, 40)
    assert result.metrics["t2i_medr"].unit == "rank"


def test_scoring_needs_rows_only(kit: Any) -> None:
    model, pool = kit.random(30, noise=2.0)
    records = Retrieval().predict(model, pool)
    assert Retrieval().score(records) == Retrieval().score(records)
    shuffled = records.take(np.random.default_rng(0).permutation(records.num_rows))
    once, again = Retrieval().score(records), Retrieval().score(shuffled)
    assert {n: m.value for n, m in once.metrics.items()} == pytest.approx({n: m.value for n, m in again.metrics.items()})
    assert Retrieval(ks=(3,)).score(records).metrics["t2i_r@3"].value >= once.metrics["t2i_r@1"].value


def test_what_went_wrong_is_counted(kit: Any) -> None:
    class Encoded:
        truncated = 1

    class Tokenizer:
        def encode(self, texts: list[str], length: int) -> Encoded:
            assert length == 4
            return Encoded()

    model, pool = kit.random(4)
    model.images = {**model.images, "lonely": kit.unit(np.ones(16))}
    model.tokenizer, model.text_length = Tokenizer(), 4
    pool = kit.pool(*pool, kit.sample("broken", "text 0 0"), kit.sample("lonely"))
    facts = facts_of(Retrieval().predict(model, pool))
    assert facts["texts_truncated"] == 1
    assert facts["images_without_text"] == 1
    assert facts["images"] == 5
    assert [u["uid"] for u in facts["unreadable"]] == ["broken"]


def test_top_of_the_gallery_is_kept_for_pictures(kit: Any) -> None:
    model, pool = kit.random(20, noise=0.0)
    records = Retrieval().predict(model, pool).to_pylist()
    assert [row["top"][0] for row in records if row["direction"] == "text_to_image"] == list(pool.uids)
    assert all(row["top_score"] == sorted(row["top_score"], reverse=True) and len(row["top"]) == 5 for row in records)


def test_bad_input(kit: Any) -> None:
    model, pool = kit.random(3)
    with pytest.raises(DataError, match="is empty"):
        evaluate(Retrieval(), model, kit.pool(name="none"))
    with pytest.raises(DataError, match="no image"):
        evaluate(Retrieval(), model, kit.pool(replace(kit.sample("x", "y"), image=None)))
    broken = kit.model({**model.images, "u1": np.full(16, np.nan)}, model.texts)
    with pytest.raises(DataError, match="image of u1 is not finite"):
        evaluate(Retrieval(), broken, pool)
    broken = kit.model(model.images, {**model.texts, "text 2 0": np.full(16, np.inf)})
    with pytest.raises(DataError, match=r"text of u2 \('text 2 0'\) is not finite"):
        evaluate(Retrieval(), broken, pool)
    everything = evaluate(Retrieval(ks=(1, 100)), model, pool).metrics["t2i_r@100"]
    assert (everything.value, everything.chance) == (1.0, 1.0)
    for wrong in ({"ties": "no"}, {"origins": ("title",)}, {"relevant": "all"}, {"ks": ()}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Retrieval(**wrong)
