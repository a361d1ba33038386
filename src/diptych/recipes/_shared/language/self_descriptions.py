"""Samples that a model makes of its own descriptions (STIC, 2405.19716): pairs of a careful and a careless one, questions behind one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from diptych.core.contracts import Dataset, Run, Trainer
from diptych.core.disk.line_log import LineLog
from diptych.core.errors import ConfigError
from diptych.core.image import ArrayImage, ImageSource
from diptych.core.randomness import keyed_rng, keyed_seed
from diptych.core.sample import Sample
from diptych.core.terminal.progress import with_bar
from diptych.core.terminal.signals import check_stop
from diptych.data.media.augment.corruptions import Corruption, corrupt_image
from diptych.data.media.decode import decode
from diptych.data.text.prompts.comprehension_prompts import with_description
from diptych.data.text.question_answering.preferences import PREFERENCE_FIELD, PreferencePair
from diptych.data.text.question_answering.questions import FIELD, questions_of
from diptych.recipes._shared.language.preference_config import CandidateOptions
from diptych.recipes._shared.language.preference_pairs import PreferencePairRecipe
from diptych.recipes._shared.language.readable_samples import readable_samples


@dataclass(frozen=True, slots=True)
class DescriptionRequests:
    """Requests of self-training.

    careful    asks for the preferred description
    neutral    short requests, of which one stands before both descriptions of a pair, and before a description of the second stage
    imaginative  ask for things that are not there
    imagined   share of the dispreferred descriptions that an imaginative request gives, of the clean image; the others are those of a
               corrupted image by the pair's neutral request
    shrunk     share of the corrupted images that are shrunk; the others have other colours
    side       pixels of the shorter side of a shrunk image
    """

    careful: str
    neutral: tuple[str, ...]
    imaginative: tuple[str, ...] = ()
    imagined: float = 0.5
    shrunk: float = 0.5
    side: int = 20

    def __post_init__(self) -> None:
        if not self.neutral or (self.imagined > 0 and not self.imaginative):
            raise ConfigError("neutral or imaginative has no request (expected one of each, or imagined 0)")
        if not 0 <= self.imagined <= 1 or not 0 <= self.shrunk <= 1 or self.side < 1:
            raise ConfigError(
                f"imagined {self.imagined:g}, shrunk {self.shrunk:g}, side {self.side} (expected shares, and 1 or more)"
            )


@dataclass(frozen=True, slots=True)
class CarelessPlan:
    """Draw of a dispreferred description. neutral: the pair's request; imaginative: the request that is used in its
    place, "" for none; corruption: of the image, "" for none"""

    neutral: str
    imaginative: str
    corruption: Corruption | str


def careless_plan(requests: DescriptionRequests, rng: np.random.Generator) -> CarelessPlan:
    """One draw: an imaginative request and the clean image, or the neutral request and a corrupted one."""
    neutral = str(rng.choice(requests.neutral))
    if rng.random() < requests.imagined:
        return CarelessPlan(neutral, str(rng.choice(requests.imaginative)), "")
    return CarelessPlan(neutral, "", "shrink" if rng.random() < requests.shrunk else "colours")


@dataclass(frozen=True)
class SelfMadePairs:
    """`Stage.make` of STIC's first stage: `images` of the data, each with two descriptions by the model as it is. Both stand behind the
    same neutral request, and beside the clean image. A run that is stopped goes on behind the last descriptions that it wrote down."""

    recipe: PreferencePairRecipe
    requests: DescriptionRequests
    sampling: CandidateOptions
    images: int

    def __call__(self, run: Run) -> Sequence[Sample]:
        trainer, seed = cast(Trainer, run), torch.initial_seed()
        samples = drawn_samples(run.whole_data, self.images, seed, lambda sample: sample.image is not None)
        rows = _written(
            trainer, self.recipe, samples, self.sampling, "pairs", lambda model, some: self.described(model, some, seed)
        )
        pairs = [pair for sample in samples if sample.uid in rows and (pair := self.pair(sample, rows[sample.uid])) is not None]
        words = [np.mean([len(row[side].split()) for row in rows.values()] or [0]) for side in ("chosen", "rejected")]
        trainer.log("pairs", images=len(rows), pairs=len(pairs), chosen_words=float(words[0]), rejected_words=float(words[1]))
        return self.recipe.with_references(trainer, pairs)

    def described(self, model: Any, some: Sequence[Sample], seed: int) -> Iterator[dict[str, Any]]:
        """Both descriptions of each image, with the plan by which the worse one came about."""
        options = {**self.sampling.sampling(), "max_tokens": self.sampling.answer_tokens}
        images = [sample.image for sample in some]
        rngs = [keyed_rng("careless", seed, sample.uid) for sample in some]
        plans = [careless_plan(self.requests, rng) for rng in rngs]
        careful = model.generate(images, [self.requests.careful] * len(some), **options)
        shown = [self._shown(image, plan, rng) for image, plan, rng in zip(images, plans, rngs, strict=True)]
        careless = model.generate(shown, [plan.imaginative or plan.neutral for plan in plans], **options)
        for sample, plan, chosen, rejected in zip(some, plans, careful, careless, strict=True):
            row = {"id": sample.uid, "question": plan.neutral, "chosen": chosen, "rejected": rejected}
            yield {**row, "imaginative": plan.imaginative, "corruption": plan.corruption}

    def _shown(self, image: ImageSource | None, plan: CarelessPlan, rng: np.random.Generator) -> ImageSource | None:
        if not plan.corruption or image is None:
            return image
        kind: Corruption = "shrink" if plan.corruption == "shrink" else "colours"
        return ArrayImage(
            corrupt_image(decode(image, exact=True), kind, rng, side=self.requests.side), f"{image.name}, corrupted"
        )

    def pair(self, sample: Sample, row: dict[str, Any]) -> Sample | None:
        """The pair of an image; None where a description is empty. Equal ones stay: the regulariser still learns from them."""
        chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
        if not chosen or not rejected:
            return None
        stored = PreferencePair(row["question"], chosen, rejected).to_json()
        return replace(sample, uid=f"{sample.uid}-described", group=sample.group or sample.uid, extras={PREFERENCE_FIELD: stored})


@dataclass(frozen=True)
class DescribedQuestions:
    """`Stage.make` of STIC's second stage: `rows` of the data with questions, the first question of each behind the model's own description
    of its image; rows without an image stay as they are."""

    recipe: PreferencePairRecipe
    requests: DescriptionRequests
    sampling: CandidateOptions
    rows: int

    def __call__(self, run: Run) -> Sequence[Sample]:
        trainer, seed = cast(Trainer, run), torch.initial_seed()
        samples = drawn_samples(run.whole_data, self.rows, seed, lambda sample: bool(questions_of(sample)))
        seen = [sample for sample in samples if sample.image is not None]
        rows = _written(
            trainer, self.recipe, seen, self.sampling, "descriptions", lambda model, some: self.described(model, some, seed)
        )
        usable = [sample for sample in samples if sample.image is None or sample.uid in rows]
        return [described_sample(sample, rows[sample.uid]["description"] if sample.uid in rows else "") for sample in usable]

    def described(self, model: Any, some: Sequence[Sample], seed: int) -> Iterator[dict[str, Any]]:
        """A description of each image by a neutral request."""
        asked = [str(keyed_rng("described", seed, sample.uid).choice(self.requests.neutral)) for sample in some]
        options = {**self.sampling.sampling(), "max_tokens": self.sampling.answer_tokens}
        texts = model.generate([sample.image for sample in some], asked, **options)
        yield from ({"id": sample.uid, "description": text} for sample, text in zip(some, texts, strict=True))


def described_sample(sample: Sample, description: str) -> Sample:
    """The sample with a description before the first of its questions; as it is for ""."""
    given = list(sample.extras[FIELD])
    if not description:
        return sample
    first = {**given[0], "question": with_description(str(given[0]["question"]), description)}
    return replace(sample, extras={**sample.extras, FIELD: [first, *given[1:]]})


def drawn_samples(data: Dataset, most: int, seed: int, fits: Any) -> list[Sample]:
    """`most` samples that fit, drawn without replacement, in the order of the data; all for 0. Raises ConfigError where none fits."""
    samples = [sample for row in range(len(data)) if fits(sample := data[row])]
    if not samples:
        raise ConfigError(f"'{data.name}' has no sample to describe (expected images, and questions for the second stage)")
    if not most or len(samples) <= most:
        return samples
    chosen = keyed_rng("drawn samples", seed).choice(len(samples), most, replace=False)
    return [samples[index] for index in sorted(chosen.tolist())]


def _written(
    run: Trainer, recipe: PreferencePairRecipe, samples: Sequence[Sample], options: CandidateOptions, name: str, write: Any
) -> dict[str, dict[str, Any]]:
    """The rows of `write` by uid, `at_once` at a time, read back from the stage's folder where they are there already. A sample whose image
    cannot be read is left out of the run."""
    seed, size = torch.initial_seed(), options.at_once
    run.scratch.mkdir(parents=True, exist_ok=True)
    model = recipe.deploy_plain(run.model.eval())
    about = {"seed": seed, "step": run.step, "samples": len(samples), "data": run.whole_data.fingerprint}
    starts = range(0, len(samples), size)
    with LineLog(run.scratch / f"{name}.jsonl", about) as log:
        for start in with_bar(starts, len(starts), name):
            some = samples[start : start + size]
            readable = readable_samples(run, [sample for sample in some if sample.uid not in log])
            if not readable:
                continue
            some = [sample for sample in some if sample.uid in log or sample.uid in readable]
            torch.manual_seed(keyed_seed(name, seed, some[0].uid))
            for row in write(model, some):
                if row["id"] not in log:
                    log.write(row)
            check_stop()
        return {sample.uid: log.rows[sample.uid] for sample in samples if sample.uid in log}
