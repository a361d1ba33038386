"""Image-text retrieval language by language, with the share of texts that are cut.  Protocol `multilingual_retrieval`, version 1.

Each language is scored separately by the protocol `retrieval`: its texts against all images that have a text in it. Images are
embedded once. Besides recall, the fraction of texts longer than the model's context is reported: a vocabulary that splits a
script into many tokens truncates more of them. The main metric is the mean over languages, so each language counts equally,
however many texts it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diptych.core.contracts import Dataset, Embedder
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.core.sample import Sample
from diptych.index.embed import ImageEmbeddingBlock, count_truncated, embedded_images
from diptych.tasks._scoring.ranking import ranks as rk
from diptych.tasks._scoring.records import facts_of, with_facts
from diptych.tasks.pairs.retrieval import WANTED, Retrieval

SHOWN = ("r@1", "t2i_r@1", "i2t_r@1")


@dataclass(frozen=True, slots=True)
class MultilingualRetrieval:
    """Recall at K of every language, its mean recall (of all K, both ways), the share of its texts that are cut, and means over languages.

    languages  language tags of the queries; () uses every language of the data, without texts of unknown language
    least      minimum number of images of a language
    origins, texts_per_image, relevant, ks, ties, draws  see `retrieval`
    """

    name: ClassVar[str] = "multilingual_retrieval"
    version: ClassVar[int] = 1
    needs: ClassVar[Any] = Embedder
    main: ClassVar[str] = "r@1"

    languages: tuple[str, ...] = ()
    least: int = 2
    origins: tuple[str, ...] = ()
    texts_per_image: int = 0
    relevant: Literal["auto", "group", "uid"] = "auto"
    ks: tuple[int, ...] = (1, 5, 10)
    ties: rk.Ties = "expected"
    draws: int = 200
    seed: int = 0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.least < 2:
            raise ConfigError(f"least is {self.least} (expected 2 or more images of a language)")
        if self.ks[:1] != (1,):
            raise ConfigError(f"ks is {self.ks} (expected 1 first)")
        self._each()

    def _each(self) -> Retrieval:
        shared = {name: getattr(self, name) for name in ("origins", "texts_per_image", "relevant", "ks", "ties", "draws", "seed")}
        return Retrieval(language="", compare="vectors", batch_size=self.batch_size, **shared)

    def predict(self, model: Embedder, data: Dataset) -> pa.Table:
        """Returns one row per query and language."""
        read = embedded_images(model, data, batch_size=self.batch_size, wanted=WANTED)
        texts = [{text.language for text in sample.positives() if self._asks(text.origin)} for sample in read.samples]
        counts = Counter(language for languages in texts for language in languages if language)
        kept = [language for language in self.languages or sorted(counts) if counts[language] >= self.least]
        if missing := [language for language in self.languages if not counts[language]]:
            raise DataError(
                f"'{data.name}' has no text in language '{missing[0]}'",
                field="texts",
                expected=f"some of {', '.join(sorted(counts)) or 'none: its texts have no language'}",
            )
        if not kept:
            raise DataError(
                f"no language of '{data.name}' has {self.least} images",
                field="texts",
                expected="texts with a language, or --least",
            )
        tables, facts = [], {}
        for language in kept:
            block = _of_language(read, language)
            tables.append(self._each().records(model, block, data.name).replace_schema_metadata(None))
            tables[-1] = tables[-1].append_column("language", pa.array([language] * len(tables[-1])))
            facts[language] = self._lengths(model, block.samples)
        few = {language: counts[language] for language in sorted(counts) if language not in kept}
        table: pa.Table = pa.concat_tables(tables)
        return with_facts(
            table, options=asdict(self), languages=facts, left_out=few, unreadable=[asdict(u) for u in read.unreadable]
        )

    def _asks(self, origin: str) -> bool:
        return not self.origins or origin in self.origins

    def _lengths(self, model: Embedder, samples: Sequence[Sample]) -> dict[str, Any]:
        strings = list(dict.fromkeys(text.string for sample in samples for text in sample.texts if self._asks(text.origin)))
        truncated = count_truncated(model, strings)
        count = getattr(getattr(model, "tokenizer", None), "count", None)
        tokens = float(np.mean([count(string) for string in strings])) if callable(count) else None
        return {"images": len(samples), "texts": len(strings), "truncated": truncated, "tokens_per_text": tokens}

    def score(self, records: pa.Table) -> Result:
        """Metrics of every language and their means. Pure."""
        facts = facts_of(records)
        each, groups = self._each(), 0
        metrics: dict[str, Metric] = {}
        parts = {language: records.filter(pc.equal(records["language"], language)) for language in facts["languages"]}
        for language, part in parts.items():
            result = each.score(part.drop_columns(["language"]))
            groups = max(groups, result.n_groups)
            metrics |= {f"{language}/{name}": result.metrics[name] for name in SHOWN}
            recalls = [result.metrics[f"r@{k}"] for k in self.ks]
            metrics[f"{language}/mean_recall"] = _mean(recalls)
            lengths = facts["languages"][language]
            if lengths["truncated"] is not None:
                share = lengths["truncated"] / max(1, lengths["texts"])
                metrics[f"{language}/truncated"] = Metric(share, higher_is_better=False, items=lengths["texts"])
        means = {}
        for name in (*SHOWN, "mean_recall", "truncated"):
            values = [metrics[key] for language in parts if (key := f"{language}/{name}") in metrics]
            if values:
                means[name] = replace(_mean(values), higher_is_better=name != "truncated")
        notes = {**facts, "interval": "95 % percentile within a language; means over languages have none"}
        return Result(self.name, self.version, self.main, {**means, **metrics}, len(records), groups, notes=notes)


def _of_language(read: ImageEmbeddingBlock, language: str) -> ImageEmbeddingBlock:
    """Images with a text in that language, with only those texts."""
    samples, rows = [], []
    for row, sample in enumerate(read.samples):
        texts = tuple(text for text in sample.positives() if text.language == language)
        if texts:
            samples.append(replace(sample, texts=texts))
            rows.append(row)
    return ImageEmbeddingBlock(tuple(samples), read.vectors_ND[rows])


def _mean(metrics: Sequence[Metric]) -> Metric:
    """Mean of metrics and of their chance, without interval."""
    chances = [metric.chance for metric in metrics]
    return Metric(float(np.mean([metric.value for metric in metrics])), chance=float(np.mean(chances)))
