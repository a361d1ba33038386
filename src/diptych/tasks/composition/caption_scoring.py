"""Scores several captions of an image: by embeddings, pair scores, likelihood, or yes-no questions.

Letters: N cases, L options, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from diptych.core.contracts import Dataset, Embedder, Generator, PairScorer, Ranker
from diptych.core.errors import ConfigError, DataError
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.data.probes.case import Case, without_equals
from diptych.index.embed import UnreadableSample, check_rows, count_truncated, embed_texts, images_of, readable
from diptych.tasks._scoring.captions.choices import Floats, probe_records
from diptych.tasks._scoring.captions.text_scorers import bag_of_words, blind
from diptych.tasks._scoring.pair_scores import pair_scores
from diptych.tasks._scoring.records import with_facts

Compare = Literal["auto", "vectors", "pairs", "mean", "sum", "ask"]
Way = Literal["vectors", "pairs", "mean", "sum", "ask"]
CHOOSER: Any = Embedder | PairScorer | Ranker | Generator
"""Model types that can choose among captions."""
BLOCK = 512  # rows whose samples are held at once
SNARE = "snare"
DESCRIBE = "Question: Describe the image. Answer:"
WRITTEN = 30
"""Maximum number of answer tokens for SNARE's questions."""
_NEEDS: dict[str, Any] = {"vectors": Embedder, "pairs": PairScorer, "mean": Ranker, "sum": Ranker, "ask": Generator}


@dataclass(frozen=True)
class CaptionScoring:
    """Options of comparing a picture with captions.

    compare     "vectors" (cosine), "pairs" (`score_pairs`), "mean" or "sum" (likelihood of the caption, in nats a token or in all), "ask"
                (each caption is asked for in words; an answer with "yes" in it scores 1, another 0, as SNARE asks generators); "auto" is
                the first of pairs, vectors, mean, ask that the model can
    prompt      text before a caption whose likelihood is computed
    question    question about a caption under "ask", with one {}; or "snare": as in SNARE's release for BLIP-2, which first describes the
                picture, and then answers about each caption after its own description (`snare_question`)
    keep_equal  False drops false options that equal a true one except for case and punctuation, since no model could distinguish them; True
                keeps them, as published code does
    batch_size  number of pictures per batch
    """

    compare: Compare = "auto"
    prompt: str = ""
    question: str = "Does this describe the picture: {}? Answer yes or no."
    keep_equal: bool = False
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.compare not in get_args(Compare):
            raise ConfigError(f"compare is {self.compare!r} (expected {' | '.join(get_args(Compare))})")
        if self.question != SNARE and self.question.count("{}") != 1:
            raise ConfigError(f"question is {self.question!r} (expected one {{}} where the caption stands, or {SNARE!r})")

    def way(self, model: Any) -> Way:
        """Comparison used for this model. Raises ConfigError if the model does not support it."""
        able = {way: isinstance(model, needed) for way, needed in _NEEDS.items()}
        order: tuple[Way, ...] = ("pairs", "vectors", "mean", "ask")
        if self.compare == "auto":
            first = next((way for way in order if able[way]), None)
            if first is not None:
                return first
        elif able[self.compare]:
            return self.compare
        ways = " | ".join(way for way, can in able.items() if can) or "a model that embeds, scores pairs or writes"
        raise ConfigError(f"'{getattr(model, 'name', model)}' does not support compare={self.compare} (expected {ways})")

    def records(
        self,
        model: Any,
        data: Dataset,
        cases_of: Callable[[Sample], Sequence[Case]],
        *,
        missing: str,
        trained_on: Iterable[str] = (),
        **facts: Any,
    ) -> pa.Table:
        """Returns one row per case in the order of the data, with the scores of text-only baselines.

        missing     data that this task needs, for the error message if there is no case
        trained_on  captions in which the blind scorer counts words; by default the true captions of other groups
        """
        way = self.way(model)
        cases: list[Case] = []
        scores: list[Floats] = []
        unreadable: list[UnreadableSample] = []
        positives: list[tuple[str, str]] = []
        dropped = vacuous = 0
        starts = range(0, len(data), BLOCK)
        for start in with_bar(starts, len(starts), "choosing", least=2):
            block = _RowCases(data, range(start, min(start + BLOCK, len(data))), cases_of, keep_equal=self.keep_equal)
            dropped, vacuous = dropped + block.dropped, vacuous + block.vacuous
            if not block.samples:
                continue
            good, scores_of, bad = readable(partial(self._scores, model, way, block.cases), block.samples)
            unreadable += bad
            for sample, each in zip(good, scores_of, strict=True):
                cases += block.cases[sample.uid]
                scores += each
                texts = [text.string for text in sample.positives()] or [case.true for case in block.cases[sample.uid]]
                positives += [(sample.group or sample.uid, text) for text in texts]
        if not cases and not unreadable:
            gone = f" ({vacuous} have no false option but ones that equal the true one)" if vacuous else ""
            raise DataError(f"'{data.name}' has no case for this task{gone}", field="cases", expected=missing)
        if not cases:
            raise DataError(f"no picture of '{data.name}' can be read; the first: {unreadable[0].reason}", expected="pictures")
        aside = {"blind": blind(cases, positives, trained_on), "bag_of_words": [bag_of_words(case) for case in cases]}
        left_out = [str(bad) for bad in getattr(data, "quarantine", ())]
        return with_facts(
            probe_records(cases, scores, aside),
            compare=way,
            options_equal_to_the_true_one=dropped,
            cases_without_a_false_option=vacuous,
            texts_truncated=count_truncated(model, [option for case in cases for option in case.options]),
            unreadable=[asdict(one) for one in unreadable],
            left_out_when_read=len(left_out),
            first_left_out=left_out[:5],
            **facts,
        )

    def _scores(
        self, model: Any, way: Way, chosen: Mapping[str, Sequence[Case]], samples: Sequence[Sample]
    ) -> list[list[Floats]]:
        """Scores [L] of the options of each case, by sample."""
        images = images_of(samples)
        options = [[case.options for case in chosen[sample.uid]] for sample in samples]
        if way == "vectors":
            return self._by_vectors(model, samples, options)
        if way == "pairs":
            return [
                [pair_scores(model, [image], each, query="image")[0].astype(np.float64) for each in lists]
                for image, lists in zip(images, options, strict=True)
            ]
        flat = [(image, each) for image, lists in zip(images, options, strict=True) for each in lists]
        if way == "ask":
            pictures = [image for image, each in flat for _ in each]
            if self.question == SNARE:
                described = model.generate([image for image, _ in flat], [DESCRIBE] * len(flat), max_tokens=WRITTEN)
                prompts = [
                    f"{DESCRIBE} {description}. Question: {snare_question(option)} Answer:"
                    for description, (_, each) in zip(described, flat, strict=True)
                    for option in each
                ]
            else:
                prompts = [self.question.format(option) for _, each in flat for option in each]
            answers = model.generate(pictures, prompts, max_tokens=WRITTEN if self.question == SNARE else 8)
            yes = iter([float("yes" in answer.lower()) for answer in answers])
            scores = [np.array([next(yes) for _ in each]) for _, each in flat]
        else:
            tables = model.answer_nll([image for image, _ in flat], [self.prompt] * len(flat), [list(each) for _, each in flat])
            scores = [self._likelihood(table, way) for table in tables]
        turn = iter(scores)
        return [[next(turn) for _ in lists] for lists in options]

    def _by_vectors(self, model: Any, samples: Sequence[Sample], options: list[list[tuple[str, ...]]]) -> list[list[Floats]]:
        image_ND = np.asarray(model.embed_images(images_of(samples), batch_size=self.batch_size), np.float32)
        check_rows(image_ND, [sample.uid for sample in samples], "image")
        strings = [option for lists in options for each in lists for option in each]
        names = [sample.uid for sample, lists in zip(samples, options, strict=True) for each in lists for _ in each]
        text_MD = iter(embed_texts(model, strings, names))
        scores = []
        for vector_D, lists in zip(image_ND, options, strict=True):
            rows = [np.stack([next(text_MD) for _ in each]) for each in lists]
            # Double precision, rounded once, so that equal texts tie and different ones practically never do.
            scores.append([_rounded(each_LD.astype(np.float64) @ vector_D.astype(np.float64)) for each_LD in rows])
        return scores

    @staticmethod
    def _likelihood(table_L2: npt.NDArray[np.float64], way: Way) -> Floats:
        if not np.isfinite(table_L2).all():
            raise DataError("the likelihood of a caption is not finite", expected="finite numbers")
        nats: Floats = table_L2[:, 0] / table_L2[:, 1] if way == "mean" else table_L2[:, 0]
        return -nats


