"""Zero-shot classification against loops, open_clip's head and scikit-learn."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError, UnknownName
from diptych.core.sample import Text
from diptych.data.labels import label_of
from diptych.tasks._scoring.records import array
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.templates import templates
from diptych.tasks.pairs.zero_shot import ZeroShot, class_heads, scorer

NAMES = ["cat", "dog", "owl", "fox", "bee", "ant", "elk"]


def planted(kit: Any, n: int = 120, noise: float = 2.0, sentences: tuple[str, ...] = ("{}",)) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    texts = {s.replace("{}", name): kit.unit(rng.standard_normal(12)) for name in NAMES for s in sentences}
    labels = [NAMES[min(int(rng.exponential(1.5)), 6)] for _ in range(n)]  # unbalanced
    images = {
        f"u{i}": kit.unit(texts[sentences[0].replace("{}", name)] + noise * rng.standard_normal(12) / 12**0.5)
        for i, name in enumerate(labels)
    }
    samples = [kit.sample(f"u{i}", group=f"g{i // 3}", label=name) for i, name in enumerate(labels)]
    return kit.model(images, texts), kit.pool(*samples)


def test_accuracy_against_scikit_learn(kit: Any) -> None:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

    model, pool = planted(kit)
    result = evaluate(ZeroShot(classes=tuple(NAMES)), model, pool)
    scores = np.stack([model.images[uid] for uid in pool.uids]) @ np.stack([model.texts[name] for name in NAMES]).T
    truth = [NAMES.index(label) for label in pool.column("label")]
    assert result.value == pytest.approx(accuracy_score(truth, scores.argmax(1)))
    assert result.metrics["acc@5"].value == pytest.approx(top_k_accuracy_score(truth, scores, k=5, labels=range(7)))
    assert result.metrics["mean_per_class"].value == pytest.approx(balanced_accuracy_score(truth, scores.argmax(1)))
    assert result.metrics["acc@1"].chance == pytest.approx(1 / 7)
    assert result.metrics["acc@5"].chance == pytest.approx(5 / 7)
    assert result.metrics["acc@1"].low < result.value < result.metrics["acc@1"].high
    assert result.n_groups == 40


def test_class_only_predicted_does_not_count(kit: Any) -> None:
    """Truth a a a b, predicted a a c b: recall is mean(2/3, 1), not a third class with 0."""
    model = kit.model(
        {"0": [1, 0, 0], "1": [1, 0, 0], "2": [0, 0, 1], "3": [0, 1, 0]}, {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    )
    pool = kit.pool(*(kit.sample(uid, label=label) for uid, label in zip("0123", "aaab", strict=True)))
    metrics = evaluate(ZeroShot(classes=("a", "b", "c")), model, pool).metrics
    assert metrics["mean_per_class"].value == pytest.approx((2 / 3 + 1) / 2)
    assert "acc@5" not in metrics
    worst = evaluate(ZeroShot(classes=("a", "b", "c")), model, pool).notes["worst_classes"]
    assert worst == [{"label": "a", "recall": pytest.approx(2 / 3), "items": 3}, {"label": "b", "recall": 1.0, "items": 1}]


@pytest.mark.parametrize("ensemble", ["mean", "mean_scores", "max"])
def test_ensembles_against_loops(ensemble: Any) -> None:
    rng = np.random.default_rng(1)
    image, sentence = rng.standard_normal((9, 6)), rng.standard_normal((4, 3, 6)) * 5
    got = scorer(sentence, ensemble)(image)
    for i in range(9):
        for k in range(4):
            each = [row / np.linalg.norm(row) for row in sentence[k]]
            mean = sum(each) / 3
            want = {
                "mean": image[i] @ (mean / np.linalg.norm(mean)),
                "mean_scores": sum(image[i] @ row for row in each) / 3,
                "max": max(image[i] @ row for row in each),
            }
            assert got[i, k] == pytest.approx(want[ensemble])


def test_parity_with_open_clip_head(parity: Any) -> None:
    """The published head on a tiny model with random weights: same classes, same eighty templates, same vectors."""
    open_clip = pytest.importorskip("open_clip")
    import torch

    class Tower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.words = torch.nn.EmbeddingBag(49408, 16)

        def encode_text(self, text: Any, normalize: bool = False) -> Any:
            rows = self.words(text)
            return torch.nn.functional.normalize(rows, dim=-1) if normalize else rows

    tower, tokenizer = Tower().eval(), open_clip.SimpleTokenizer()

    class Model:
        name, fingerprint = "tower", "0"

        def embed_texts(self, texts: Any, *, batch_size: int = 256) -> Any:
            with torch.no_grad():
                return tower.encode_text(tokenizer(list(texts)), normalize=True).numpy()

    with torch.no_grad():
        theirs = open_clip.build_zero_shot_classifier(
            tower, tokenizer, NAMES, open_clip.OPENAI_IMAGENET_TEMPLATES, num_classes_per_batch=3, device="cpu"
        )
    ours = class_heads(ZeroShot(templates="eighty").embed_classes(Model(), NAMES))  # type: ignore[arg-type]
    parity(
        "clip",
        "zero-shot classifier from eighty templates",
        "build_zero_shot_classifier of open_clip",
        [(ours, theirs.T)],
        tolerance=1e-6,
    )


def test_constant_model_gets_chance_not_the_frequency_of_the_first_class(kit: Any) -> None:
    _, pool = planted(kit)
    constant = kit.model({uid: [1, 0] for uid in pool.uids}, {name: [1, 0] for name in NAMES})
    result = evaluate(ZeroShot(classes=tuple(NAMES)), constant, pool)
    assert result.value == pytest.approx(1 / 7)
    assert result.metrics["mean_per_class"].value == pytest.approx(1 / 7)
    assert result.notes["share_tied"] == 1.0
    first = evaluate(ZeroShot(classes=tuple(NAMES), ties="index"), constant, pool)
    assert first.value == pytest.approx(pool.column("label").count("cat") / len(pool))


def test_names_are_spoken_and_shared_ones_listed(kit: Any) -> None:
    model = kit.model({"0": [1, 0], "1": [0, 1]}, {"red fox": [1, 0], "owl": [0, 1]})
    pool = kit.pool(kit.sample("0", label="red_fox"), kit.sample("1", label="owl"))
    result = evaluate(ZeroShot(), model, pool)
    assert model.asked == ["owl", "red fox"]
    assert (result.value, result.notes["names_shared"]) == (1.0, [])
    pool = kit.pool(kit.sample("0", label="red_fox"), kit.sample("1", label="red fox"))
    result = evaluate(ZeroShot(), model, pool)
    assert result.notes["names_shared"] == ["red fox"]
    assert result.value == 0.5
    assert result.notes["class_list"] != evaluate(ZeroShot(classes=("red_fox", "red fox")), model, pool).notes["class_list"]


def test_records_hold_what_was_predicted(kit: Any) -> None:
    model, pool = planted(kit, noise=0.0)
    records = ZeroShot().predict(model, pool)
    assert [top[0] for top in records.column("top").to_pylist()] == pool.column("label")
    assert array(records, "label").tolist() == pool.column("label")


def test_label_comes_from_a_column_or_from_the_label_text(kit: Any) -> None:
    sample = kit.sample(
        "x", Text("an animal", "en", "tags"), Text("fox", "en", "label"), Text("Fuchs", "de", "label"), style="noto"
    )
    assert label_of(sample, "label") == "fox"
    assert label_of(sample, "label", "de") == "Fuchs"
    assert label_of(sample, "style") == "noto"
    with pytest.raises(UnknownName, match="did you mean 'style'"):
        label_of(sample, "stile")
    with pytest.raises(DataError, match="sample y has no label"):
        label_of(kit.sample("y"), "label")


def test_templates() -> None:
    assert len(templates("seven")) == 7
    assert len(templates("eighty")) == 80
    released = hashlib.sha256("\n".join(templates("overhead")).encode()).hexdigest()  # of RSAID.py, om-ai-lab/RS5M 084cdd9
    assert released == "5d81961f1eed8ff0ee90778d056e695ba6fd396da877a4d7d8eb9d991a2916ff"
    assert templates(("art of {}", "{}")) == ("art of {}", "{}")
    assert templates("a drawing of {}") == ("a drawing of {}",)
    with pytest.raises(UnknownName, match="did you mean 'seven'"):
        templates("sevn")
    with pytest.raises(ConfigError, match="2 places"):
        templates(("{} and {}",))
    with pytest.raises(ConfigError, match="no templates"):
        templates(())


def test_bad_input(kit: Any) -> None:
    model, pool = planted(kit)
    with pytest.raises(DataError, match="only one class, 'cat'"):
        evaluate(ZeroShot(), model, pool.where("label", "cat"))
    with pytest.raises(DataError, match="is not among `classes`"):
        evaluate(ZeroShot(classes=("cat", "dog")), model, pool)
    with pytest.raises(ConfigError, match="one name twice"):
        ZeroShot(classes=("cat", "cat"))
    with pytest.raises(ConfigError, match="ensemble"):
        ZeroShot(ensemble="median")  # type: ignore[arg-type]
