"""Sampled answers of a language model, with the mask of the allowed tokens at each position.

Letters: B prompts, P tokens per prompt, L tokens per answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.models.bridges.key_value_cache import cache_arguments, cache_of
from diptych.models.bridges.language_model import LanguageModel
from diptych.models.io.inference import evaluating

Mask = Callable[[Tensor], Tensor]
"""Logits [B, V] -> True [B, V] where a token is allowed."""
Draw = Callable[[Tensor], Tensor]
"""Logits [B, V], -inf for tokens that are not allowed -> tokens [B]."""


@dataclass(frozen=True, slots=True)
class SampledAnswers:
    """Answers [B, L], padded after their end.

    chosen_BL  True where a token was sampled, including the end token
    mask_BLV   True where a token was allowed; None if all were
    """

    ids_BL: Tensor
    chosen_BL: Tensor
    mask_BLV: Tensor | None


@dataclass(frozen=True, slots=True)
class SamplingRules:
    """Rules of sampling an answer.

    end_id, pad_id  end token, and the padding after it
    max_tokens  maximal length of an answer, including the end token
    min_tokens  the end token is not allowed before this many others
    """

    end_id: int
    pad_id: int
    max_tokens: int
    min_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.min_tokens <= self.max_tokens or self.max_tokens < 1:
            raise ConfigError(
                f"answers of {self.min_tokens} to {self.max_tokens} tokens (expected 1 token or more, and no more at least than at most)"
            )


@torch.no_grad()
def sample_answers(
    model: LanguageModel,
    prompt_BP: Tensor,
    there_BP: Tensor,
    rules: SamplingRules,
    draw: Draw,
    *,
    mask_model: LanguageModel | None = None,
    mask: Mask | None = None,
    narrowed: Mask | None = None,
) -> SampledAnswers:
    """Sample one answer to each prompt (padded on the left).

    mask       allowed tokens, from the logits of `mask_model` (default: the model itself)
    narrowed   further restriction of these, such as top-k, from the model's logits with -inf elsewhere
    """
    batch, device = len(prompt_BP), prompt_BP.device
    ids_BL = torch.full((batch, rules.max_tokens), rules.pad_id, dtype=torch.int64, device=device)
    chosen_BL = torch.zeros_like(ids_BL, dtype=torch.bool)
    going_B = torch.ones(batch, dtype=torch.bool, device=device)
    masks: list[Tensor] = []
    with evaluating(model):
        steps = StepwiseLogits(model, prompt_BP, there_BP)
        mask_steps = StepwiseLogits(mask_model, prompt_BP, there_BP) if mask_model is not None and mask is not None else None
        last_B: Tensor | None = None
        for position in range(rules.max_tokens):
            logit_BV = steps.next(last_B)
            allowed_BV = torch.ones_like(logit_BV, dtype=torch.bool)
            if mask is not None:
                allowed_BV = mask(logit_BV if mask_steps is None else mask_steps.next(last_B))
            if position < rules.min_tokens:
                allowed_BV[:, rules.end_id] = False
            if narrowed is not None:
                allowed_BV = allowed_BV & narrowed(logit_BV.masked_fill(~allowed_BV, -torch.inf))
            masks.append(allowed_BV)
            drawn_B = draw(logit_BV.masked_fill(~allowed_BV, -torch.inf))
            last_B = torch.where(going_B, drawn_B, rules.pad_id)
            ids_BL[:, position], chosen_BL[:, position] = last_B, going_B
            going_B = going_B & (drawn_B != rules.end_id)
            if not bool(going_B.any()):
                break
    if mask is None and narrowed is None and not rules.min_tokens:
        return SampledAnswers(ids_BL, chosen_BL, None)
    unreached = [torch.ones_like(masks[0])] * (rules.max_tokens - len(masks))
    return SampledAnswers(ids_BL, chosen_BL, torch.stack([*masks, *unreached], 1))


@dataclass
class StepwiseLogits:
    """Step-by-step logits of the next token, with a key-value cache."""

    model: LanguageModel
    prompt_BP: Tensor
    there_BP: Tensor
    _cache: Any = field(default=None, init=False)
    _encoded: Any = field(default=None, init=False)

    def next(self, last_B: Tensor | None) -> Tensor:
        """Return logits [B, V] after the last sampled token; None at the start."""
        if self.model.reads_and_writes:
            return self._decoded(last_B)
        self.there_BP = self.there_BP if last_B is None else torch.cat([self.there_BP, torch.ones_like(self.there_BP[:, :1])], 1)
        ids = self.prompt_BP if last_B is None else last_B[:, None]
        given: dict[str, Any] = {"input_ids": ids, "attention_mask": self.there_BP.long()}
        if self.model._takes_positions:
            given["position_ids"] = (self.there_BP.long().cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
        output = self.model.inner(**cache_arguments(self._cache), **given)
        self._cache = cache_of(output)
        logit_BV: Tensor = output.logits[:, -1]
        return logit_BV

    def _decoded(self, last_B: Tensor | None) -> Tensor:
        if self._encoded is None:
            self._encoded = self.model.inner.get_encoder()(input_ids=self.prompt_BP, attention_mask=self.there_BP.long())
        start = int(self.model.inner.config.decoder_start_token_id)
        ids_B1 = torch.full_like(self.prompt_BP[:, :1], start) if last_B is None else last_B[:, None]
        output = self.model.inner(
            encoder_outputs=self._encoded, attention_mask=self.there_BP.long(), decoder_input_ids=ids_B1,
            **cache_arguments(self._cache),
        )  # fmt: skip
        self._cache = cache_of(output)
        logit_BV: Tensor = output.logits[:, -1]
        return logit_BV
