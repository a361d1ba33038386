"""Rule-based negatives and positives of SVLC (2211.11733): texts with a word replaced by a model, and paraphrases, stored with
the data.

Drops no rows. The wrong texts are the column ``structured_negatives``, a list a row, the right ones ``structured_positive``; the
curated data set brings both along, and `diptych train svlc --negatives both --positives texts` reads them. Captions without a word that
can be replaced have none; the last note of the step counts them.

The fill-mask model can be any `transformers` folder of one; without it, word counts of the data's own captions propose
replacements. A row's own caption is included in the counts, so small data sets propose little. Positives follow rules: the
converse of a relation, or an adjective after its noun.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from diptych.core.contracts import CurationStepResult, Dataset
from diptych.core.errors import ConfigError, DataError
from diptych.core.randomness import keyed_rng
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.text.english.filling import OFFERED, NeighbourCounts
from diptych.data.text.english.structured import MASKED, Filler, analogies, masked_as_released, replaced_by_model
from diptych.data.text.english.tagger import spacy_tagger, tag

NEGATIVES, POSITIVE = "structured_negatives", "structured_positive"


@dataclass(frozen=True)
class StructuredNegatives:
    """filler     folder of a `transformers` fill-mask model; "" uses word counts of the captions
    count      maximum number of wrong texts per row
    tags       parts of speech that are replaced (those of the released code, which include adpositions that the paper does not name)
    language   language of the captions; the first of a row is used
    positives  also write right texts
    published  wrong texts as in the released code: without punctuation, articles unchanged, words with equal probability
    spacy      name of an installed spaCy model to tag the texts, as published (en_core_web_sm); "" uses the built-in tagger
    seed       seed of the replacements
    """

    slug: ClassVar[str] = "structured_negatives"

    filler: str = ""
    count: int = 4
    tags: tuple[str, ...] = MASKED
    language: str = "en"
    positives: bool = True
    published: bool = False
    spacy: str = ""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or not self.tags or set(self.tags) - set(MASKED):
            raise ConfigError(f"count {self.count}, tags {list(self.tags)} (expected 1 or more, some of {' | '.join(MASKED)})")

    @classmethod
    def paper(cls) -> Self:
        """Wrong texts as released, of the words that the command in the release's guide names, which are no names: give a `filler` (there
        distilroberta-base), and a `spacy` tagger."""
        return cls(tags=("NOUN", "ADP", "ADJ", "VERB"), published=True)

    def plan(self, data: Dataset) -> dict[str, Any]:
        start, filler = time.perf_counter(), self._filler(data)
        rows = range(0, len(data), max(1, len(data) // 24))
        for row in rows:
            self._wrong(data[row], filler)
        each = (time.perf_counter() - start) / max(1, len(rows))
        return {"items": len(data), "unit": "caption", "seconds_each": each, "seconds": each * len(data)}

    def __call__(self, data: Dataset) -> CurationStepResult:
        start, filler = time.perf_counter(), self._filler(data)
        wrong, right = {}, {}
        for sample in with_bar(_in_order(data), len(data), "replacing words", least=1_000):
            if made := self._wrong(sample, filler):
                wrong[sample.uid] = made
            if self.positives and (caption := self._caption(sample)) and (alike := analogies(caption)):
                right[sample.uid] = alike[int(keyed_rng("analogy", self.seed, sample.uid).integers(len(alike)))]
        if len(data) and not wrong:
            raise DataError(
                f"no caption of '{data.name}' has a word that can be replaced",
                field="texts",
                expected=f"captions in language '{self.language}' with a {' or '.join(self.tags)}, or a --filler that proposes words",
            )
        columns = {NEGATIVES: wrong} | ({POSITIVE: right} if right else {})
        return CurationStepResult(tuple(sorted(data.uids)), (), columns, time.perf_counter() - start)

    def _caption(self, sample: Sample) -> str:
        return next((text.string for text in sample.positives(self.language)), "")

    def _wrong(self, sample: Sample, filler: Filler) -> list[str]:
        caption = self._caption(sample)
        rng = keyed_rng("structured", self.seed, sample.uid)
        made = masked_as_released if self.published else replaced_by_model
        tagger = spacy_tagger(self.spacy) if self.spacy else tag
        return made(caption, rng, filler, count=self.count, tags=self.tags, tagger=tagger) if caption else []

    def _filler(self, data: Dataset) -> Filler:
        if self.filler:
            return fill_mask(self.filler)
        return NeighbourCounts(caption for sample in _in_order(data) if (caption := self._caption(sample)))


def fill_mask(folder: str) -> Filler:
    """Returns a function for the five most likely words of a local masked language model. Raises ConfigError if the folder has
    none."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"filler '{folder}' cannot be opened: {error} (expected a folder of a fill-mask model)") from error
    ask = pipeline("fill-mask", model=model, tokenizer=tokenizer, top_k=OFFERED)

    def words(left: str, right: str) -> list[str]:
        return [str(answer["token_str"]).strip() for answer in ask(f"{left}{tokenizer.mask_token}{right}")]

    return words


def _in_order(data: Dataset) -> Iterator[Sample]:
    """Rows in order of uid, so the result does not depend on their order in the data."""
    return (data[row] for row in sorted(range(len(data)), key=data.uids.__getitem__))
