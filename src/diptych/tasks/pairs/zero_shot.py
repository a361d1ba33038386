"""Zero-shot classification: an image belongs to the class whose sentences are nearest.  Protocol `zero_shot`, version 1.

Every class name goes into every template; each sentence's embedding is normalised, the sentences of a class are averaged, and the
average is normalised again. Averaging vectors that are not normalised, as GeoRSCLIP and BioViL do, averaging scores, or taking the best
sentence are other protocols with other numbers, so the rule has a name in the result. So have the template set and the list of classes
(as a hash).

Ties share their places (a model that answers the same to everything gets 1/K; a plain argmax would give it the frequency of the
first class). acc@5 is left out, not zero, when there are fewer than five classes. Underscores in names become spaces. Class names
that occur for two classes cannot be distinguished by any model; the notes list them.

Letters: N items, K classes, T templates, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.result import Result
from diptych.data.labels import label_of
from diptych.index.embed import count_truncated, embed_texts, embedded_images, images_of
from diptych.tasks._scoring.pair_scores import compared_by, pair_scores
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import with_facts
from diptych.tasks.pairs.classification import (
    class_item_values,
    class_list_hash,
    class_records,
    require_classes,
    score_classes,
)
from diptych.tasks.pairs.templates import fill, templates

Ensemble = Literal["mean", "raw_mean", "mean_scores", "max"]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """Zero-shot classification: acc@1, acc@5 and mean per-class recall without any training on the classes.

    label      the column with the class; "label" falls back to the text of origin "label"
    classes    class names, in order; empty uses the distinct labels of the data, sorted
    templates  name of a set (plain | one | symbols | seven | eighty | overhead), one sentence, or several, each with one `{}`
    ensemble   "mean" of normalised embeddings, normalised again; "raw_mean" of embeddings before normalisation, then normalised;
               "mean_scores"; "max". Scores of pairs support only the last two
    compare    "vectors": cosine; "pairs": scores of pairs (late interaction, fusion models); "auto": "pairs" for models that have such
               scores
    """

    name: ClassVar[str] = "zero_shot"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "acc@1"

    label: str = "label"
    language: str = "en"
    classes: tuple[str, ...] = ()
    templates: str | tuple[str, ...] = "plain"
    ensemble: Ensemble = "mean"
    compare: Literal["auto", "vectors", "pairs"] = "auto"
    ties: rk.Ties = "expected"
    draws: int = 2000
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        templates(self.templates)
        if self.ensemble not in get_args(Ensemble):
            raise ConfigError(f"ensemble is {self.ensemble!r} (expected {' | '.join(get_args(Ensemble))})")
        if self.compare not in ("auto", "vectors", "pairs"):
            raise ConfigError(f"compare is {self.compare!r} (expected auto | vectors | pairs)")
        if len(set(self.classes)) < len(self.classes):
            raise ConfigError("classes holds one name twice (expected distinct labels)")

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per image."""
        shown = embedded_images(model, data, batch_size=self.batch_size)
        samples = shown.samples
        labels = [label_of(sample, self.label, self.language) for sample in samples]
        names = self._classes(labels)
        sentences = templates(self.templates)
        code = {label: k for k, label in enumerate(names)}
        label_N = np.array([code[label] for label in labels], np.int64)
        compare = compared_by(model, self.compare)
        if compare == "pairs":
            ranks = rk.rank(self.pair_scores(model, images_of(samples), names), rk.given_scores, label_N, np.arange(len(names)))
        else:
            raw = self.ensemble == "raw_mean"
            score = rk.cosine(self.raw_heads(model, names)) if raw else scorer(self.embed_classes(model, names), self.ensemble)
            ranks = rk.rank(shown.vectors_ND, score, label_N, np.arange(len(names)), width=len(names) * len(sentences))
        spelled = [spell(name) for name in names]
        return with_facts(
            class_records(samples, labels, ranks, names),
            options=asdict(self),
            compare=compare,
            templates=list(sentences),
            classes=len(names),
            class_list=class_list_hash(names),
            names_shared=sorted(name for name, count in Counter(spelled).items() if count > 1),
            texts_truncated=count_truncated(model, [fill(t, n) for n in spelled for t in sentences]),
            unreadable=[asdict(one) for one in shown.unreadable],
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        return score_classes(records, self)

    item_values = staticmethod(class_item_values)

    def embed_classes(self, model: Embedder, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """[K, T, D], unit rows: every template of every class."""
        sentences = templates(self.templates)
        filled = [fill(sentence, spell(name)) for name in names for sentence in sentences]
        flat = embed_texts(model, filled, [f"class {name}" for name in names for _ in sentences])
        return flat.reshape(len(names), len(sentences), -1)

    def raw_heads(self, model: Any, names: Sequence[str]) -> npt.NDArray[np.float64]:
        """[K, D], unit rows: the normalised mean of each class's embeddings as they are. Raises ConfigError for a model without such."""
        embed = getattr(model, "embed_prompts", None)
        if embed is None:
            raise ConfigError(f"'{model.name}' gives only unit vectors (expected a dual encoder of ours, or ensemble mean)")
        sentences = templates(self.templates)
        heads = [embed([fill(sentence, spell(name)) for sentence in sentences]) for name in names]
        return np.stack(heads).astype(np.float64)

    def pair_scores(self, model: Any, images: Sequence[ImageSource], names: Sequence[str]) -> npt.NDArray[np.float32]:
        """[N, K] of a model that scores pairs: over the templates of each class, the mean of the scores or the best."""
        sentences = templates(self.templates)
        if self.ensemble in ("mean", "raw_mean") and len(sentences) > 1:
            raise ConfigError("scores of pairs have no mean embedding (expected ensemble mean_scores | max, or one template)")
        filled = [fill(sentence, spell(name)) for name in names for sentence in sentences]
        score_NKT = pair_scores(model, images, filled, query="image").reshape(len(images), len(names), -1)
        score_NK: npt.NDArray[np.float32] = score_NKT.max(axis=2) if self.ensemble == "max" else score_NKT.mean(axis=2)
        return score_NK

    def _classes(self, labels: Sequence[str]) -> list[str]:
        names = list(self.classes) or sorted(set(labels))
        if missing := sorted(set(labels) - set(names)):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise DataError(f"label {missing[0]!r}{more} is not among `classes`", field=self.label, expected="every label listed")
        require_classes(names, self.label)
        return names


def spell(name: str) -> str:
    """Readable form of a class name."""
    return name.replace("_", " ").strip()


def class_heads(sentence_KTD: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Zero-shot classifier weights [K, D], unit rows: the normalised mean of the normalised sentences of each class."""
    mean_KD = _unit(sentence_KTD.astype(np.float64)).mean(axis=1)
    return _unit(mean_KD)


def scorer(sentence_KTD: npt.NDArray[Any], ensemble: Ensemble) -> rk.Scorer:
    """Scoring function of blocks of unit image rows, [B, K], under the named rule."""
    if ensemble == "mean":
        return rk.cosine(class_heads(sentence_KTD))
    unit_KTD = _unit(sentence_KTD.astype(np.float64))
    if ensemble == "mean_scores":
        return rk.cosine(unit_KTD.mean(axis=1))
    classes, count, _ = unit_KTD.shape
    each = rk.cosine(unit_KTD.reshape(classes * count, -1))

    def best(image_BD: npt.NDArray[Any]) -> npt.NDArray[Any]:
        score_BKT = each(image_BD).reshape(len(image_BD), classes, count)
        nearest: npt.NDArray[Any] = score_BKT.max(axis=2)
        return nearest

    return best


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: npt.NDArray[np.float64] = rows / np.where(norm > 0, norm, 1.0)
    return unit
