"""CHAIR: objects in captions that are not in the image."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator
from diptych.core.errors import DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.captions.mentions import ObjectVocabulary, words_in
from diptych.tasks._scoring.intervals import Floats, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

NAMED = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("group", pa.string()),
        ("there", NAMED),
        ("caption", pa.string()),
        ("named", NAMED),
        ("blind_caption", pa.string()),
        ("blind_named", NAMED),
    ]
)


@dataclass(frozen=True)
class CHAIR:
    """CHAIR: objects mentioned in a generated caption that are not in the image (1809.02156). The main metric, `chair_i`, is the
    fraction of hallucinated mentions over all mentions of all captions; `chair_s` the fraction of captions with at least one.
    Short captions do well on both, so the fraction of true objects mentioned (`recall`), the length and the number of mentions
    are also reported; prompt and `max_tokens` are part of the protocol.

    The true objects are those with a region, and those that the texts of the image name (`texts`), as published. Mentions are
    matched against the vocabulary, longest first, in singular or plural. The released code singularises with another package and
    has hard-coded phrases and rules for the 80 classes of COCO; a vocabulary file can express the same (`_scoring.mentions`).

    The blind row scores captions of plain grey images against the truth of the real images.

    vocabulary  a file with one object per line: its name and synonyms; "" uses the labels of all regions of the data
    texts       objects named in the texts of an image count as present, too
    prompt      prompt of the model; "" uses its own default prompt
    blind       also caption grey pictures
    draws, seed of the intervals, which draw groups of images
    """

    name: ClassVar[str] = "chair"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Generator
    main: ClassVar[str] = "chair_i"

    vocabulary: str = ""
    texts: bool = True
    prompt: str = ""
    language: str = "en"
    blind: bool = True
    max_tokens: int = 64
    draws: int = 1000
    seed: int = 0

    def predict(self, model: Generator, data: Dataset) -> pa.Table:
        samples = [data[row] for row in range(len(data))]
        for row, sample in enumerate(samples):
            if sample.image is None:
                raise DataError(f"sample '{sample.uid}' has no image", file=data.name, row=row, field="image")
        vocabulary = self._objects(samples, data.name)
        images = [sample.image for sample in samples if sample.image is not None]
        prompts = [self.prompt] * len(images)
        captions = model.generate(images, prompts, max_tokens=self.max_tokens)
        empty: list[Any] = [None] * len(images)
        blind = model.generate(grey_images(images), prompts, max_tokens=self.max_tokens) if self.blind else empty
        columns: dict[str, Any] = {
            "uid": [sample.uid for sample in samples],
            "group": [sample.group or sample.uid for sample in samples],
            "there": [self._there(sample, vocabulary) for sample in samples],
            "caption": captions,
            "named": [vocabulary.mentions(caption) for caption in captions],
            "blind_caption": blind,
            "blind_named": [vocabulary.mentions(caption) for caption in blind] if self.blind else empty,
        }
        records = pa.table(columns, schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _objects(self, samples: list[Sample], name: str) -> ObjectVocabulary:
        if self.vocabulary:
            return ObjectVocabulary.read(Path(self.vocabulary))
        labels = dict.fromkeys(region.label for sample in samples for region in sample.regions if words_in(region.label))
        if not labels:
            raise DataError(
                f"'{name}' has no labelled objects", field="regions", expected="regions with labels, or --vocabulary FILE"
            )
        return ObjectVocabulary.of(labels)

    def _there(self, sample: Sample, vocabulary: ObjectVocabulary) -> list[str]:
        named = [vocabulary.named(region.label) for region in sample.regions if region.label]
        if self.texts:
            named += [name for text in sample.positives(self.language) for name in vocabulary.mentions(text.string)]
        return list(dict.fromkeys(named))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        groups = records.column("group").to_pylist()
        metrics = self._metrics(records, "", groups)
        if records.column("blind_caption").null_count == 0:
            blind = self._metrics(records, "blind_", groups)
            metrics |= {f"{name}{BLIND}": blind[name] for name in ("chair_i", "chair_s", "recall")}
        notes: dict[str, Any] = {
            **facts_of(records),
            "chair_i": "share of mentions of absent objects; NaN if no caption names an object",
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _metrics(self, records: pa.Table, which: str, groups: list[str]) -> dict[str, Metric]:
        there, named = records.column("there").to_pylist(), records.column(f"{which}named").to_pylist()
        captions = records.column(f"{which}caption").to_pylist()
        wrong_N = np.array(
            [sum(name not in truth for name in mentions) for truth, mentions in zip(there, named, strict=True)], np.float64
        )
        mentions_N = np.array([len(mentions) for mentions in named], np.float64)
        found_N = np.array([len(set(mentions) & set(truth)) for truth, mentions in zip(there, named, strict=True)], np.float64)
        truth_N = np.array([len(truth) for truth in there], np.float64)
        words_N = np.array([len(words_in(caption)) for caption in captions], np.float64)
        parts_NM = np.stack([wrong_N, mentions_N, wrong_N > 0, found_N, truth_N, words_N, words_N == 0], 1)
        drawn_RM = resampled_means(parts_NM, groups, draws=self.draws, seed=self.seed)
        values, drawn = _ratios(parts_NM.mean(0)), _ratios(drawn_RM)
        lower, units = {"chair_i", "chair_s", "empty"}, {"mentions": "mentions", "words": "words"}
        return {
            name: Metric(
                float(value), *percentiles(drawn[name]), unit=units.get(name, "share"), higher_is_better=name not in lower
            )
            for name, value in values.items()
        }

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for "chair_s"; the others are ratios of sums."""
        if metric != "chair_s":
            return None
        pairs = zip(records.column("there").to_pylist(), records.column("named").to_pylist(), strict=True)
        return np.array([[float(bool(set(mentions) - set(truth)))] for truth, mentions in pairs])


def _ratios(mean_M: Floats) -> dict[str, Floats]:
    wrong, mentions, captions, recalled, truth, words, empty = np.moveaxis(mean_M, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = {"chair_i": wrong / mentions, "chair_s": captions, "recall": recalled / truth}
    return {**shares, "mentions": mentions, "words": words, "empty": empty}
