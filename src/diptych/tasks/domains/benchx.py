"""One protocol for encoders of chest X-rays.  Protocol `benchx`, version 3 (BenchX, 2410.21969).

An encoder is fine-tuned with a linear head for several labels, once for each share of the training patients, each setting of three switches
(LayerNorm before the head, a head that starts near zero, a lower learning rate of the encoder) and each seed. For each share the setting
with the best mean AUROC on *validation* is taken, and its scores on the test images count.

    auroc      AUROC on the test images, a mean over labels and seeds, of models that were trained on the largest share; the main number.
               For every share: auroc@1, auroc@0.1, auroc@0.01. The interval resamples patients
    std@1      standard deviation over seeds
    f1@1       micro F1 at the threshold that is best on validation; macro_f1@1 the mean over labels

Of the largest share alone, each a mean over seeds:

    auroc/sex=F   AUROC of a group of test images, with its interval; groups are those of sex, age band, view and site
    ece           expected calibration error of the probabilities, over all pairs of an image and a label, in 15 bins
    sensitivity   at each label's threshold for a specificity of .9 on validation, a mean over labels; `specificity` is what that
                  threshold has on the test images

A label without positives or negatives among the test images is left out of the mean and named in the notes. The share of patients
is drawn with a recorded seed, so that every label of training stays in it as far as it can; `share_lists` takes published lists
instead. A patient in two splits is refused.

Training images are cropped at random as the paper says. What BenchX's code does otherwise: thresholds are fitted on the very rows that are
scored (`compat="released"`), and images are cropped by area, mirrored, and normalised by one mean for all encoders (`augment="released"`).
Version 1 preprocessed training images once (`augment="none"`). The warm-up of version 2 began above 0.

Letters: N items, K labels, R draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.tasks._scoring.calibration import ReliabilityBin, expected_calibration_error, reliability_bins, sensitivity_at
from diptych.tasks._scoring.chest_metrics import Bools, Floats, best_threshold, f1_scores, macro_auroc
from diptych.tasks._scoring.intervals import codes, group_weights, percentiles
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.domains.head_images import AUGMENTATIONS, Augmentation, HeadImages
from diptych.tasks.domains.head_runs import FineTuning, HeadSwitches, fine_tuned_scores
from diptych.tasks.domains.patient_groups import group_aurocs, group_values
from diptych.tasks.domains.patient_splits import patient_of, split_images

Run = tuple[float, bool, bool, float, int]
"""Share of training, the three switches, seed."""


@dataclass(frozen=True, slots=True)
class BenchX:
    """AUROC and F1 of an image encoder that is fine-tuned for several labels.

    label         name of the extra with the labels of an image: a list, or one word
    group         name of the extra with the patient; images without it are grouped by the sample's own group
    train_split, val_split, test_split  names of the splits
    train, val    data sets to use instead of splits; with `train`, all of the evaluated data is the test
    shares        shares of the training patients
    share_lists   use the images of the published list for a share below 1, by the extra `shares` ("train_10" for .1), instead of sampling
    norms, small_heads, encoder_rates  settings of the head to try; an encoder rate of 0 freezes the encoder, and is the only one for an
                                       encoder without a tower
    seeds         seeds of the runs
    lr, head_batch, epochs, patience, cosine_steps  options of fine-tuning (`FineTuning`); released configurations have 3,000 `cosine_steps`
    augment       random views of training images: "crop", "released" or "none" (`head_images.Augmentation`)
    group_by      extras whose values define groups of the results; "age" gives age bands
    least_group   minimum number of test images of a group
    specificity   specificity at which sensitivity is reported
    compat        "released" fits the F1 threshold on the test images and applies it as "above", as BenchX's code does
    """

    slug: ClassVar[str] = "benchx"
    name: ClassVar[str] = "benchx"
    version: ClassVar[int] = 3
    needs: ClassVar[type] = Embedder
    main: ClassVar[str] = "auroc"

    label: str = "findings"
    group: str = "patient"
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    train: Any = field(default=None, compare=False, repr=False)
    val: Any = field(default=None, compare=False, repr=False)
    shares: tuple[float, ...] = (1.0, 0.1, 0.01)
    share_lists: bool = False
    norms: tuple[bool, ...] = (False, True)
    small_heads: tuple[bool, ...] = (False, True)
    encoder_rates: tuple[float, ...] = (1.0, 0.1)
    seeds: tuple[int, ...] = (42, 0, 1)
    lr: float = 1e-2
    head_batch: int = 64
    epochs: int = 200
    patience: int = 10
    cosine_steps: int = 0
    augment: Augmentation = "crop"
    group_by: tuple[str, ...] = ("sex", "age", "view", "site")
    least_group: int = 20
    specificity: float = 0.9
    compat: Literal["", "released"] = ""
    draws: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.shares or not all(0 < share <= 1 for share in self.shares) or not self.seeds:
            raise ConfigError(
                f"shares {list(self.shares)}, seeds {list(self.seeds)} (expected shares above 0 up to 1, a seed or more)"
            )
        if not all((self.norms, self.small_heads, self.encoder_rates)) or min(self.encoder_rates) < 0:
            raise ConfigError("norms, small_heads and encoder_rates name a setting each or more, rates of 0 or above")
        if self.compat not in ("", "released") or min(self.epochs, self.head_batch, self.patience) < 1:
            raise ConfigError(f"compat is {self.compat!r}, epochs {self.epochs} (expected '' | released, 1 or more)")
        if self.augment not in AUGMENTATIONS or not 0 < self.specificity < 1 or self.least_group < 1:
            raise ConfigError(
                f"augment is {self.augment!r}, specificity {self.specificity}, least_group {self.least_group} "
                f"(expected {' | '.join(AUGMENTATIONS)}, between 0 and 1, 1 or more)"
            )

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per run and an image of validation or test, with its scores."""
        names = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        samples = split_images(data, names, train=self.train, val=self.val, column=self.group)
        groups = {part: [patient_of(sample, self.group) for sample in rows] for part, rows in samples.items()}
        labels = sorted({label for sample in samples["train"] for label in self.labels(sample)})
        if not labels:
            raise DataError(f"'{data.name}' has no labels", field=self.label, expected="a list of labels for each image")
        truth = {part: self.truth(rows, labels) for part, rows in samples.items()}
        for part in ("val", "test"):
            if not (truth[part].any(0) & ~truth[part].all(0)).any():
                raise DataError(
                    f"no label of '{data.name}' has both positive and negative images in {part}",
                    field=self.label,
                    expected="a label that some images have and others do not",
                )
        pictures = {
            part: HeadImages(model, [sample.image for sample in rows if sample.image], self.augment)
            for part, rows in samples.items()
        }
        columns = {part: group_values(rows, self.group_by) for part, rows in samples.items()}
        settings = FineTuning(
            lr=self.lr,
            batch_size=self.head_batch,
            epochs=self.epochs,
            patience=self.patience,
            cosine_steps=self.cosine_steps,
        )
        rows: dict[str, list[Any]] = {name: [] for name in ("run", "part", "uid", "group", "truth", "score")}
        rows |= {f"by_{name}": [] for name in self.group_by}
        runs = self.runs(pictures["train"].tower is not None)
        rows_of_share = {
            share: self._rows_of_share(share, samples["train"], groups["train"], truth["train"]) for share in self.shares
        }
        for number, run in enumerate(with_bar(runs, len(runs), "runs of fine-tuning")):
            share, norm, small_head, rate, seed = run
            switches = HeadSwitches(norm, small_head, rate)
            scores = fine_tuned_scores(
                pictures["train"],
                truth["train"],
                rows_of_share[share],
                pictures["val"],
                truth["val"],
                [pictures["test"]],
                switches,
                settings,
                seed,
            )
            for part, score_NK in zip(("val", "test"), scores, strict=True):
                rows["run"] += [number] * len(score_NK)
                rows["part"] += [part] * len(score_NK)
                rows["uid"] += [sample.uid for sample in samples[part]]
                rows["group"] += groups[part]
                rows["truth"] += truth[part].tolist()
                rows["score"] += score_NK.tolist()
                for name, values in columns[part].items():
                    rows[f"by_{name}"] += values
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("train", "val")}
        switched = [{"share": run[0], "seed": run[4], **asdict(HeadSwitches(*run[1:4]))} for run in runs]
        sizes = {part: {"images": len(rows), "patients": len({*groups[part]})} for part, rows in samples.items()}
        return with_facts(pa.table(rows), options=options, labels=labels, runs=switched, sizes=sizes)

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records. Pure: the same rows and options give the same numbers."""
        facts = facts_of(records)
        if not len(records) or "runs" not in facts:
            raise DataError("nothing to score: the records contain no run", expected="one row or more")
        parts = read_runs(records)
        metrics: dict[str, Metric] = {}
        chosen_runs: dict[float, list[tuple[Part, Part]]] = {}
        table: list[dict[str, Any]] = []
        for share in sorted({run["share"] for run in facts["runs"]}, reverse=True):
            settings, valued, best = validated_settings(facts["runs"], parts, share)
            for name, chosen in settings.items():
                values = [macro_auroc(*parts[number, "test"][:2]) for number in chosen]
                row = {"share": share, "setting": name, "val": valued[name], "test": float(np.mean(values)), "std": _std(values)}
                table.append({**row, "chosen": name == best})
            chosen_runs[share] = [(parts[n, "val"], parts[n, "test"]) for n in settings[best]]
            metrics |= self._metrics(f"{share:g}", chosen_runs[share])
        largest = max(chosen_runs)
        clinical, reliability = self._clinical(records, chosen_runs[largest])
        metrics = {"auroc": metrics[f"auroc@{largest:g}"], **metrics, **clinical}
        truth_NK = parts[0, "test"][1]
        missing = [name for name, truth_N in zip(facts["labels"], truth_NK.T, strict=True) if truth_N.all() or not truth_N.any()]
        notes = {
            **facts,
            "table": table,
            "reliability": [asdict(row) for row in reliability],
            "labels_left_out": missing,
            "interval": f"95 % percentile, {self.draws} draws of patients",
        }
        groups = parts[0, "test"][2]
        return Result(self.name, self.version, self.main, metrics, len(groups), len(set(groups)), notes=notes)

    def _clinical(self, records: pa.Table, runs: Sequence[tuple[Part, Part]]) -> tuple[dict[str, Metric], list[ReliabilityBin]]:
        """AUROC by group, calibration and sensitivity of runs of one setting, and the bins of their reliability."""
        scores = [test[0] for _, test in runs]
        _, truth_NK, patients = runs[0][1]
        first = records.filter(pc.and_(pc.equal(records["run"], records["run"][0]), pc.equal(records["part"], "test")))
        columns = {name: first.column(f"by_{name}").to_pylist() for name in self.group_by if f"by_{name}" in first.column_names}
        metrics = group_aurocs(scores, truth_NK, patients, columns, least=self.least_group, draws=self.draws, seed=self.seed)
        errors = [expected_calibration_error(reliability_bins(score_NK.ravel(), truth_NK.ravel())) for score_NK in scores]
        reached = [sensitivity_at(self.specificity, *val[:2], *test[:2]) for val, test in runs]
        sensitivity, specificity = (float(np.mean(values)) for values in zip(*reached, strict=True))
        metrics |= {
            "ece": Metric(float(np.mean(errors)), higher_is_better=False),
            "sensitivity": Metric(sensitivity),
            "specificity": Metric(specificity),
        }
        pooled = np.concatenate([score_NK.ravel() for score_NK in scores])
        return metrics, reliability_bins(pooled, np.tile(truth_NK.ravel(), len(scores)))

    def _metrics(self, name: str, runs: Sequence[tuple[Part, Part]]) -> dict[str, Metric]:
        tests = [test for _, test in runs]
        truth_NK, groups = tests[0][1], tests[0][2]
        code_N, count = codes(groups)
        drawn = [
            float(np.mean([macro_auroc(score_NK, truth_NK, weight_C[code_N]) for score_NK, _, _ in tests]))
            for block in group_weights(count, self.draws, self.seed, len(groups))
            for weight_C in block
        ]
        values = [macro_auroc(score_NK, truth_NK) for score_NK, _, _ in tests]
        f1 = [self._f1(val, test) for val, test in runs]
        return {
            f"auroc@{name}": Metric(float(np.mean(values)), *percentiles(np.array(drawn)), chance=0.5),
            f"std@{name}": Metric(_std(values), higher_is_better=False),
            f"f1@{name}": Metric(float(np.mean([micro for micro, _ in f1]))),
            f"macro_f1@{name}": Metric(float(np.mean([macro for _, macro in f1]))),
        }

    def _f1(self, val: Part, test: Part) -> tuple[float, float]:
        score_NK, truth_NK, _ = test
        if self.compat == "released":
            return f1_scores(score_NK > best_threshold(score_NK, truth_NK), truth_NK, empty=1.0)
        return f1_scores(score_NK >= best_threshold(*val[:2]), truth_NK)

    # ------------------------------------------------------------ rows and runs

    def runs(self, trainable: bool) -> list[Run]:
        """Every share, setting and seed; an encoder without a tower is kept as it is."""
        rates = self.encoder_rates if trainable else (0.0,)
        return list(product(self.shares, self.norms, self.small_heads, rates, self.seeds))

    def _rows_of_share(self, share: float, samples: Sequence[Sample], groups: Sequence[str], truth_NK: Bools) -> list[int]:
        if self.share_lists and share < 1:
            return listed_rows(samples, share)
        return drawn_rows(groups, truth_NK, share, seed=self.seed)

    def labels(self, sample: Sample) -> tuple[str, ...]:
        """Labels of a sample."""
        value = sample.extras.get(self.label)
        return (value,) if isinstance(value, str) and value else tuple(map(str, value or ()))

    def truth(self, samples: Sequence[Sample], labels: Sequence[str]) -> Bools:
        """bool [N, K]."""
        return np.array([[label in self.labels(sample) for label in labels] for sample in samples], bool).reshape(-1, len(labels))


Part = tuple[Floats, Bools, list[str]]
"""Scores [N, K], truth [N, K] and the patient of each row."""


def read_runs(records: pa.Table) -> dict[tuple[int, str], Part]:
    """Rows of the records by run and part."""
    table = records.to_pydict()
    rows: dict[tuple[int, str], list[int]] = {}
    for row, key in enumerate(zip(table["run"], table["part"], strict=True)):
        rows.setdefault(key, []).append(row)
    score, truth = np.array(table["score"], np.float64), np.array(table["truth"], bool)
    return {key: (score[chosen], truth[chosen], [table["group"][row] for row in chosen]) for key, chosen in rows.items()}


def validated_settings(
    runs: Sequence[Mapping[str, Any]], parts: Mapping[tuple[int, str], Part], share: float
) -> tuple[dict[str, list[int]], dict[str, float], str]:
    """Runs of each setting of the head at a share, its mean AUROC on validation, and the name of the best."""
    settings: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        if run["share"] == share:
            settings.setdefault(HeadSwitches(run["norm"], run["small_head"], run["encoder_rate"]).name, []).append(number)
    valued = {
        name: float(np.mean([macro_auroc(*parts[number, "val"][:2]) for number in chosen])) for name, chosen in settings.items()
    }
    return settings, valued, max(valued, key=lambda name: valued[name])


def drawn_rows(groups: Sequence[str], truth_NK: Bools, share: float, *, seed: int) -> list[int]:
    """Rows of a share of the patients, drawn at random; a patient of each label comes first, the rarest labels before the others."""
    names = sorted(set(groups))
    wanted = max(1, round(share * len(names)))
    if wanted >= len(names):
        return list(range(len(groups)))
    order = [names[at] for at in keyed_rng("share of patients", seed).permutation(len(names))]
    of_label = [{group for group, there in zip(groups, truth_N, strict=True) if there} for truth_N in truth_NK.T]
    chosen: list[str] = []
    for having in sorted(of_label, key=len):
        if len(chosen) < wanted and having and not having & set(chosen):
            chosen.append(next(name for name in order if name in having))
    taken = set([*chosen, *(name for name in order if name not in set(chosen))][:wanted])
    return [row for row, group in enumerate(groups) if group in taken]


def listed_rows(samples: Sequence[Sample], share: float) -> list[int]:
    """Rows of the training images that the published list of a share names ("train_10" for .1), by the extra `shares`.

    Raises DataError if no image is in that list.
    """
    name = f"train_{100 * share:g}"
    rows = [row for row, sample in enumerate(samples) if name in sample.extras.get("shares", ())]
    if not rows:
        lists = sorted({other for sample in samples for other in sample.extras.get("shares", ())})
        raise DataError(
            f"no training image is in the list {name}",
            field="shares",
            expected=", ".join(lists) or f"{name}.txt beside the table",
        )
    return rows


def _std(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def paired_difference(one: pa.Table, other: pa.Table, *, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """AUROC of `other` less that of `one`, each that of its setting which is best on validation at the largest share, with a 95 % interval
    over patients who are drawn alike for both. Raises DataError for records of different test images."""
    sides: list[list[Part]] = []
    for records in (one, other):
        runs = facts_of(records)["runs"]
        most = max(run["share"] for run in runs)
        parts = read_runs(records)
        settings, _, best = validated_settings(runs, parts, most)
        sides.append([parts[number, "test"] for number in settings[best]])
    if sides[0][0][2] != sides[1][0][2]:
        raise DataError("records are of different test images", field="group", expected="two encoders on the same data")
    code_N, count = codes(sides[0][0][2])

    def difference(weight_N: npt.NDArray[Any] | None) -> float:
        means = [np.mean([macro_auroc(score_NK, truth_NK, weight_N) for score_NK, truth_NK, _ in side]) for side in sides]
        return float(means[1] - means[0])

    drawn = [difference(weight_C[code_N]) for block in group_weights(count, draws, seed, len(code_N)) for weight_C in block]
    return (difference(None), *percentiles(np.array(drawn)))
