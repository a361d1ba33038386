"""Rounds of RLAIF-V: a model answers, its answers are divided into statements and judged, and pairs of them are learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from diptych.core.contracts import Dataset, Run, Trainer
from diptych.core.disk.line_log import LineLog
from diptych.core.errors import ConfigError, DataError
from diptych.core.image import ImageSource
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.core.terminal.signals import check_stop
from diptych.curate.preferences.mining import (
    AnswerPair,
    PairOptions,
    answer_score,
    balance_lengths,
    sampled_pairs,
    scored_pairs,
)
from diptych.curate.preferences.statements import RuleSplitter, StatementSplitter, WrittenSplitter
from diptych.curate.preferences.yes_no import FirstTokenScorer, YesNoLabeler
from diptych.curate.writing.backend_address import BackendOptions, open_backend
from diptych.curate.writing.requests import Sampling
from diptych.data.text.question_answering.preferences import (
    PREFERENCE_FIELD,
    PreferencePair,
    distinct_pair,
    holds_answers,
    preference_of,
)
from diptych.data.text.question_answering.questions import questions_of
from diptych.recipes._shared.language.language_model_recipe import open_once
from diptych.recipes._shared.language.preference_config import CandidateOptions, LabelOptions
from diptych.recipes._shared.language.preference_pairs import PreferencePairRecipe
from diptych.recipes._shared.language.readable_samples import readable_samples

SPLITTING = Sampling(temperature=0.2, top_p=0.9, max_tokens=256, stop=())
"""As the released splitter samples."""


@dataclass(frozen=True, slots=True)
class ImageInstruction:
    """A request about an image. key: unique in the data"""

    key: str
    sample: Sample
    text: str


@dataclass(frozen=True)
class GivenPairs:
    """`Stage.make` of a phase on the pairs that the data hold, in whatever layout; those with log-probabilities of a reference keep them,
    where all have them. A row of which no pair can be read, or whose answers are the same, is left out of the run."""

    recipe: PreferencePairRecipe

    def __call__(self, run: Run) -> Sequence[Sample]:
        data, pairs, reasons = run.whole_data, list[Sample](), dict[str, str]()
        for row in range(len(data)):
            sample = data[row]
            if not holds_answers(sample):
                continue
            try:
                pairs.append(replace(sample, extras={PREFERENCE_FIELD: distinct_pair(sample).to_json()}))
            except DataError as error:
                reasons[sample.uid] = str(error)
        run.leave_out(reasons)
        if pairs and all(preference_of(sample).reference for sample in pairs):
            return pairs
        return self.recipe.with_references(cast(Trainer, run), pairs)


@dataclass(frozen=True)
class PreferenceRound:
    """`Stage.make` of one round: instructions, candidates, statements, labels, scores, pairs, length balance, reference.

    Candidates and labels of `at_once` instructions are written to a file as soon as they are there. A run that is stopped goes on behind
    the last of them and ends in the same pairs: random numbers are keyed by round and instruction.
    """

    recipe: PreferencePairRecipe
    number: int
    candidates: CandidateOptions
    labels: LabelOptions
    mining: PairOptions

    def __call__(self, run: Run) -> Sequence[Sample]:
        trainer = cast(Trainer, run)
        seed = torch.initial_seed()
        judged = list(self._judged(trainer, seed))
        pairs = self.mined(judged, seed)
        kept, balance = balance_lengths(
            pairs, self.mining.balance, texts=lambda pair: (pair[1].chosen_text, pair[1].rejected_text)
        )
        trainer.log(
            "pairs",
            round=self.number,
            instructions=len(judged),
            pairs=len(kept),
            left_out=balance.left_out,
            ratio=balance.ratio,
            chosen_words=balance.chosen_words,
            rejected_words=balance.rejected_words,
        )
        if not kept:
            raise ConfigError(self._no_pair(judged, len(pairs)))
        samples = [self._sample(instruction, pair, index) for index, (instruction, pair) in enumerate(kept)]
        return self.recipe.with_references(trainer, samples)

    def _no_pair(self, judged: Sequence[tuple[ImageInstruction, dict[str, Any]]], pairs: int) -> str:
        """Message of a round with nothing to learn from: counts of answers, statements and pairs."""
        answers = [answer for _, row in judged for answer in row["answers"]]
        empty = sum(not answer.strip() for answer in answers)
        silent = sum(not questions for _, row in judged for questions in row["questions"]) - empty
        scores = [score for _, row in judged for score in row["yes_no"] if score]
        least = f"scores differ by {self.mining.difference:g} or more in {pairs} pairs, of which none is left after the balance"
        return (
            f"'{self.recipe.slug}' found no pair of answers to learn from in round {self.number}: of {len(answers)} answers to "
            f"{len(judged)} instructions {empty} are empty and {silent} state nothing, the others have "
            f"{sum(map(len, scores))} statements, {sum(yes > no for score in scores for yes, no in score)} of them judged true; {least} "
            "(expected some: more candidates or instructions, a higher temperature, a smaller difference with soft scores, or a model "
            "that is trained for longer first)"
        )

    def instructions(self, data: Dataset, seed: int) -> list[ImageInstruction]:
        """The requests of this round: one an image where the recipe has a request, else every question of it."""
        listed = []
        for row in range(len(data)):
            sample = data[row]
            if sample.image is None:
                continue
            asked = [self.recipe.request] if self.recipe.request else [question.text for question in questions_of(sample)]
            listed += [ImageInstruction(f"{sample.uid}-{number}", sample, text) for number, text in enumerate(asked)]
        if not listed:
            raise ConfigError(f"'{data.name}' has no image with a question (expected questions, or a request)")
        most = self.candidates.instructions
        if most and most < len(listed):
            chosen = keyed_rng("instructions", seed).choice(len(listed), most, replace=False)
            listed = [listed[index] for index in sorted(chosen.tolist())]
        return listed

    def _judged(self, run: Trainer, seed: int) -> Iterator[tuple[ImageInstruction, dict[str, Any]]]:
        listed, size = self.instructions(run.whole_data, seed), self.candidates.at_once
        run.scratch.mkdir(parents=True, exist_ok=True)
        about = {
            "round": self.number,
            "seed": seed,
            "step": run.step,
            "instructions": len(listed),
            "data": run.whole_data.fingerprint,
        }
        model = self.recipe.deploy_plain(run.model.eval())
        labeler = YesNoLabeler(self._labeler(model), self.labels.label_prompt)
        splitter = self.splitter()
        starts = range(0, len(listed), size)
        with LineLog(run.scratch / "candidates.jsonl", about) as log:
            for start in with_bar(starts, len(starts), f"candidates of round {self.number}"):
                some = listed[start : start + size]
                readable = readable_samples(run, [one.sample for one in some if one.key not in log])
                some = [one for one in some if one.key in log or one.sample.uid in readable]
                if readable:
                    torch.manual_seed(keyed_seed("candidates", seed, some[0].key))
                    for row in self.judge(model, labeler, splitter, some):
                        if row["id"] not in log:
                            log.write(row)
                    check_stop()
                yield from ((one, log.rows[one.key]) for one in some)

    def _labeler(self, model: Any) -> FirstTokenScorer:
        opened = open_once(self.labels.labeler) if self.labels.labeler else model
        if not isinstance(opened, FirstTokenScorer):
            raise ConfigError(
                f"labeler is {self.labels.labeler!r}, which gives no probabilities of words (expected a bridge such as llava)"
            )
        return opened

    def splitter(self) -> StatementSplitter:
        """The splitter of the options, opened."""
        options = self.labels
        if options.splitter == "rules":
            return RuleSplitter(options.most_statements)
        backend = open_backend(options.splitter, BackendOptions("", SPLITTING, lambda: ()))
        return WrittenSplitter(backend, options.prompt_words, options.first_character, options.one_to_one)

    def judge(
        self, model: Any, labeler: YesNoLabeler, splitter: StatementSplitter, some: Sequence[ImageInstruction]
    ) -> Iterator[dict[str, Any]]:
        """For each instruction its answers, the questions that their statements became, and the probabilities of yes and no for each."""
        options = self.candidates
        asked = [one for one in some for _ in range(options.candidates)]
        images: list[ImageSource | None] = [one.sample.image for one in asked]
        answers = model.generate(images, [one.text for one in asked], max_tokens=options.answer_tokens, **options.sampling())
        statements = splitter([(one.text, answer) for one, answer in zip(asked, answers, strict=True)])
        flat = [(image, entry.question) for image, entries in zip(images, statements, strict=True) for entry in entries]
        yes_no_N2 = labeler([image for image, _ in flat], [question for _, question in flat])
        cuts = np.cumsum([len(entries) for entries in statements])[:-1]
        scores = [part.tolist() for part in np.split(yes_no_N2, cuts)]
        for number, one in enumerate(some):
            own = slice(number * options.candidates, (number + 1) * options.candidates)
            questions = [[entry.question for entry in entries] for entries in statements[own]]
            yield {"id": one.key, "answers": answers[own], "questions": questions, "yes_no": scores[own]}

    def mined(
        self, judged: Sequence[tuple[ImageInstruction, dict[str, Any]]], seed: int
    ) -> list[tuple[ImageInstruction, AnswerPair]]:
        """Pairs of each instruction by the scores of its answers; answers without statements take no part."""
        pairs = []
        for instruction, row in judged:
            usable = [index for index, questions in enumerate(row["questions"]) if questions]
            scores = [answer_score(row["yes_no"][index], soft=self.mining.soft) for index in usable]
            some = [
                AnswerPair(usable[better], usable[worse], row["answers"][usable[better]], row["answers"][usable[worse]])
                for better, worse in scored_pairs(scores, self.mining.difference)
            ]
            drawn = sampled_pairs(some, self.mining.most, keyed_rng("pairs", seed, instruction.key))
            pairs += [(instruction, pair) for pair in drawn]
        return pairs

    def _sample(self, instruction: ImageInstruction, pair: AnswerPair, number: int) -> Sample:
        stored = PreferencePair(instruction.text, pair.chosen_text, pair.rejected_text).to_json()
        sample = instruction.sample
        return replace(
            sample,
            uid=f"{instruction.key}-r{self.number}-{number}",
            group=sample.group or sample.uid,
            extras={PREFERENCE_FIELD: stored},
        )
