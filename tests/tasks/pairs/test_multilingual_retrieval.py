"""Retrieval by language: against loops over planted vectors, and what is counted of lengths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Text
from diptych.tasks.evaluate import evaluate
from diptych.tasks.pairs.multilingual_retrieval import MultilingualRetrieval
from diptych.tasks.pairs.retrieval import Retrieval
from diptych.worlds.overhead.lexicon import LANGUAGES
from diptych.worlds.overhead.world import overhead


def planted(kit: Any, count: int, noise: dict[str, float]) -> tuple[Any, Any]:
    """A model that knows some languages better than others, and pictures that all have English, every second one German."""
    rng = np.random.default_rng(0)
    images = {f"i{n}": kit.unit(rng.normal(size=8)) for n in range(count)}
    texts, samples = {}, []
    for n, (uid, vector_D) in enumerate(images.items()):
        own = []
        for language, amount in noise.items():
            if language == "de" and n % 2:
                continue
            string = f"{language} {n}"
            texts[string] = kit.unit(vector_D + amount * rng.normal(size=8))
            own.append(Text(string, language))
        samples.append(kit.sample(uid, *own))
    return kit.model(images, texts), kit.pool(*samples)


def naive(model: Any, pool: Any, language: str, k: int) -> float:
    """Recall at k, both ways, by sorting in a loop."""
    rows = [pool[row] for row in range(len(pool)) if any(t.language == language for t in pool[row].texts)]
    image_ND = np.stack([model.images[sample.uid] for sample in rows])
    text_ND = np.stack([model.texts[next(t.string for t in s.texts if t.language == language)] for s in rows])
    hits = 0
    for scores_NN in (text_ND @ image_ND.T, image_ND @ text_ND.T):
        for row, score_N in enumerate(scores_NN):
            hits += sum(other > score_N[row] for other in score_N) < k
    return hits / (2 * len(rows))


def test_every_language_is_a_retrieval_of_its_own(kit: Any) -> None:
    model, pool = planted(kit, 60, {"en": 0.3, "de": 0.8, "ko": 1.5})
    result = evaluate(MultilingualRetrieval(), model, pool)
    value = {name: metric.value for name, metric in result.metrics.items()}
    for language in ("en", "de", "ko"):
        assert value[f"{language}/r@1"] == pytest.approx(naive(model, pool, language, 1))
        recalls = [naive(model, pool, language, k) for k in (1, 5, 10)]
        assert value[f"{language}/mean_recall"] == pytest.approx(np.mean(recalls))
    assert value["en/r@1"] > value["de/r@1"] > value["ko/r@1"]
    assert value["r@1"] == result.value == pytest.approx(np.mean([value[f"{tag}/r@1"] for tag in ("en", "de", "ko")]))
    assert result.metrics["de/r@1"].chance == pytest.approx(1 / 30)
    assert result.notes["languages"]["de"]["images"] == 30
    assert value["ko/t2i_r@1"] == evaluate(Retrieval(language="ko"), model, pool).metrics["t2i_r@1"].value
    assert "truncated" not in value  # planted vectors have no tokenizer
    only = evaluate(MultilingualRetrieval(languages=("ko", "en"), least=50), model, pool)
    assert list(only.notes["languages"]) == ["ko", "en"]
    assert evaluate(MultilingualRetrieval(least=50), model, pool).notes["left_out"] == {"de": 30}


def test_what_cannot_be_asked_is_refused(kit: Any) -> None:
    model, pool = planted(kit, 4, {"en": 0.3})
    with pytest.raises(DataError, match="no text in language 'fr'"):
        evaluate(MultilingualRetrieval(languages=("fr",)), model, pool)
    with pytest.raises(DataError, match="has 9 images"):
        evaluate(MultilingualRetrieval(least=9), model, pool)
    nameless = kit.pool(kit.sample("i0", Text("en 0")), kit.sample("i1", Text("en 1")))
    with pytest.raises(DataError, match="texts with a language"):
        evaluate(MultilingualRetrieval(), model, nameless)
    for options in ({"least": 1}, {"ks": (5,)}, {"origins": ("said",)}):
        with pytest.raises(ConfigError):
            MultilingualRetrieval(**options)


@dataclass
class Characters:
    """A tokenizer whose tokens are characters."""

    def encode(self, strings: list[str], length: int) -> Any:
        return type("Encoded", (), {"truncated": sum(len(string) > length for string in strings)})

    def count(self, string: str) -> int:
        return len(string)


@dataclass
class ByName:
    """Vectors by the hash of what it is given, with a tokenizer."""

    tokenizer: Characters = field(default_factory=Characters)
    text_length: int = 30
    name: str = "by name"
    fingerprint: str = "f"

    def embed_images(self, images: Any, *, batch_size: int = 64) -> Any:
        return self._vectors([image.name for image in images])

    def embed_texts(self, texts: Any, *, batch_size: int = 256) -> Any:
        return self._vectors(texts)

    def _vectors(self, names: Any) -> Any:
        rows = np.array([np.random.default_rng(abs(hash(name)) % 2**32).normal(size=4) for name in names], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_cut_texts_are_counted_by_language() -> None:
    data = overhead(16, split="test", size=32)
    result = evaluate(MultilingualRetrieval(draws=2), ByName(), data)
    for language in LANGUAGES:
        strings = {text.string for row in range(16) for text in data[row].texts if text.language == language}
        assert result.metrics[f"{language}/truncated"].value == pytest.approx(np.mean([len(s) > 30 for s in strings]))
        assert result.notes["languages"][language]["tokens_per_text"] == pytest.approx(np.mean([len(s) for s in strings]))
    assert result.metrics["zh/truncated"].value == 0 < result.metrics["fr/truncated"].value
    assert not result.metrics["truncated"].higher_is_better
