"""Few-shot classification: the same shots for every method, draws as the unit of the interval, base and new classes apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diptych.api import evaluate
from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.data.shots import Shots, base_and_new, by_class, draw_shots, harmonic_mean
from diptych.models.pairs.embedder import PairEmbedder
from diptych.recipes.adaptation.coop import CoOp
from diptych.tasks.pairs.few_shot import FewShot, over_draws
from diptych.tasks.pairs.few_shot_methods import linear_probe, zero_shot
from diptych.worlds.small_pairs import small_pairs

LABELS = ("blue circle", "green cross", "red square", "red triangle")


def rows(split: str = "train", count: int = 300) -> Pool:
    """Pictures of four classes: the first thing's noun."""
    return small_pairs(count, split=split).to_pool().where("label", list(LABELS)).named(f"four/{split}")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model() -> PairEmbedder:
    torch.manual_seed(0)
    return CoOp.tiny().prepare(rows()).base()


def test_shots_do_not_depend_on_order_or_on_other_classes() -> None:
    data = rows()
    shots = draw_shots(data, 4, 2)
    back = data.select(list(range(len(data)))[::-1])
    assert draw_shots(back, 4, 2).train == shots.train
    few = draw_shots(data.where("label", list(LABELS[:2])), 4, 2)
    assert few.train == {name: shots.train[name] for name in LABELS[:2]}
    assert draw_shots(data, 4, 1).train != shots.train
    assert {name: uids[:2] for name, uids in shots.train.items()} == draw_shots(data, 2, 2).train, "fewer are the first of more"
    assert all(not set(shots.train[name]) & set(shots.val[name]) for name in shots.classes)
    assert {len(uids) for uids in draw_shots(data, 2, 1).val.values()} == {2}
    assert {len(uids) for uids in draw_shots(data, 8, 1).val.values()} <= {0, 1, 2, 3, 4}


def test_a_class_with_too_few_images_gives_all_and_is_named(tmp_path: Path) -> None:
    data = rows(count=60)
    sizes = {name: len(uids) for name, uids in by_class(data, "label").items()}
    most = max(sizes.values())
    shots = draw_shots(data, most, 1)
    assert shots.short == {name: count for name, count in sizes.items() if count < most}
    assert all(sorted(shots.train[name]) == uids for name, uids in by_class(data, "label").items() if name in shots.short)
    with pytest.raises(DataError, match=rf"has \d+ images \(expected {most}, one for each shot"):
        draw_shots(data, most, 1, allow_short=False)
    shots.save(tmp_path / "shots.json")
    assert Shots.load(tmp_path / "shots.json") == shots
    (tmp_path / "no.json").write_text("[]")
    with pytest.raises(DataError, match="is not a file of shots"):
        Shots.load(tmp_path / "no.json")


def test_the_grid_by_hand(model: PairEmbedder, tmp_path: Path) -> None:
    train, test = rows(), rows("test", 200)
    task = FewShot(shots=(1, 2), repeats=2, passes=1, context=4, train=train, shot_files=str(tmp_path / "shots"))
    records = task.predict(model, test)
    result = task.score(records)
    assert sorted(path.name for path in (tmp_path / "shots").iterdir()) == [
        f"shots-{n}-draw-{draw}.json" for n in (1, 2) for draw in (1, 2)
    ]
    head = zero_shot(model, LABELS, "one")(model.embed_images([s.image for s in test]))
    names = sorted(set(test.column("label")))
    assert tuple(names) == LABELS
    hits = np.mean([names[k] == label for k, label in zip(head.argmax(1), test.column("label"), strict=True)])
    assert result.metrics["zero_shot"].value == pytest.approx(hits)
    found = []
    for draw in (1, 2):
        probe = linear_probe(model, train, draw_shots(train, 2, draw), LABELS, seed=0)
        score = probe(model.embed_images([s.image for s in test]))
        found.append(np.mean([names[k] == label for k, label in zip(score.argmax(1), test.column("label"), strict=True)]))
    metric = result.metrics["linear_probe/2"]
    assert metric.value == pytest.approx(np.mean(found))
    half = 12.706 * np.std(found, ddof=1) / math.sqrt(2)
    assert metric.high - metric.value == pytest.approx(half, rel=1e-3, abs=1e-9)
    assert result.metrics["acc"] == result.metrics["coop/2"]
    assert result.metrics["coop/1"].chance == 0.25
    assert task.score(records) == result
    again = task.predict(model, test)
    assert again.column("hit").to_pylist() == records.column("hit").to_pylist(), "files that are there are read"


