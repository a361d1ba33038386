"""BenchX: metrics against scikit-learn and torchmetrics, selection on validation, shares of patients, switches, released habits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torchmetrics
from PIL import Image
from sklearn import metrics as sk

import diptych as dp
from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.image import ArrayImage
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.scene_graph import Region
from diptych.data.dataset import Pool
from diptych.recipes.contrastive.clip import CLIP
from diptych.report.pages.encoders import rank_table, ranked_encoders, write_encoder_page
from diptych.tasks import find
from diptych.tasks._scoring.chest_metrics import auroc, best_threshold, dice, f1_scores, macro_auroc, retrieval_hits
from diptych.tasks._scoring.records import facts_of, read_records, with_facts, write_records
from diptych.tasks.domains.benchx import BenchX, drawn_rows, listed_rows, paired_difference, read_runs
from diptych.tasks.domains.frozen_segmentation import FrozenSegmentation, UPerHead, class_pixels, pooled_dice
from diptych.tasks.domains.frozen_segmentation import learning_rate_share as segmentation_rate
from diptych.tasks.domains.head_images import HeadImages
from diptych.tasks.domains.head_runs import EncoderWithHead, FineTuning, HeadSwitches, fine_tuned_scores, learning_rate_share
from diptych.tasks.domains.report_retrieval import ReportRetrieval
from diptych.worlds.chests.world import chests

RNG = np.random.default_rng(0)
SCORE = np.round(RNG.random((60, 4)), 2)
TRUTH = RNG.random((60, 4)) < 0.2 + 0.5 * SCORE


@pytest.fixture(scope="module")
def model() -> Any:
    data = chests(40, size=48)
    recipe = replace(CLIP.tiny(), image_tower="vit_micro", text_tower="text_micro", image_size=48, width=32).prepare(data)
    torch.manual_seed(0)
    return recipe.deploy(recipe.model().eval())


def parts(n: int) -> dict[str, Any]:
    return {part: chests(n, size=48, split=part) for part in ("train", "val", "test")}


def test_metrics_agree_with_published_scorers(parity: Any) -> None:
    """Recorded answers with ties: AUROC and F1 of scikit-learn, Dice of torchmetrics."""
    weight = RNG.integers(0, 4, 60).astype(float)
    pairs = [(macro_auroc(SCORE, TRUTH), sk.roc_auc_score(TRUTH, SCORE, average="macro"))]
    pairs += [(auroc(SCORE[:, 0], TRUTH[:, 0], weight), sk.roc_auc_score(TRUTH[:, 0], SCORE[:, 0], sample_weight=weight))]
    threshold = best_threshold(SCORE, TRUTH)
    every = [sk.f1_score(TRUTH, value <= SCORE, average="micro") for value in np.unique(SCORE)]
    predicted = threshold <= SCORE
    micro, macro = f1_scores(predicted, TRUTH)
    pairs += [(micro, max(every)), (macro, sk.f1_score(TRUTH, predicted, average="macro"))]
    none = np.zeros((60, 4), bool)
    none[:, :2] = TRUTH[:, :2]
    empty = f1_scores(none & predicted, none, empty=1.0)
    pairs += [(empty[1], sk.f1_score(none, none & predicted, average="macro", zero_division=1))]
    parity("benchx", "AUROC, weighted AUROC, micro and macro F1", "scikit-learn 1.x", pairs, tolerance=1e-12)
    masks = RNG.random((5, 9, 9)) < 0.3
    others = masks ^ (RNG.random((5, 9, 9)) < 0.2)
    scorer = torchmetrics.functional.classification.binary_f1_score
    theirs = [scorer(torch.tensor(a), torch.tensor(b)).item() for a, b in zip(masks, others, strict=True)]
    parity(
        "benchx",
        "Dice",
        "torchmetrics (F1 of pixels)",
        [(dice(a, b), c) for a, b, c in zip(masks, others, theirs, strict=True)],
        tolerance=1e-6,
    )
    assert dice(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 1
    assert dice(np.ones((2, 2), bool), np.zeros((2, 2), bool)) == 0


def test_hits_by_hand(parity: Any) -> None:
    """Six queries: the released loop over candidates, and the own report."""
    similarity = np.round(np.random.default_rng(3).random((6, 6)), 1)
    classes = np.array(["a", "a", "b", "b", "b", "c"])
    order = np.argsort(-similarity, axis=1, kind="stable")
    pairs = []
    for k in (1, 3):
        hits = correct = own = 0
        for i in range(6):
            top, hit = order[i][:k], False
            own += i in top
            for j in top:
                if classes[j] == classes[i]:
                    correct += 1
                    hits, hit = hits + (not hit), True
        ours = retrieval_hits(similarity, np.arange(6), classes, classes, k)
        pairs += [(ours[0].mean(), own / 6), (ours[1].mean(), hits / 6), (ours[2].mean(), correct / (6 * k))]
    parity("benchx", "hits and precision of retrieval", "loops of BenchX's code (b874fa6)", pairs, tolerance=1e-12)
    with pytest.raises(ConfigError, match="k is 7"):
        retrieval_hits(similarity, np.arange(6), classes, classes, 7)


def small(**changes: Any) -> BenchX:
    own = parts(30)
    base: dict[str, Any] = {
        "train": own["train"],
        "val": own["val"],
        "epochs": 2,
        "seeds": (0, 1),
        "shares": (1.0, 0.5),
        "draws": 50,
    }
    return BenchX(
        **{**base, "norms": (True,), "small_heads": (False, True), "encoder_rates": (0.1,), "head_batch": 16, **changes}
    )


def test_the_matrix_is_run_and_chosen_on_validation(model: Any, tmp_path: Path) -> None:
    task = small()
    before = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    records = task.predict(model, parts(30)["test"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.model.state_dict().items()), (
        "the encoder stays as it was"
    )
    write_records(tmp_path / "records.parquet", records)
    result = task.score(read_records(tmp_path / "records.parquet"))
    assert len(facts_of(records)["runs"]) == 2 * 2 * 2
    table = result.notes["table"]
    for share in (1.0, 0.5):
        rows = [row for row in table if row["share"] == share]
        chosen = next(row for row in rows if row["chosen"])
        assert chosen["val"] == max(row["val"] for row in rows)
        assert result.metrics[f"auroc@{share:g}"].value == pytest.approx(chosen["test"])
    assert result.value == result.metrics["auroc@1"].value
    again = small(seeds=(0,), shares=(1.0,), small_heads=(False,)).predict(model, parts(30)["test"])
    runs = read_runs(records)
    np.testing.assert_array_equal(read_runs(again)[0, "test"][0], runs[0, "test"][0])
    assert paired_difference(records, records, draws=20) == (0, 0, 0)
    other = task.score(again)
    difference = paired_difference(records, again, draws=20)
    assert difference[0] == pytest.approx(other.value - result.value)
    assert difference[1] <= difference[0] <= difference[2]


def test_the_best_on_validation_is_not_the_best_on_test() -> None:
    """Two settings whose order is turned round between the parts: that of validation decides; F1 takes its threshold from there, too."""
    truth = np.array([[True], [True], [False], [False]])
    good, bad = np.array([[0.9], [0.8], [0.2], [0.1]]), np.array([[0.1], [0.7], [0.2], [0.9]])
    rows = []
    for run, (val, test) in enumerate(((good, bad), (bad, good))):
        for part, score in (("val", val), ("test", test)):
            rows += [
                {
                    "run": run,
                    "part": part,
                    "uid": str(i),
                    "group": f"{part}{i}",
                    "truth": truth[i].tolist(),
                    "score": score[i].tolist(),
                }
                for i in range(4)
            ]
    switches = [{"share": 1.0, "seed": 0, "norm": norm, "small_head": False, "encoder_rate": 1.0} for norm in (False, True)]
    records = with_facts(pa.Table.from_pylist(rows), runs=switches, labels=["x"])
    result = BenchX(draws=10).score(records)
    assert result.value == macro_auroc(bad, truth) == 0.25
    assert result.metrics["f1@1"].value == f1_scores(bad >= 0.8, truth)[0] == 0
    released = BenchX(draws=10, compat="released").score(records)
    assert released.metrics["f1@1"].value == f1_scores(bad > best_threshold(bad, truth), truth)[0] > 0


def test_shares_are_of_patients_and_keep_labels() -> None:
    groups = [f"p{i // 3}" for i in range(60)]
    truth = np.zeros((60, 2), bool)
    truth[::2, 0] = True
    truth[57, 1] = True
    rows = drawn_rows(groups, truth, 0.1, seed=0)
    assert len(rows) == 6
    assert len({groups[row] for row in rows}) == 2
    assert 57 in rows, "the only patient with the rare label"
    assert drawn_rows(groups, truth, 0.1, seed=0) == rows
    assert drawn_rows(groups, truth, 1.0, seed=5) == list(range(60))


def test_published_lists_are_splits_and_shares(model: Any, tmp_path: Path) -> None:
    """NIH's table with lists beside it: the share of train_10.txt trains as those images alone do."""
    rows = ["Image Index,Finding Labels,Patient ID"]
    for part, count in (("train", 20), ("val", 16), ("test", 16)):
        names = [f"{part}{number}.png" for number in range(count)]
        for name, sample in zip(names, chests(count, size=48, split=part), strict=True):
            Image.fromarray(sample.image.pixels_HWC).save(tmp_path / name)
            rows.append(f"{name},{'|'.join(sample.extras['findings'])},{name}")
        (tmp_path / f"{part}.txt").write_text("\n".join(names))
    (tmp_path / "train_10.txt").write_text("\n".join(f"train{number}.png" for number in range(5, 20)))
    (tmp_path / "nih.csv").write_text("\n".join(rows))
    data = dp.read(tmp_path / "nih.csv", format="nih")
    task = BenchX(
        shares=(0.1,), share_lists=True, seeds=(0,), norms=(True,), small_heads=(False,), encoder_rates=(0.1,), epochs=2, draws=5
    )
    every = list(data.split("train"))
    listed = Pool.from_samples(every[5:], name="listed")
    assert {label for sample in listed for label in sample.extras["findings"]} == {
        label for sample in every for label in sample.extras["findings"]
    }
    alone = replace(task, train=listed, val=data.split("val"), shares=(1.0,), share_lists=False)
    runs, others = (read_runs(made) for made in (task.predict(model, data), alone.predict(model, data.split("test"))))
    np.testing.assert_array_equal(runs[0, "test"][0], others[0, "test"][0])
    assert listed_rows(every, 0.1) == list(range(5, 20))
    with pytest.raises(DataError, match=r"in the list train_1 \(expected train_10\)"):
        replace(task, shares=(0.01,)).predict(model, data)


