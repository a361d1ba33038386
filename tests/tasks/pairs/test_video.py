"""Video classification and retrieval: the protocols of images with clips in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from diptych.core.contracts import Unit
from diptych.core.errors import ConfigError, DataError
from diptych.data.dataset import Pool
from diptych.recipes.adaptation.xclip import XCLIP
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.video_classification import VideoClassification
from diptych.tasks.pairs.video_retrieval import VideoRetrieval
from diptych.worlds.clips import CLASSES, PARTNER, clips
from diptych.worlds.scenes.world import scenes


class Knows:
    """Vectors of clips and of class names that agree; of the classes in `wrong` with the partner's."""

    name, fingerprint = "knows", "knows"

    def __init__(self, wrong: Sequence[str] = ()) -> None:
        self.wrong = wrong

    def embed_clips(self, clips: Sequence[Any]) -> Unit:
        labels = [self.label[clip.name] for clip in clips]
        return np.eye(8, dtype=np.float32)[[CLASSES.index(PARTNER[x] if x in self.wrong else x) for x in labels]]

    def embed_texts(self, texts: Sequence[str], *, batch_size: int = 256) -> Unit:
        found = [next(k for k, name in enumerate(CLASSES) if text.endswith(name)) for text in texts]
        return np.eye(8, dtype=np.float32)[found]

    label = {s.uid: s.extras["label"] for s in clips(40)}


class Scores(Knows):
    """The same as scores of pairs; softmax of views."""

    def score_clips(self, clips: Sequence[Any], texts: Sequence[str], *, views: int = 1, crops: int = 1) -> Any:
        self.asked = (views, crops)
        return self.embed_clips(clips) @ self.embed_texts(texts).T


@pytest.mark.parametrize("kind", [Knows, Scores])
def test_classes_of_clips(kind: Any) -> None:
    data = clips(40)
    labels = [s.extras["label"] for s in data]
    task = VideoClassification(draws=10)
    assert evaluate(task, kind(), data).value == 1
    one = evaluate(task, kind(wrong=("growing",)), data)
    assert one.value == pytest.approx(1 - labels.count("growing") / 40)
    assert one.n_items == 40, "no clip is left out, also not those of the last batch"
    assert one.notes["worst_classes"][0]["label"] == "growing"


def test_views_are_asked_of_the_model() -> None:
    model = Scores()
    VideoClassification(views=4, crops=3).predict(model, clips(16))
    assert model.asked == (4, 3)
    with pytest.raises(ConfigError, match="has vectors of clips and no scores"):
        VideoClassification(views=4).predict(Knows(), clips(16))
    with pytest.raises(ConfigError, match="1 views of 2 crops"):
        VideoClassification(crops=2)


@pytest.mark.parametrize("kind", [Knows, Scores])
def test_retrieval_of_clips(kind: Any) -> None:
    """One clip of each class, so that its text finds it; with a class confused, its text and its partner's do not."""
    data = clips(40)
    rows = [next(row for row in range(40) if data[row].extras["label"] == name) for name in CLASSES]
    chosen = data.select(rows)
    task = VideoRetrieval(draws=10)
    assert evaluate(task, kind(), chosen).value == 1
    result = evaluate(task, kind(wrong=("growing",)), chosen)
    assert result.task == "video_retrieval"
    assert result.metrics["i2t_r@1"].value == pytest.approx(7 / 8)
    assert result.metrics["t2i_r@1"].value == pytest.approx((6 + 0.5 + 1 / 8 * 0) / 8, abs=0.07)


def test_a_trained_model_is_measured() -> None:
    data = clips(8)
    recipe = replace(XCLIP.tiny(), steps=1).prepare(data)
    torch.manual_seed(0)
    model = recipe.deploy(recipe.model().eval())
    result = evaluate(VideoClassification(classes=recipe.named, draws=10), model, data)
    media = [data[row].media["clip"] for row in range(8)]
    scores = model.score_clips(media, recipe.named)
    hits = np.mean([recipe.named[k] == data[row].extras["label"] for row, k in enumerate(scores.argmax(1))])
    assert result.value == pytest.approx(hits)
    assert 0 <= evaluate(VideoRetrieval(draws=10), model, data).value <= 1


def test_refused() -> None:
    with pytest.raises(DataError, match="has no clip"):
        VideoClassification(label="label").predict(Scores(), scenes(2))
    with pytest.raises(DataError, match="is not among `classes`"):
        VideoClassification(classes=("a", "b")).predict(Scores(), Pool.from_samples(clips(4), name="four"))
