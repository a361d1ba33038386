"""Few-shot classification with 1, 2, 4, 8 and 16 labelled images per class.  Protocol `few_shot`, version 1.

Every method is trained on the same shot files (`data.shots`), with several draws of each size. The evaluated method is compared
with the zero-shot head of the same class names and one template, and with a linear probe on the same shots. The metric is the
mean over draws of the accuracy on all test images; its interval is that of a t distribution over the draws, mean +- t s / sqrt(n)
with n - 1 degrees of freedom (4.30 s / sqrt(3) for three), not a bootstrap of images.

With `part` "base_to_new" the first half of the classes, in their order, is trained on; "base" is tested among base names, "new" among new
names, and "h" is their harmonic mean, taken in each draw. A linear probe cannot predict new names.

A class with fewer images than shots uses all of them once; the notes list it. Tied classes share the credit.

Letters: N test images, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.data.labels import label_of
from diptych.data.shots import Shots, base_and_new, draw_shots, harmonic_mean
from diptych.index.embed import embedded_images
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import array, facts_of, with_facts
from diptych.tasks.pairs.classification import class_list_hash
from diptych.tasks.pairs.few_shot_methods import Scores, Search, linear_probe, train_on_shots, zero_shot

PROBE, HEAD = "linear_probe", "zero_shot"


@dataclass(frozen=True, slots=True)
class FewShot:
    """Accuracy by images a class: "acc" of the method at the most shots, and "METHOD/SHOTS" of all three.

    method      a recipe that adapts a dual encoder to few labelled images, such as coop
    shots       images per class; repeats: draws for each number
    part        "all" classes, or "base_to_new"
    class_order the classes by their numbers, which are halved so, as published; empty: sorted by their names
    shot_files  folder of files of shots: existing files are used, others are sampled and written, shots-16-draw-1.json; "": sampled anew
    probe       penalty of the linear probe: "bracket" as in `linear_probe`, or "coop" as in CoOp's released code; its features, not
                normalised there, have unit norm here
    templates   template of the zero-shot classifier: the name of a set, or one sentence with {}
    passes, context, start  options of the recipe: passes over the shots, context vectors, words to start from; 0 and "": the recipe's own
    train       labelled images to sample from; None: the split "train"
    """

    name: ClassVar[str] = "few_shot"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "acc"

    method: str = "coop"
    shots: tuple[int, ...] = (1, 2, 4, 8, 16)
    repeats: int = 3
    part: Literal["all", "base_to_new"] = "all"
    class_order: tuple[str, ...] = ()
    label: str = "label"
    language: str = "en"
    probe: Search = "bracket"
    templates: str = "one"
    shot_files: str = ""
    passes: int = 0
    context: int = 0
    start: str = ""
    train: Any = field(default=None, compare=False, repr=False)
    ties: rk.Ties = "expected"
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        rk.check_ties(self.ties)
        if not self.shots or list(self.shots) != sorted(set(self.shots)) or self.shots[0] < 1 or self.repeats < 1:
            raise ConfigError(f"shots are {list(self.shots)} and repeats {self.repeats} (expected sizes in order, and 1 or more)")
        if self.part not in ("all", "base_to_new") or self.probe not in ("bracket", "coop"):
            raise ConfigError(f"part is {self.part!r}, probe {self.probe!r} (expected all | base_to_new, bracket | coop)")

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """One row for each method, number of shots, draw, part and test image."""
        if self.train is None:
            raise DataError(
                f"'{data.name}' has no images to draw shots from", field="split", expected="a split 'train', or train="
            )
        test = _embed_test(model, data, self.label, self.language, self.batch_size)
        drawn = {(n, draw): self._shots(n, draw) for n in self.shots for draw in range(1, self.repeats + 1)}
        classes = drawn[self.shots[0], 1].classes
        parts = self._parts(classes)
        rows: list[pa.Table] = []
        for part, names in parts.items():
            rows.append(self._rows(test, HEAD, 0, 0, part, names, zero_shot(model, names, self.templates)))
        with TemporaryDirectory(prefix="diptych-few-shot-") as folder:
            for (n, draw), shots in drawn.items():
                part_names = next(iter(parts.values()))
                probe = linear_probe(model, self.train, shots, part_names, seed=self.seed, how=self.probe)
                rows.append(self._rows(test, PROBE, n, draw, next(iter(parts)), part_names, probe))
                learned = train_on_shots(
                    self.method,
                    model,
                    self.train,
                    shots,
                    Path(folder),
                    part="base" if self.part == "base_to_new" else "all",
                    changes={
                        name: value for name in ("passes", "context", "start", "class_order") if (value := getattr(self, name))
                    },
                    seed=self.seed,
                )
                for part, names in parts.items():
                    rows.append(self._rows(test, self.method, n, draw, part, names, learned(names)))
        return with_facts(
            pa.concat_tables(rows),
            options={f.name: getattr(self, f.name) for f in fields(self) if f.name != "train"},
            classes={part: len(names) for part, names in parts.items()},
            class_list=class_list_hash(classes),
            train_fingerprint=self.train.fingerprint,
            fewer_than_shots={f"{n}": shots.short for (n, draw), shots in drawn.items() if draw == 1 and shots.short},
            unreadable=test.unreadable,
        )

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows give the same numbers."""
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        facts = facts_of(records)
        method, split = facts["options"]["method"], facts["options"]["part"] == "base_to_new"
        accuracy, metrics = _accuracies(records), dict[str, Metric]()
        most = max(shots for _, shots, _, _ in accuracy)
        for name, shots in dict.fromkeys((name, shots) for name, shots, _, _ in accuracy):
            spelled = f"{name}/{shots}" if shots else name
            by_part: dict[str, dict[int, float]] = {}
            for (who, n, draw, part), value in accuracy.items():
                if (who, n) == (name, shots):
                    by_part.setdefault(part, {})[draw] = value
            if {"base", "new"} <= set(by_part):
                base, new = by_part["base"], by_part["new"]
                by_part["h"] = {draw: harmonic_mean(base[draw], new[draw]) for draw in base}
            for part, values in by_part.items():
                chance = 1 / facts["classes"][part] if part in facts["classes"] else math.nan
                metrics[spelled if part == "all" else f"{spelled}/{part}"] = over_draws(list(values.values()), chance)
        main = metrics[f"{method}/{most}/h" if split else f"{method}/{most}"]
        groups = set(records.column("group").to_pylist())
        notes = {**facts, "interval": f"95 % of a t distribution over {facts['options']['repeats']} draws of shots"}
        uids = set(records.column("uid").to_pylist())
        return Result(self.name, self.version, self.main, {"acc": main, **metrics}, len(uids), len(groups), notes=notes)

    def _shots(self, n: int, draw: int) -> Shots:
        path = Path(self.shot_files, f"shots-{n}-draw-{draw}.json") if self.shot_files else None
        if path is not None and path.is_file():
            shots = Shots.load(path)
            if shots.fingerprint != self.train.fingerprint:
                raise DataError("was drawn from other data", file=path, expected=f"shots of '{self.train.name}'")
            return shots
        shots = draw_shots(self.train, n, draw, label=self.label, language=self.language)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            shots.save(path)
        return shots

    def _parts(self, classes: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        if self.part == "all":
            return {"all": tuple(classes)}
        base, new = base_and_new(classes, self.class_order)
        if len(new) < 2:
            raise DataError(f"{len(classes)} classes have no two new ones", field=self.label, expected="four classes or more")
        return {"base": base, "new": new}

    def _rows(
        self, test: EvalEmbeddings, method: str, shots: int, draw: int, part: str, names: Sequence[str], scores: Scores
    ) -> pa.Table:
        """The test images whose class is among the names; in part "all" every image, an unknown class counting as wrong."""
        code = {name: k for k, name in enumerate(names)}
        kept = [i for i, label in enumerate(test.labels) if part == "all" or label in code]
        if not kept:
            raise DataError(f"no test image is of a {part} class", field=self.label, expected="test images of every part")
        label_N = np.array([code.get(test.labels[i], len(names)) for i in kept], np.int64)
        score_NK = scores(test.vector_ND[kept])
        ranks = rk.rank(score_NK, rk.given_scores, label_N, np.arange(len(names)))
        hit_N = rk.hits(ranks.above, ranks.tied, ranks.tied_relevant, 1, self.ties, ranks.by_index)
        hit_N = np.where(label_N == len(names), 0.0, hit_N)
        return pa.table(
            {
                "method": [method] * len(kept),
                "shots": pa.array([shots] * len(kept), pa.int64()),
                "draw": pa.array([draw] * len(kept), pa.int64()),
                "part": [part] * len(kept),
                "uid": [test.samples[i].uid for i in kept],
                "group": [test.samples[i].group or test.samples[i].uid for i in kept],
                "label": [test.labels[i] for i in kept],
                "top": [names[int(k)] for k in score_NK.argmax(1)],
                "hit": pa.array(hit_N.astype(np.float64)),
            }
        )


@dataclass(frozen=True, slots=True)
class EvalEmbeddings:
    """Embeddings of the test images, computed once."""

    samples: list[Any]
    labels: list[str]
    vector_ND: npt.NDArray[np.float32]
    unreadable: list[str]


def _embed_test(model: Embedder, data: Dataset, label: str, language: str, batch_size: int) -> EvalEmbeddings:
    embedded = embedded_images(model, data, batch_size=batch_size)
    labels = [label_of(sample, label, language) for sample in embedded.samples]
    return EvalEmbeddings(list(embedded.samples), labels, embedded.vectors_ND, [one.uid for one in embedded.unreadable])


def _accuracies(records: pa.Table) -> dict[tuple[str, int, int, str], float]:
    """(method, shots, draw, part) -> mean over its items."""
    keys = zip(*(records.column(name).to_pylist() for name in ("method", "shots", "draw", "part")), strict=True)
    hits: dict[tuple[str, int, int, str], list[float]] = {}
    for key, hit in zip(keys, array(records, "hit").tolist(), strict=True):
        hits.setdefault(key, []).append(hit)
    return {key: float(np.mean(values)) for key, values in hits.items()}


def over_draws(values: Sequence[float], chance: float = math.nan) -> Metric:
    """The mean, with the 95 % interval of a t distribution; without interval for a single draw.

    >>> metric = over_draws([0.5, 0.6, 0.7])
    >>> round(metric.value, 3), round(metric.high - metric.value, 3)
    (0.6, 0.248)
    """
    from scipy.stats import t

    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return Metric(mean, chance=chance)
    half = float(t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return Metric(mean, mean - half, mean + half, chance=chance)
