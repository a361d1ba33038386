"""Captioning: generated captions against human references."""

from __future__ import annotations

import unicodedata
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.result import Metric, Result
from diptych.tasks._scoring.answers.blind import BLIND, grey_images
from diptych.tasks._scoring.captions.metrics import Brackets, bleu_counts, cider_d, rouge_l, words_of
from diptych.tasks._scoring.intervals import Floats, codes, percentiles, resampled_means
from diptych.tasks._scoring.records import facts_of, with_facts

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("group", pa.string()),
        ("caption", pa.string()),
        ("references", pa.list_(pa.string())),
        ("blind_caption", pa.string()),
    ]
)


@dataclass(frozen=True)
class Captions:
    """Scores one caption per image against all texts of the image by CIDEr-D (the main metric), BLEU-4, ROUGE-L and exact match.

    CIDEr's document frequencies come from the references of the scored items, so scores of a subset differ from those of the
    whole data set; they stay fixed in the bootstrap over groups. Also reported: the mean length in words, and the fractions of
    empty captions, of captions that repeat a trigram, and of captions that reach `max_tokens` in words. METEOR and SPICE are not
    computed: both need Java.

    The blind row (`cider_d/blind`, `rouge_l/blind`) scores captions of plain grey images against the same texts.

    prompt      prompt of the model; "" uses its own default prompt
    blind       also caption grey pictures
    language    language of the references; texts of unknown language count, too; "" uses all
    max_tokens  maximum number of tokens of a caption
    cut         tokenisation: "spaces": words between spaces; "letters": every character is a word, as mBLIP scores Chinese (for Japanese
                and Thai it uses other programs)
    composed    normalise letters and their marks to one character (NFC), as mBLIP scores XM3600
    brackets    "kept": a bracket is a word, as in the COCO evaluation code, whose punctuation list does not match brackets; "dropped":
                brackets are removed, as that list intends, and as in version 1
    draws, seed of the intervals
    """

    name: ClassVar[str] = "captions"
    version: ClassVar[int] = 2
    needs: ClassVar[type] = Generator
    main: ClassVar[str] = "cider_d"

    prompt: str = ""
    language: str = "en"
    blind: bool = True
    max_tokens: int = 64
    cut: Literal["spaces", "letters"] = "spaces"
    composed: bool = False
    brackets: Brackets = "kept"
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if self.brackets not in get_args(Brackets):
            raise ConfigError(f"brackets is {self.brackets!r} (expected {' | '.join(get_args(Brackets))})")

    def predict(self, model: Generator, data: Dataset) -> pa.Table:
        rows = []
        for row in range(len(data)):
            sample = data[row]
            texts = [text.string for text in sample.positives(self.language)]
            if sample.image is None or not texts:
                lacks = "no image" if sample.image is None else f"no text in language '{self.language}'"
                raise DataError(f"sample '{sample.uid}' has {lacks}", file=data.name, row=row, expected="an image and a text")
            rows.append((sample.uid, sample.group or sample.uid, sample.image, texts))
        images, prompts = [image for *_, image, _ in rows], [self.prompt] * len(rows)
        captions = model.generate(images, prompts, max_tokens=self.max_tokens)
        blind: list[Any] = [None] * len(rows)
        if self.blind:
            blind = model.generate(grey_images(images), prompts, max_tokens=self.max_tokens)
        columns = [[uid for uid, *_ in rows], [group for _, group, *_ in rows], captions, [texts for *_, texts in rows], blind]
        records = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        captions = [self._words(text) for text in records.column("caption").to_pylist()]
        references = [[self._words(text) for text in texts] for texts in records.column("references").to_pylist()]
        groups = records.column("group").to_pylist()
        counts = bleu_counts(captions, references)
        most = int(facts_of(records).get("options", {}).get("max_tokens", self.max_tokens))
        columns = {
            "cider_d": cider_d(captions, references),
            "rouge_l": np.array([rouge_l(*pair) for pair in zip(captions, references, strict=True)]),
            "exact": np.array([float(words in texts) for words, texts in zip(captions, references, strict=True)]),
            "words": np.array([float(len(words)) for words in captions]),
            "empty": np.array([float(not words) for words in captions]),
            "repeats": np.array([float(_repeats(words)) for words in captions]),
            "unended": np.array([float(len(words) >= most) for words in captions]),
        }
        if "blind_caption" in records.column_names and not records.column("blind_caption").null_count:
            blind = [self._words(text) for text in records.column("blind_caption").to_pylist()]
            columns[f"cider_d{BLIND}"] = cider_d(blind, references)
            columns[f"rouge_l{BLIND}"] = np.array([rouge_l(*pair) for pair in zip(blind, references, strict=True)])
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        units = {"cider_d": "points", f"cider_d{BLIND}": "points", "words": "words"}
        lower = {"empty", "repeats", "unended"}
        metrics = {
            name: Metric(
                float(value_N.mean()),
                *percentiles(drawn_RM[:, column]),
                unit=units.get(name, "share"),
                higher_is_better=name not in lower,
            )
            for column, (name, value_N) in enumerate(columns.items())
        }
        metrics["bleu_4"] = Metric(counts.score(), *percentiles(self._resample_bleu(counts, groups)))
        notes: dict[str, Any] = {
            **facts_of(records),
            "words": "lower case, Penn-Treebank cuts, 13 marks of punctuation dropped; no Java"
            + f"; brackets {self.brackets}"
            + "; every character a word" * (self.cut == "letters")
            + "; composed characters" * self.composed,
            "references": sum(map(len, references)) / len(references),
            "interval": f"95 % percentile, {self.draws} draws of groups, seed {self.seed}; word frequencies fixed",
        }
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)), notes=notes)

    def _words(self, text: str) -> list[str]:
        text = " ".join("".join(text.split())) if self.cut == "letters" else text
        return words_of(unicodedata.normalize("NFC", text) if self.composed else text, brackets=self.brackets)

    def _resample_bleu(self, counts: Any, groups: list[str]) -> Floats:
        """BLEU-4 of bootstrap corpora, resampled group by group."""
        code_N, count = codes(groups)
        if count < 2:
            return np.full(1, np.nan)
        members = [np.flatnonzero(code_N == code) for code in range(count)]
        rng = keyed_rng("captions", self.seed)
        drawn = (np.concatenate([members[code] for code in rng.integers(count, size=count)]) for _ in range(self.draws))
        return np.array([counts.score(rows=rows) for rows in drawn])

    def item_values(self, records: pa.Table, metric: str) -> Floats | None:
        """[N, 1] for metrics that are means over items; None for BLEU, which is one of the corpus."""
        captions = [self._words(text) for text in records.column("caption").to_pylist()]
        references = [[self._words(text) for text in texts] for texts in records.column("references").to_pylist()]
        if metric == "cider_d":
            return cider_d(captions, references)[:, None]
        if metric == "rouge_l":
            return np.array([[rouge_l(*pair)] for pair in zip(captions, references, strict=True)])
        if metric == "exact":
            return np.array([[float(words in texts)] for words, texts in zip(captions, references, strict=True)])
        return None


def _repeats(words: list[str]) -> bool:
    runs = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
    return len(set(runs)) < len(runs)
