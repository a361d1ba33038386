"""Models that score pairs are asked for pairs: a text ranks images by one matrix, an image ranks texts by the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ArrayImage, BytesImage, ImageSource
from diptych.core.sample import Text
from diptych.tasks._scoring.records import facts_of
from diptych.tasks.composition.probe import Probe
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.tasks.pairs.templates import composed, templates
from diptych.tasks.pairs.zero_shot import ZeroShot


def scoring(kit: Any, table: dict[str, dict[tuple[str, str], float]]) -> Any:
    """Vectors that know nothing, and a table of scores for each side that may ask."""

    class Scoring(kit.model):  # type: ignore[misc]
        def score_pairs(
            self, images: Sequence[ImageSource], texts: Sequence[str], *, query: Literal["image", "text"]
        ) -> np.ndarray:
            return np.array([[table[query][image.name, text] for text in texts] for image in images], np.float32)

    names = {key for side in table.values() for key in side}
    return Scoring({image: [1.0, 0.0] for image, _ in names}, {text: [1.0, 0.0] for _, text in names})


def test_each_direction_is_ranked_by_the_scores_of_who_asks(kit: Any) -> None:
    """As texts ask, both find their image; as images ask, a finds B's text first. The vectors are all equal and count for nothing."""
    by_text = {("a", "A"): 0.9, ("a", "B"): 0.1, ("b", "A"): 0.2, ("b", "B"): 0.3}
    by_image = {("a", "A"): 0.5, ("a", "B"): 0.6, ("b", "A"): 0.2, ("b", "B"): 0.9}
    model = scoring(kit, {"text": by_text, "image": by_image})
    pool = kit.pool(kit.sample("a", "A"), kit.sample("b", "B"))
    task = Retrieval(ks=(1,))
    records = task.predict(model, pool)
    metrics = task.score(records).metrics
    assert (metrics["t2i_r@1"].value, metrics["i2t_r@1"].value) == (1.0, 0.5)
    assert facts_of(records)["compare"] == "pairs"
    by_vectors = evaluate(Retrieval(ks=(1,), compare="vectors"), model, pool).metrics
    assert by_vectors["t2i_r@1"].value == by_vectors["i2t_r@1"].value == 0.5, "equal vectors tie"


def test_a_model_without_vectors_ranks_by_pairs(kit: Any) -> None:
    """It is asked for no vector; a picture that cannot be read costs its own sample."""

    class Reader:
        name, fingerprint = "reader", "0"

        def score_pairs(self, images: Sequence[ImageSource], texts: Sequence[str], *, query: str) -> np.ndarray:
            return np.array([[float(image.name.lower() == text.lower()) for text in texts] for image in images], np.float32)

    grey = np.full((2, 2, 3), 128, np.uint8)
    images = (ArrayImage(grey, "a"), ArrayImage(grey, "b"), BytesImage(b"no picture", "c"))
    pool = kit.pool(*(replace(kit.sample(image.name, image.name.upper()), image=image) for image in images))
    result = evaluate(Retrieval(ks=(1,)), Reader(), pool)
    assert result.value == 1.0
    assert [row["uid"] for row in result.notes["unreadable"]] == ["c"]
    with pytest.raises(ConfigError, match="'reader' has no vectors"):
        evaluate(Retrieval(compare="vectors"), Reader(), pool)


def test_a_class_is_scored_over_its_templates(kit: Any) -> None:
    sentences = ("{}", "a {}")
    score = {("u", "cat"): 0.5, ("u", "a cat"): 0.5, ("u", "dog"): 0.8, ("u", "a dog"): 0.0}
    model = scoring(kit, {"image": score, "text": {}})
    pool = kit.pool(kit.sample("u", label="cat"))
    found = {
        how: evaluate(ZeroShot(classes=("cat", "dog"), templates=sentences, ensemble=how), model, pool).value  # type: ignore[arg-type]
        for how in ("mean_scores", "max")
    }
    assert found == {"mean_scores": 1.0, "max": 0.0}
    with pytest.raises(ConfigError, match="scores of pairs have no mean embedding"):
        evaluate(ZeroShot(classes=("cat", "dog"), templates=sentences), model, pool)
    assert evaluate(ZeroShot(classes=("cat", "dog"), templates="{}"), model, pool).value == 0.0, (
        "one template has nothing to average"
    )


def test_wrong_captions_are_told_from_true_ones_by_the_scores_of_images(kit: Any) -> None:
    texts = (Text("A", "en"), Text("X", "en", "negative"))
    score = {("a", "A"): 0.2, ("a", "X"): 0.1, ("b", "A"): 0.1, ("b", "X"): 0.2}
    model = scoring(kit, {"image": score, "text": {}})
    pool = kit.pool(kit.sample("a", *texts), kit.sample("b", *texts))
    assert evaluate(Probe(minimum=1), model, pool).value == 0.5
    better = scoring(kit, {"image": score | {("b", "A"): 0.3}, "text": {}})
    assert evaluate(Probe(minimum=1), better, pool).value == 1.0


def test_refused(kit: Any) -> None:
    pool = kit.pool(kit.sample("a", "A"))
    with pytest.raises(ConfigError, match="'planted' scores no pairs"):
        evaluate(Retrieval(compare="pairs"), kit.model({"a": [1, 0]}, {"A": [1, 0]}), pool)
    with pytest.raises(ConfigError, match="compare is 'tokens'"):
        Retrieval(compare="tokens")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="compare is 'tokens'"):
        ZeroShot(compare="tokens")  # type: ignore[arg-type]
    broken = scoring(kit, {"text": {("a", "A"): float("nan")}, "image": {("a", "A"): 0.0}})
    with pytest.raises(DataError, match="score of the image a and the text 'A' is not finite"):
        evaluate(Retrieval(), broken, pool)


def test_prompts_of_filip() -> None:
    assert templates("filip") == ("a photo of a {}.", "a photo of a {}. I like it.")
    assert composed(prefixes=("a", "the"), suffixes=("S.",)) == ("a {}. S.", "the {}. S.")
