"""Shared by recipes that write text behind prompts: rows of prompts, references, and what is deployed.

Letters: B batch, P tokens of a prompt, L tokens of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from diptych.core.contracts import Draws
from diptych.core.errors import ConfigError, DataError
from diptych.core.rows import Rows
from diptych.core.sample import Sample
from diptych.data.load.batch import TensorBatch
from diptych.data.text.prompts.generation_prompts import PromptForm, prompt_and_references
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.policy.decoding import DecodingConfig
from diptych.models.policy.prompt_rows import Truncate, prompt_rows
from diptych.models.policy.text_generator import TextGenerator
from diptych.objectives.gather import all_gather
from diptych.recipes._shared.language.language_model_recipe import LanguageModelRecipe
from diptych.recipes._shared.pairs import B, F, M


@dataclass(frozen=True)
class PromptBatch(TensorBatch):
    """Prompts, padded on the left, as ids and as text, the references of each, and its intent, 0 where the row has none."""

    prompt_BP: Rows[Tensor]
    there_BP: Rows[Tensor]
    prompts: Rows[tuple[str, ...]]
    references: Rows[tuple[tuple[str, ...], ...]]
    intents: Rows[tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class PromptedTextRecipe(LanguageModelRecipe[M, B, F]):
    """A recipe of a language model that writes behind prompts.

    prompts        where a prompt comes from: the extra "prompt", the "concepts" of the first text, its "opening", "nothing"
    prefix, suffix stand before and behind a prompt
    prompt_length  tokens of a prompt, marks among them; of a longer one the `truncate` end is cut off
    truncate       "left" or "right"
    max_tokens     of an answer, the end mark counted
    decoding       of the trained model's answers, in its evaluation too
    """

    needs: ClassVar[tuple[str, ...]] = ("texts",)

    prompts: PromptForm = "concepts"
    prefix: str = ""
    suffix: str = ""
    prompt_length: int = 64
    truncate: Truncate = "left"
    max_tokens: int = 48
    decoding: DecodingConfig = field(default_factory=DecodingConfig)

    def __post_init__(self) -> None:
        if self.prompt_length < 1 or self.max_tokens < 1:
            raise ConfigError(f"prompt_length is {self.prompt_length}, max_tokens {self.max_tokens} (expected 1 or more)")

    @property
    def decode_size(self) -> int | None:
        return None

    def load(self, sample: Sample, rng: np.random.Generator) -> Mapping[str, Any]:
        return {}

    def prompt_batch(self, draws: Draws) -> PromptBatch:
        """Prompts and references of drawn samples."""
        pairs = [prompt_and_references(draw.sample, self.prompts, language=self.language) for draw in draws]
        texts = tuple(f"{self.prefix}{prompt}{self.suffix}" for prompt, _ in pairs)
        prompt_BP, there_BP = prompt_rows(texts, self.words(), length=self.prompt_length, truncate=self.truncate)
        intents = tuple(_intent(draw.sample) for draw in draws)
        return PromptBatch(prompt_BP, there_BP, texts, tuple(references for _, references in pairs), intents)

    def referred(self, draws: Draws) -> None:
        """Raises DataError for a sample without a reference."""
        for draw in draws:
            if not prompt_and_references(draw.sample, self.prompts, language=self.language)[1]:
                raise DataError(f"sample '{draw.sample.uid}' has no reference", field="texts", expected="a text to learn from")

    def language_policy(self) -> LanguageModel:
        """The language model that is tuned."""
        return LanguageModel.from_folder(self.language_path)

    def generator(self, model: LanguageModel) -> TextGenerator:
        """The tuned model ready for use."""
        return TextGenerator(
            model,
            self.words(),
            self.slug,
            prefix=self.prefix,
            suffix=self.suffix,
            length=self.prompt_length,
            truncate=self.truncate,
            decoding=self.decoding,
        )


def without_shared_padding(batch: PromptBatch) -> PromptBatch:
    """The batch without the columns that are padding in every prompt of all processes."""
    longest = batch.there_BP.any(0).sum()
    width = max(1, int(all_gather(longest[None]).max()))
    return replace(batch, prompt_BP=batch.prompt_BP[:, -width:], there_BP=batch.there_BP[:, -width:])


def _intent(sample: Sample) -> int:
    given = sample.extras.get("intent")
    if given is None or given == "":
        return 0
    try:
        intent = int(str(given))
    except ValueError:
        intent = 0
    if intent < 1:
        raise DataError(f"sample '{sample.uid}' has intent {given!r}", field="intent", expected="a whole number from 1")
    return intent
