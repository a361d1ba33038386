"""Reports by a decoder that is trained on an image encoder.  Protocol `report_head`, version 1 (BenchX, 2410.21969).

R2Gen's memory-driven transformer (3 layers, 512 dimensions, 3 memory slots) learns to write the training reports from the patch features of
an encoder that stays as it is: 100 epochs of Adam at 1e-3 over 16 reports, the rate times .8 where BLEU-4 on validation has not risen for
two epochs. The decoder of the epoch with the best BLEU-4 on validation writes the reports of the test images by a beam search of 3, and
`report_generation` scores them, with its metrics and its blind row. A patient in two splits is refused.

Words that the training reports have less than three times (R2Gen: ten times on MIMIC-CXR, `threshold=10`) are "<unk>". We depart in two
points: an image has a report of its own, where BenchX gives both views of a study to one decoder; and an encoder that stays as it is
reads each training image once, not in random views. What BenchX's code does otherwise: references too have "<unk>" and are cut at 59 words
(`compat="released"`). Its configurations ask for trigram blocking, which its beam search does not do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import pyarrow as pa

from diptych.core.contracts import Dataset, DenseEmbedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.result import Result
from diptych.core.sample import Sample
from diptych.data.dataset import Pool
from diptych.data.text.reports.report_words import CLEANINGS, Cleaning, ReportVocabulary
from diptych.models.chests.memory_transformer import MemoryTransformerConfig
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.domains.head_images import AUGMENTATIONS, Augmentation
from diptych.tasks.domains.patient_splits import split_images
from diptych.tasks.domains.report_generation import ReportGeneration
from diptych.tasks.domains.report_training import ReportTraining, trained_report_writer


@dataclass(frozen=True, slots=True)
class ReportHead:
    """BLEU, ROUGE-L and F1 of findings of reports that a decoder on an encoder writes.

    section       section of a report to generate, such as "findings"; "" uses the whole report. Images without it are left out
    group         name of the extra with the patient, or of the sample's own group
    train_split, val_split, test_split  names of the splits
    train, val    data sets to use instead of splits; with `train`, all of the evaluated data is the test
    encoder_rate  factor of the encoder's learning rate; 0 freezes it; .5 is R2Gen's
    augment       random views of the training images, if the encoder is trained (`head_images.Augmentation`)
    threshold     minimum number of occurrences of a word in the training reports; rarer words become "<unk>"
    cleaning      cleaning of words, "iu_xray" or "mimic_cxr"
    length        maximum number of token ids of a report, including the start token
    beams         beams of the search
    width, heads, layers, mlp_width, slots, dropout, feature_dropout  sizes of the decoder (`MemoryTransformerConfig`)
    lr, decay, head_batch, epochs, patience  training options (`ReportTraining`)
    uncertain     class of an uncertain finding
    blind         also generate reports of grey pictures
    compat        "released" truncates references and replaces their rare words, as BenchX's code does
    draws, seed   bootstrap draws of the intervals, which resample patients, and seed of intervals and training
    """

    name: ClassVar[str] = "report_head"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = DenseEmbedder
    main: ClassVar[str] = "bleu_4"

    section: str = ""
    group: str = "patient"
    train_split: str = "train"
    val_split: str = "val"
    test_split: str = "test"
    train: Any = field(default=None, compare=False, repr=False)
    val: Any = field(default=None, compare=False, repr=False)
    encoder_rate: float = 0.0
    augment: Augmentation = "crop"
    threshold: int = 3
    cleaning: Cleaning = "iu_xray"
    length: int = 60
    beams: int = 3
    width: int = 512
    heads: int = 8
    layers: int = 3
    mlp_width: int = 512
    slots: int = 3
    dropout: float = 0.1
    feature_dropout: float = 0.5
    lr: float = 1e-3
    decay: float = 5e-5
    head_batch: int = 16
    epochs: int = 100
    patience: int = 10
    uncertain: Literal["absent", "present"] = "absent"
    blind: bool = True
    compat: Literal["", "released"] = ""
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.threshold, self.beams, self.layers, self.slots, self.head_batch, self.epochs, self.patience)
        if min(counts) < 1 or self.length < 2 or self.lr <= 0 or self.encoder_rate < 0:
            raise ConfigError(
                f"threshold, beams, layers, slots, head_batch, epochs and patience are {list(counts)}, length {self.length}, "
                f"lr {self.lr}, encoder_rate {self.encoder_rate} (expected 1 or more, 2 or more, above 0, 0 or above)"
            )
        if self.heads < 1 or self.width % self.heads or self.width % 2:
            raise ConfigError(f"width is {self.width} with {self.heads} heads (expected an even multiple of the heads)")
        if self.compat not in ("", "released") or self.augment not in AUGMENTATIONS or self.cleaning not in CLEANINGS:
            raise ConfigError(
                f"compat is {self.compat!r}, augment {self.augment!r}, cleaning {self.cleaning!r} "
                f"(expected '' | released, {' | '.join(AUGMENTATIONS)}, {' | '.join(CLEANINGS)})"
            )
        self.scorer()

    def scorer(self) -> ReportGeneration:
        """The task that asks the trained decoder and scores its reports."""
        return ReportGeneration(
            section=self.section,
            group=self.group,
            max_tokens=self.length,
            cleaning=self.cleaning,
            uncertain=self.uncertain,
            blind=self.blind,
            draws=self.draws,
            seed=self.seed,
        )

    def predict(self, model: DenseEmbedder, data: Dataset) -> pa.Table:
        """Returns one row per test image, with its report and the generated one."""
        splits = {"train": self.train_split, "val": self.val_split, "test": self.test_split}
        samples = split_images(data, splits, train=self.train, val=self.val, column=self.group)
        decoder = MemoryTransformerConfig(
            width=self.width,
            heads=self.heads,
            layers=self.layers,
            mlp_width=self.mlp_width,
            slots=self.slots,
            dropout=self.dropout,
            feature_dropout=self.feature_dropout,
        )
        options = ReportTraining(
            decoder=decoder,
            encoder_rate=self.encoder_rate,
            augment=self.augment,
            threshold=self.threshold,
            cleaning=self.cleaning,
            length=self.length,
            beams=self.beams,
            lr=self.lr,
            decay=self.decay,
            batch_size=self.head_batch,
            epochs=self.epochs,
            patience=self.patience,
        )
        train, val = (self._pairs(data.name, part, samples[part]) for part in ("train", "val"))
        writer = trained_report_writer(model, train, val, options, seed=self.seed)
        records = self.scorer().predict(writer, Pool.from_samples(samples["test"], name=data.name))
        if self.compat == "released":
            reports = [
                released_reference(report, writer.vocabulary, self.length) for report in records.column("report").to_pylist()
            ]
            records = records.set_column(records.schema.get_field_index("report"), "report", pa.array(reports))
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("train", "val")}
        return with_facts(records, **{**facts_of(records), "options": given, "words": len(writer.vocabulary.words)})

    def score(self, records: pa.Table) -> Result:
        """Metrics of the records, those of `report_generation`."""
        scored = self.scorer().score(records)
        return Result(self.name, self.version, self.main, scored.metrics, scored.n_items, scored.n_groups, notes=scored.notes)

    def _pairs(self, data: str, part: str, samples: Sequence[Sample]) -> tuple[list[ImageSource], list[str]]:
        """Images and reports of those that have one."""
        scorer = self.scorer()
        pairs = [(sample.image, scorer.reference(sample)) for sample in samples]
        images, reports = (
            [image for image, report in pairs if image and report],
            [report for image, report in pairs if image and report],
        )
        if not reports:
            raise DataError(f"'{data}' has no image with a report in {part}", field="texts", expected=self.section or "reports")
        return images, reports


def released_reference(report: str, vocabulary: ReportVocabulary, length: int) -> str:
    """A reference as BenchX's code scores it: cut, with "<unk>" for rare words."""
    return vocabulary.decode(vocabulary.encode(report, length)[1:])
