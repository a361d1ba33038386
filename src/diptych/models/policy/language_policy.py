"""Language model as a policy over tokens, with a separate value model.

Letters: N rows, E episodes (answers), P tokens per prompt, L tokens per answer, V vocabulary, D width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.models.bridges.language_model import LanguageModel


@dataclass(frozen=True, slots=True)
class ActionLogits:
    """Logits of the next token at one position of each row, and the value of the state there."""

    logit_NV: Rows[Tensor]
    value_N: Rows[Tensor]


class LanguagePolicy(nn.Module):
    """Policy with a second language model whose linear head without bias predicts the value of a state (RL4LMs, 2210.01241).

    Both start from the same language model and share no weights. `dropout` False keeps both in evaluation mode, so that the ratio
    to the rollout policy is 1 before the first update.
    """

    def __init__(self, policy: LanguageModel, *, dropout: bool = False) -> None:
        super().__init__()
        self.policy, self.dropout = policy, dropout
        self.value_model = value_model(policy)
        self.value_head = nn.Linear(policy.width, 1, bias=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and self.dropout)

    def forward(self, prompt_EP: Tensor, there_EP: Tensor, answer_EL: Tensor, episode_N: Tensor, place_N: Tensor) -> ActionLogits:
        """Return the logits of the next token at `place_N` of answer `episode_N`, given the tokens before it,
        and the value of that state. An answer is computed once for all of its tokens, unless there are fewer rows than answers.
        """
        given = (prompt_EP, there_EP, answer_EL)
        if len(episode_N) < len(answer_EL):
            given = (prompt_EP[episode_N], there_EP[episode_N], answer_EL[episode_N])
            episode_N = torch.arange(len(episode_N), device=episode_N.device)
        logit_ELV = answer_logits(self.policy, *given)
        return ActionLogits(logit_ELV[episode_N, place_N], self.values(*given)[episode_N, place_N])

    def values(self, prompt_NP: Tensor, there_NP: Tensor, answer_NL: Tensor) -> Tensor:
        """Return values [N, L] of the states before each token of the answers."""
        given = model_inputs(self.policy, prompt_NP, there_NP, answer_NL)
        hidden_NLD = self.value_model(**given).last_hidden_state[:, -answer_NL.shape[1] :]
        value_NL: Tensor = self.value_head(hidden_NLD)[..., 0]
        return value_NL


def value_model(policy: LanguageModel) -> Any:
    """Return a copy of the language model without its word head."""
    if not policy.reads_and_writes:
        return copy.deepcopy(policy.inner.base_model)
    made = transformers.AutoModel.from_config(policy.inner.config)
    made.load_state_dict({name: value for name, value in policy.inner.state_dict().items() if name in made.state_dict()})
    return made


def model_inputs(model: LanguageModel, prompt_NP: Tensor, there_NP: Tensor, answer_NL: Tensor) -> dict[str, Any]:
    """Return arguments for transformers such that the last L states are those before each token of the answers.

    A decoder reads prompt and answer, the decoder of an encoder-decoder its start token and the answer; neither reads the last
    token of an answer. Prompts are padded on the left, answers on the right: later tokens do not affect earlier ones.
    """
    if model.reads_and_writes:
        start = int(model.inner.config.decoder_start_token_id)
        decoder_NL = torch.cat([torch.full_like(answer_NL[:, :1], start), answer_NL[:, :-1]], 1)
        return {"input_ids": prompt_NP, "attention_mask": there_NP.long(), "decoder_input_ids": decoder_NL, "use_cache": False}
    ids_NS = torch.cat([prompt_NP, answer_NL[:, :-1]], 1)
    there_NS = torch.cat([there_NP, torch.ones_like(answer_NL[:, :-1], dtype=torch.bool)], 1)
    given: dict[str, Any] = {"input_ids": ids_NS, "attention_mask": there_NS.long(), "use_cache": False}
    if model._takes_positions:
        given["position_ids"] = (there_NS.long().cumsum(1) - 1).clamp_min(0)
    return given


def answer_logits(model: LanguageModel, prompt_NP: Tensor, there_NP: Tensor, answer_NL: Tensor) -> Tensor:
    """Return logits [N, L, V] for each token of the answers, given the prompt and the tokens before it."""
    given = model_inputs(model, prompt_NP, there_NP, answer_NL)
    length = answer_NL.shape[1]
    if model._takes_columns and not model.reads_and_writes:
        given["logits_to_keep"] = length
    logit_NLV: Tensor = model.inner(**given).logits[:, -length:]
    return logit_NLV