def test_switches_do_what_they_say(model: Any) -> None:
    torch.manual_seed(0)
    plain, tried = (EncoderWithHead(None, 8, 3, HeadSwitches(on, on, 0.0)) for on in (False, True))
    assert tried.head.weight.std() < 1e-4 < plain.head.weight.std()
    x = 5 + 3 * torch.randn(4, 8)
    torch.testing.assert_close(tried.norm(x).mean(-1), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.norm(x), x)
    data = parts(12)
    images = [sample.image for sample in data["train"]]
    truth = np.array([["nodule" in sample.extras["findings"]] for sample in data["train"]])

    class Foreign:
        """An embedder without a tower of ours."""

        name = fingerprint = "foreign"

        def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
            return model.embed_images(images)

        def embed_texts(self, texts: Any, *, batch_size: int = 256) -> Any:
            return model.embed_texts(texts)

    foreign = HeadImages(Foreign(), images)
    assert foreign.tower is None
    settings = FineTuning(epochs=1, batch_size=4, warmup=1)
    scores = fine_tuned_scores(foreign, truth, range(12), foreign, truth, [foreign], HeadSwitches(True, True, 0.0), settings, 0)
    assert scores[1].shape == (12, 1)
    assert len(BenchX().runs(trainable=False)) == 3 * 2 * 2 * 3
    assert len(BenchX().runs(trainable=True)) == 2 * len(BenchX().runs(trainable=False))


