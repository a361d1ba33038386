"""Mean IoU over all pixels of all images, against scikit-learn; the command that draws a map."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, recall_score

from diptych.cli.commands.segment import main as segment
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage
from diptych.core.media import ArraySource, MediaItem
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.media.decode import encode_png
from diptych.recipes.adaptation.denseclip import DenseCLIP
from diptych.report.segments import class_colours, overlaid, segment_picture
from diptych.tasks.pairs.segmentation import Segmentation, means, pixel_counts
from diptych.worlds.scenes.world import scenes

CLASSES = ("wall", "sky", "tree", "boat")


class Answers:
    """A segmenter that answers what it was told."""

    name, fingerprint, classes = "told", "told", CLASSES

    def __init__(self, maps: dict[str, Any]) -> None:
        self.maps = maps

    def segment(self, images: Any, labels: Any) -> list[Any]:
        return [self.maps[image.name] for image in images]


def made(count: int = 5, seed: int = 0) -> tuple[Pool, dict[str, Any], dict[str, Any]]:
    """Pictures with random truth (one class never there), some of it ignored, and random answers of other frequencies."""
    rng = np.random.default_rng(seed)
    samples, truth, answers = [], {}, {}
    for row in range(count):
        uid, shape = f"p{row}", (6 + row, 9)
        label = rng.integers(0, 3, shape).astype(np.uint8)
        label[rng.random(shape) < 0.2] = 255
        truth[uid] = label
        answers[uid] = np.where(rng.random(shape) < 0.5, np.where(label == 255, 0, label), rng.integers(0, 3, shape)).astype(
            np.int32
        )
        pixels = np.zeros((*shape, 3), np.uint8)
        samples.append(Sample(uid, ArrayImage(pixels, uid), media={"labels": MediaItem("raster", (ArraySource(label),))}))
    return Pool.from_samples(samples, name="made"), truth, answers


def test_metrics_are_those_of_all_pixels() -> None:
    data, truth, answers = made()
    task = Segmentation(draws=20)
    records = task.predict(Answers(answers), data)
    result = task.score(records)
    kept = {uid: label != 255 for uid, label in truth.items()}
    t = np.concatenate([truth[uid][kept[uid]] for uid in truth])
    p = np.concatenate([answers[uid][kept[uid]] for uid in truth])
    assert result.value == pytest.approx(jaccard_score(t, p, average="macro"))
    assert result.metrics["acc"].value == pytest.approx(accuracy_score(t, p))
    assert result.metrics["macc"].value == pytest.approx(recall_score(t, p, average="macro"))
    assert result.metrics["fwiou"].value == pytest.approx(jaccard_score(t, p, average="weighted"))
    assert result.notes["classes_absent"] == ["boat"]
    each = np.mean([jaccard_score(truth[u][kept[u]], answers[u][kept[u]], average="macro") for u in truth])
    assert abs(result.value - each) > 1e-3, "a mean over images is another number"
    assert result.metrics["miou"].low < result.value < result.metrics["miou"].high
    assert task.score(records) == result


def test_a_class_that_is_only_predicted_counts_as_zero_and_an_absent_one_not_at_all() -> None:
    counts = pixel_counts(np.array([[0, 0], [1, 2]]), np.array([[0, 0], [0, 255]], np.uint8), 4, "a")
    assert counts.tolist() == [[2, 0, 0, 0], [2, 1, 0, 0], [3, 0, 0, 0]]
    assert means(counts)["miou"] == pytest.approx((2 / 3 + 0) / 2)
    found = means(np.array([[2, 0, 1], [2, 1, 2], [3, 0, 1]]), unseen=[2])
    assert found["miou/seen"] == pytest.approx(1 / 3)
    assert found["miou/unseen"] == pytest.approx(1 / 2)
    assert found["hiou"] == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert math.isnan(means(np.zeros((3, 2)))["miou"])


def test_refused() -> None:
    data, _, answers = made()
    answers["p0"] = answers["p0"][:3]
    with pytest.raises(DataError, match=r"the model answers \[3, 9\] for 'p0' \(expected \[6, 9\]"):
        Segmentation().predict(Answers(answers), data)
    with pytest.raises(DataError, match="the model answers class 7"):
        pixel_counts(np.array([[7]]), np.array([[0]], np.uint8), 4, "a")
    nobody = Answers(answers)
    nobody.classes = ()  # type: ignore[misc]
    with pytest.raises(ConfigError, match="has no classes of its own"):
        Segmentation().predict(nobody, data)


def test_the_command_draws_the_map(tmp_path: Path, capsys: Any) -> None:
    data = scenes(4)
    recipe = DenseCLIP.tiny().prepare(data)
    torch.manual_seed(0)
    model = recipe.deploy(recipe.model().eval())
    model.save(tmp_path / "model")
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode_png(data[0].image.pixels_HWC))
    out, maps = tmp_path / "out.png", tmp_path / "maps.png"
    assert segment([str(tmp_path / "model"), str(picture), "--out", str(out), "--maps", str(maps), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    label_HW = model.segment([data[0].image])[0]
    np.testing.assert_array_equal(np.asarray(Image.open(maps)), label_HW)
    shares = {c["name"]: c["share"] for c in answer["answers"][0]["classes"]}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[model.classes[int(label_HW[0, 0])]] > 0
    drawn_HWC = np.asarray(Image.open(out))
    np.testing.assert_array_equal(drawn_HWC, segment_picture(data[0].image.pixels_HWC, label_HW, model.classes))
    mixed_HWC = overlaid(data[0].image.pixels_HWC, label_HW, len(model.classes))
    assert (drawn_HWC[2, 2] == mixed_HWC[0, 0]).all()
    assert len(np.unique(class_colours(40), axis=0)) == 40
    recipe.base().save(tmp_path / "base")
    with pytest.raises(ConfigError, match="diptych segment needs a model that is a Segmenter"):
        segment([str(tmp_path / "base"), str(picture)])