def test_base_and_new_are_tested_among_their_own_names(model: PairEmbedder) -> None:
    task = FewShot(shots=(1,), repeats=2, passes=1, context=4, part="base_to_new", train=rows())
    records = task.predict(model, rows("test", 200))
    base, new = base_and_new(LABELS)
    plain = records.to_pylist()
    assert {row["top"] for row in plain if row["part"] == "new"} <= set(new)
    assert {row["label"] for row in plain if row["part"] == "base"} == set(base)
    assert not any(row["method"] == "linear_probe" and row["part"] == "new" for row in plain)
    result = task.score(records)

    def share(draw: int, part: str) -> float:
        return float(np.mean([r["hit"] for r in plain if (r["method"], r["draw"], r["part"]) == ("coop", draw, part)]))

    by_hand = np.mean([harmonic_mean(share(draw, "base"), share(draw, "new")) for draw in (1, 2)])
    assert result.value == pytest.approx(by_hand)
    assert result.metrics["coop/1/new"].chance == 0.5


def test_a_constant_model_is_at_chance() -> None:
    class Constant(PairEmbedder):
        def embed_images(self, images: Sequence[Any], *, batch_size: int = 64) -> Unit:
            return np.full((len(images), 4), 0.5, np.float32)

        def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
            return np.full((len(texts), 4), 0.5, np.float32)

    constant = Constant.__new__(Constant)
    scores = zero_shot(constant, LABELS, "one")(np.full((3, 4), 0.5, np.float32))
    assert np.ptp(scores) == 0


def test_from_a_data_set_with_splits(model: PairEmbedder) -> None:
    data = Pool.from_samples([*rows(), *rows("test", 120)], name="both")
    result = evaluate(model, "few_shot", data, split="test", shots=(1,), repeats=1, passes=1, context=4)
    assert result.n_items == len(rows("test", 120))
    assert math.isnan(result.metrics["coop/1"].low), "one draw has no interval"


def test_refused(model: PairEmbedder) -> None:
    with pytest.raises(DataError, match="has no images to draw shots from"):
        FewShot().predict(model, rows("test"))
    with pytest.raises(ConfigError, match="recipe 'clip' does not adapt a dual encoder"):
        FewShot(method="clip", train=rows(), shots=(1,), repeats=1).predict(model, rows("test", 60))
    with pytest.raises(ConfigError, match=r"shots are \[4, 2\]"):
        FewShot(shots=(4, 2))
    assert over_draws([0.5, 0.5]).low == 0.5


@pytest.mark.parametrize("spread", [0.4, 1.5])
def test_the_probes_penalty_is_chosen_as_coop_releases_it(spread: float) -> None:
    """lpclip/linear_probe.py with scikit-learn as it stands there, on noisy clusters."""
    import warnings

    from sklearn.linear_model import LogisticRegression

    from diptych.tasks.pairs.few_shot_methods import search_as_coop

    rng = np.random.default_rng(int(10 * spread))
    middle = rng.normal(size=(4, 6))
    rows_ND, val_ND = (np.repeat(middle, n, 0) + spread * rng.normal(size=(4 * n, 6)) for n in (4, 4))
    label_N = np.repeat(np.arange(4), 4)

    def accuracy(c: float) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = LogisticRegression(solver="lbfgs", max_iter=1000, C=c).fit(rows_ND, label_N)
        return float((found.predict(val_ND) == label_N).mean())

    tried = [1e6, 1e4, 1e2, 1, 1e-2, 1e-4, 1e-6]
    peak = tried[int(np.argmax([accuracy(c) for c in tried]))]
    left, right = 1e-1 * peak, 1e1 * peak
    for _ in range(8):
        middle_c = 10 ** (0.5 * (np.log10(right) + np.log10(left)))
        if accuracy(left) < accuracy(right):
            chosen, left = right, middle_c
        else:
            chosen, right = left, middle_c
    assert search_as_coop(rows_ND, label_N, val_ND, label_N) == pytest.approx(1 / chosen)