def test_the_learning_rate_is_the_released_one() -> None:
    """Shares that WarmupCosineScheduler of BenchX's code (b874fa6) gave for 50 steps of warm-up and t_total 3000."""
    recorded = {0: 0.0, 1: 0.02, 49: 0.98, 50: 1.0, 1525: 0.5, 3000: 0.0, 4475: 0.5}
    assert {step: pytest.approx(learning_rate_share(step, 3000, 50)) for step in recorded} == recorded
    assert FineTuning(cosine_steps=3000).cosine_steps == 3000 != BenchX().cosine_steps


def test_asked_by_name_it_takes_validation_from_the_data(model: Any) -> None:
    """As the command line does: settings are chosen on the split val, which is not scored."""
    short: dict[str, Any] = {"shares": (1.0,), "norms": (True,), "small_heads": (False,), "encoder_rates": (0.0,)}
    short |= {"seeds": (0,), "epochs": 1, "draws": 5}
    results = dp.evaluate_splits(model, "benchx", "world:chests?n=30&val=20&test=20&size=48", **short)
    assert list(results) == ["test"]
    assert {part: size["images"] for part, size in results["test"].notes["sizes"].items()} == {"train": 30, "val": 20, "test": 20}
    with pytest.raises(UnknownName, match="few"):
        dp.evaluate(model, "benchx", "world:chests?n=30&val=20&test=20&size=48", split="test", val_split="few", **short)


