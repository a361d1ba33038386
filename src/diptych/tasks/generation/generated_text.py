"""Text generation from prompts: rewards of the answers as metrics, and how natural they are."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from diptych.core.contracts import Dataset, Generator
from diptych.core.errors import ConfigError, DataError
from diptych.core.result import Metric, Result
from diptych.data.text.prompts.generation_prompts import PromptForm, prompt_and_references
from diptych.tasks._scoring.captions.metrics import words_of
from diptych.tasks._scoring.intervals import percentiles, resampled_means
from diptych.tasks._scoring.records import with_facts
from diptych.tasks._scoring.rewards.naturalness import naturalness, repetition
from diptych.tasks._scoring.rewards.reward import checked_rewards
from diptych.tasks._scoring.rewards.text_rewards import text_reward

SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("references", pa.list_(pa.string())),
        ("nll", pa.float64()),
        ("tokens", pa.int64()),
    ]
)


@dataclass(frozen=True)
class TextGeneration:
    """Answers to prompts, scored as GRUE does (Ramamurthy et al., 2022, 2210.01241): rewards beside naturalness.

    The first of `rewards` decides. Naturalness is of the answers as one corpus: perplexity under the model itself, where it gives one,
    MSTTR, distinct n-grams, entropies, vocabulary, length; and the share of word pairs that an answer repeats.

    prompts     source of the prompts: the extra "prompt", the "concepts" of the first text, its "opening", "nothing"
    rewards     names of rewards, as for a policy ("meteor", "rougeL", "increasing_numbers:20"); several are joined with "+"
    language    texts of this language or an unknown one; "" takes all
    max_tokens  maximum number of tokens of an answer
    beams       of beam search, 0 to decode as the model is set; `length_penalty` is the power of the length that scores are divided by
    window      words per segment of MSTTR
    draws, seed of the intervals
    """

    name: ClassVar[str] = "generated_text"
    version: ClassVar[int] = 1
    needs: ClassVar[type] = Generator
    main: ClassVar[str] = "reward"

    prompts: PromptForm = "concepts"
    rewards: tuple[str, ...] = ("meteor",)
    language: str = "en"
    max_tokens: int = 64
    beams: int = 0
    length_penalty: float = 1.0
    window: int = 100
    draws: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rewards:
            raise ConfigError("rewards is empty (expected one or more names, such as meteor)")
        if self.beams < 0 or self.max_tokens < 1:
            raise ConfigError(f"beams is {self.beams}, max_tokens {self.max_tokens} (expected 0 or more, and 1 or more)")

    def predict(self, model: Generator, data: Dataset) -> pa.Table:
        samples = [data[row] for row in range(len(data))]
        pairs = [prompt_and_references(sample, self.prompts, language=self.language) for sample in samples]
        prompts = [prompt for prompt, _ in pairs]
        answers = model.generate([None] * len(prompts), prompts, max_tokens=self.max_tokens, **self._decoding(model))
        nll, tokens = self._likelihoods(model, prompts, answers)
        columns = [
            [sample.uid for sample in samples],
            [sample.group or sample.uid for sample in samples],
            prompts,
            answers,
            [list(references) for _, references in pairs],
            nll,
            tokens,
        ]
        records = pa.table(dict(zip(SCHEMA.names, columns, strict=True)), schema=SCHEMA)
        return with_facts(records, options=asdict(self), fingerprint=data.fingerprint, model=getattr(model, "name", ""))

    def _decoding(self, model: Any) -> dict[str, Any]:
        if not self.beams:
            return {}
        if not any(one.kind is one.VAR_KEYWORD for one in inspect.signature(model.generate).parameters.values()):
            raise ConfigError(
                f"beams is {self.beams}, and {model.name} has no options of decoding (expected beams 0, or a model such as a run of rl4lms)"
            )
        penalty = {"length_penalty": self.length_penalty} if self.beams > 1 else {}
        return {"num_beams": self.beams, "do_sample": False, **penalty}

    @staticmethod
    def _likelihoods(model: Any, prompts: Sequence[str], answers: Sequence[str]) -> tuple[list[Any], list[Any]]:
        if not hasattr(model, "continuation_nll"):
            return [None] * len(answers), [None] * len(answers)
        nll_N, count_N = model.continuation_nll(prompts, answers)
        return nll_N.tolist(), count_N.tolist()

    def score(self, records: pa.Table) -> Result:
        if not len(records):
            raise DataError("nothing to score: the records contain no item", expected="one row or more")
        prompts, answers, references = (records.column(name).to_pylist() for name in ("prompt", "answer", "references"))
        words = [words_of(answer) for answer in answers]
        columns = {name: checked_rewards(name, text_reward(name), prompts, answers, references) for name in self.rewards}
        columns["repetition"] = np.array([repetition(one) for one in words])
        columns["empty"] = np.array([float(not one) for one in words])
        groups = records.column("group").to_pylist()
        drawn_RM = resampled_means(np.stack(list(columns.values()), 1), groups, draws=self.draws, seed=self.seed)
        metrics = {
            name: Metric(
                float(value_N.mean()),
                *percentiles(drawn_RM[:, column]),
                unit="points" if name in self.rewards else "share",
                higher_is_better=name in self.rewards,
            )
            for column, (name, value_N) in enumerate(columns.items())
        }
        metrics["reward"] = metrics[self.rewards[0]]
        metrics |= {
            f"naturalness/{name}": Metric(value, unit="points") for name, value in naturalness(words, window=self.window).items()
        }
        if not records.column("nll").null_count and sum(records.column("tokens").to_pylist()):
            per_token = sum(records.column("nll").to_pylist()) / sum(records.column("tokens").to_pylist())
            metrics["naturalness/perplexity"] = Metric(float(np.exp(per_token)), higher_is_better=False, unit="points")
        return Result(self.name, self.version, self.main, metrics, len(records), len(set(groups)))