def snare_question(caption: str) -> str:
    """Turns a caption into a question by the rule of SNARE's release: it searches for the substring "is", else "are", so "square"
    matches "are", and there is no space before "in".

    >>> snare_question("the cup is red and the box is blue"), snare_question("two square cups")
    ('is the cup red and the box bluein the image?', 'are two square cupsin the image?')
    """
    for verb in ("is", "are"):
        if verb in caption:
            return f"{verb} {caption.replace(f' {verb}', '')}in the image?"
    return f"are there {caption} in the image?"


class _RowCases:
    """Samples of some rows that have a picture and any case, and their cases by uid.

    dropped  options that equal a true one; vacuous  cases that had no other
    """

    def __init__(
        self, data: Dataset, rows: Iterable[int], cases_of: Callable[[Sample], Sequence[Case]], *, keep_equal: bool
    ) -> None:
        self.samples: list[Sample] = []
        self.cases: dict[str, list[Case]] = {}
        self.dropped = self.vacuous = 0
        for row in rows:
            sample = data[row]
            if sample.image is None:
                continue
            kept: list[Case] = []
            for case in cases_of(sample):
                one, gone = (case, 0) if keep_equal else without_equals(case)
                self.dropped += gone
                self.vacuous += one is None
                kept += [] if one is None else [one]
            if kept:
                self.cases[sample.uid] = kept
                self.samples.append(sample)


class CaptionScoringTask(Protocol):
    """A task with the fields of `CaptionScoring`, and a training split for the text-only baseline."""

    @property
    def compare(self) -> Compare: ...
    @property
    def prompt(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def keep_equal(self) -> bool: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def train(self) -> Any: ...


def records_of(
    task: CaptionScoringTask,
    model: Any,
    data: Dataset,
    cases_of: Callable[[Sample], Sequence[Case]],
    *,
    missing: str,
    **facts: Any,
) -> pa.Table:
    """Records by `CaptionScoring.records` with the fields of `task`, a frozen dataclass; they are noted as `options`."""
    asking = CaptionScoring(task.compare, task.prompt, task.question, task.keep_equal, task.batch_size)
    named: Any = task
    options = asdict(replace(named, train=None)) | {"train": getattr(task.train, "name", "")}
    return asking.records(model, data, cases_of, missing=missing, trained_on=captions_of(task.train), options=options, **facts)


def captions_of(data: Dataset | None) -> list[str]:
    """Captions of a training split, for the text-only baseline; empty without such a split."""
    return [] if data is None else [text.string for row in range(len(data)) for text in data[row].positives()]


def _rounded(score_L: npt.NDArray[Any]) -> Floats:
    rounded: Floats = score_L.astype(np.float32).astype(np.float64)
    return rounded