def test_refused(model: Any) -> None:
    data = parts(30)
    with pytest.raises(DataError, match="patients are in both train and test"):
        small(train=data["test"]).predict(model, data["test"])
    every = Pool.from_samples([replace(sample, extras={"findings": ["nodule"]}) for sample in data["val"]], name="every")
    with pytest.raises(DataError, match="both positive and negative images in val"):
        small(val=every).predict(model, data["test"])
    with pytest.raises(DataError, match="has no labels"):
        small(label="nothing").predict(model, data["test"])
    for wrong in (
        {"shares": (0.0,)},
        {"encoder_rates": ()},
        {"epochs": 0},
        {"compat": "old"},
        {"augment": "all"},
        {"specificity": 1.0},
    ):
        with pytest.raises(ConfigError):
            BenchX(**wrong)
    assert isinstance(find("benchx"), BenchX)


def test_reports_are_retrieved(model: Any) -> None:
    data = chests(40, size=48, split="test")
    task = ReportRetrieval(ks=(1, 5), draws=20)
    result = task.score(task.predict(model, data))
    assert result.notes["left_out"] == sum(not sample.extras["findings"] for sample in data)
    assert result.metrics["class_hit@5"].value >= result.metrics["hit@5"].value
    assert 0 < result.metrics["precision@5"].value < 1
    with pytest.raises(DataError, match="images with a class and a report"):
        ReportRetrieval(label="nothing").predict(model, data)


def test_segmentation_on_a_frozen_encoder(parity: Any) -> None:
    """mDice against torchmetrics; an encoder whose features are the pixels themselves learns the masks, a blind one does not."""
    guess, truth = RNG.integers(0, 3, (2, 4, 7, 7))
    counted = np.sum([class_pixels(a, b, 3) for a, b in zip(guess, truth, strict=True)], 0, dtype=float)
    scorer = torchmetrics.functional.classification.multiclass_f1_score
    theirs = scorer(torch.tensor(guess).flatten(), torch.tensor(truth).flatten(), 3, average="macro").item()
    parity(
        "benchx",
        "mDice over classes",
        "torchmetrics (multiclass_f1_score of pixels)",
        [(pooled_dice(counted), theirs)],
        tolerance=1e-6,
    )

    def halves(part: str) -> Pool:
        """Pictures of 12 pixels with a box over one half."""
        samples = []
        for number in range(16):
            box = ((0, 0, 6, 12), (6, 0, 12, 12), (0, 0, 12, 6))[number % 3]
            pixels = np.full((12, 12, 3), number, np.uint8)
            pixels[0, 0, 0] = len(part)
            samples.append(
                Sample(f"{part}{number}", ArrayImage(pixels), regions=(Region(box, "lesion"),), group=f"{part}{number}")
            )
        return Pool.from_samples(samples, name=part)

    data = {part: halves(part) for part in ("train", "val", "test")}

    class Dense:
        """Features of 6 x 6 cells: 1 within the box, or noise."""

        def __init__(self, blind: bool) -> None:
            self.blind = blind

        def embed_dense(self, images: Any, *, batch_size: int = 64) -> Any:
            cells = np.zeros((len(images), 6, 6, 4), np.float32)
            for row, image in enumerate(images):
                half = (np.s_[:, :3], np.s_[:, 3:], np.s_[:3])[image.pixels_HWC[1, 1, 0] % 3]
                cells[row][half] = 1
            return np.random.default_rng(0).random(cells.shape, np.float32) if self.blind else cells

    short: dict[str, Any] = {"side": 12, "channels": 8, "steps": 40, "head_batch": 8, "warmup": 5, "draws": 20, "lr": 1e-2}
    task = FrozenSegmentation(train=data["train"], val=data["val"], **short)
    seeing, blind = (task.score(task.predict(Dense(on), data["test"])) for on in (False, True))
    assert seeing.metrics["mdice"].value > blind.metrics["mdice"].value + 0.1
    assert seeing.metrics["dice"].value > 0.7
    target = task.target(data["train"][1], ("lesion",))
    assert target[:, 6:].all()
    assert not target[:, :6].any()
    dropped = [part.classifier[0].p for part in (UPerHead(4, 2, 8).head, UPerHead(4, 2, 8).auxiliary)]
    assert dropped == [0.1, 0.1]
    head = UPerHead(4, 2, 64).head
    assert head.classifier[1].weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not head.classifier[1].bias.any()
    assert head.fpn_bottleneck.conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    shares = [segmentation_rate(step, 20_000, 1500) for step in (0, 1499, 1500, 19_999)]
    assert shares == pytest.approx([1e-6, 1, 1, 0])  # LinearLR and PolyLR of mmengine by BenchX's configuration
    assert segmentation_rate(750, 20_000, 1500) == pytest.approx(0.500334, abs=1e-6)
    bare = Pool.from_samples([replace(sample, regions=()) for sample in data["train"]], name="bare")
    for changed, match in (
        ({"train": bare}, "has no regions"),
        ({"train": data["train"][:0]}, "no image to use as train"),
        ({"train": data["test"]}, "patients are in both train and test"),
        ({"val": None}, "val is empty"),
    ):
        with pytest.raises((ConfigError, DataError), match=match):
            replace(task, **changed).predict(Dense(False), data["test"])


def test_ranks_and_their_page(tmp_path: Path) -> None:
    def result(values: dict[str, float], notes: dict[str, Any] | None = None) -> Result:
        return Result(
            "benchx",
            1,
            "a",
            {name: Metric(value, value - 0.1, value + 0.1) for name, value in values.items()},
            4,
            4,
            notes=notes or {},
        )

    table = [{"share": 1.0, "setting": "norm, frozen", "val": 0.7, "test": 0.6, "std": 0.01, "chosen": True}]
    results = {
        "x": result({"a": 0.9, "b": 0.5}, {"table": table}),
        "y": result({"a": 0.8, "b": 0.7}),
        "z": result({"a": 0.7, "b": 0.5}),
    }
    rows = ranked_encoders(results, ["a", "b"])
    assert [(row.name, row.average) for row in rows] == [("y", 1.5), ("x", 1.75), ("z", 2.75)]
    cells = rank_table(rows, {"x": (-0.1, -0.2, -0.05), "z": (-0.1, -0.3, 0.1)}).rows
    assert cells[1][-1] == "-0.100 [-0.200, -0.050]*"
    assert cells[2][-1] == "-0.100 [-0.300, +0.100]"
    write_encoder_page(tmp_path / "page.html", results, ["a", "b"])
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "norm, frozen" in html
    assert "Not for clinical use" in html
    with pytest.raises(ConfigError, match="'x' has no c"):
        ranked_encoders(results, ["c"])
