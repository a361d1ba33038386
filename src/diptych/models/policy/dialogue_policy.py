"""Bridge as a policy over the tokens of its answers in a conversation about an image, with a separate value model.

Questions are inserted between the answers: the policy reads them, but their tokens have no loss.

Letters: B conversations, L positions of a row, M = L - 1 predicted tokens, V vocabulary, D width, T tokens of an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.rows import Rows
from diptych.data.text.prompts.layout import Layout, Piece, TokenPiece, lay_out
from diptych.models.bridges.bridge import Bridge
from diptych.models.bridges.key_value_cache import cache_arguments, cache_of
from diptych.models.bridges.language_model import LanguageVocabulary

DrawTokens = Callable[[Tensor], Tensor]
"""Logits [B, V] -> tokens [B]."""


@dataclass(frozen=True, slots=True)
class DialogueTokens:
    """log_BM    log-probability of each token after the first, at its position minus one
    entropy_BM  of the distribution that it was sampled from, nats
    value_BM    of the state before it; zeros without a value model
    """

    log_BM: Rows[Tensor]
    entropy_BM: Rows[Tensor]
    value_BM: Rows[Tensor]


class DialoguePolicy(nn.Module):
    """values  a second language model, a copy of the first, with a zero-initialised linear head for the value of a state. It
            reads the policy's image tokens, to which its loss sends no gradient
    temperature  of the distribution used for log-probabilities
    """

    def __init__(self, bridge: Bridge, *, values: bool, temperature: float = 1.0) -> None:
        super().__init__()
        self.bridge, self.temperature = bridge, temperature
        if values:
            self.value_model: Any = copy.deepcopy(bridge.language.inner.base_model)
            self.value_head = nn.Linear(bridge.language.width, 1)
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)

    def forward(self, image_BCHW: Tensor, layout: Layout) -> DialogueTokens:
        embed_BLD, _ = self.bridge.embed(self.bridge.picture(image_BCHW), layout)
        logit_BMV = self.bridge.language.inner(inputs_embeds=embed_BLD, **self._given(layout)).logits[:, :-1]
        wide = torch.promote_types(logit_BMV.dtype, torch.float32)
        log_BMV = (logit_BMV.to(wide) / self.temperature).log_softmax(-1)
        log_BM = log_BMV.gather(2, layout.id_BL[:, 1:, None])[..., 0]
        entropy_BM = -(log_BMV.exp() * log_BMV).sum(-1)
        if not hasattr(self, "value_model"):
            return DialogueTokens(log_BM, entropy_BM, torch.zeros_like(log_BM))
        state_BLD = self.value_model(inputs_embeds=embed_BLD.detach(), **self._given(layout)).last_hidden_state
        return DialogueTokens(log_BM, entropy_BM, self.value_head(state_BLD)[:, :-1, 0])

    def _given(self, layout: Layout) -> dict[str, Any]:
        mask = self.bridge.language.attention_mask(layout.mask_BL)
        return {"attention_mask": mask, "position_ids": layout.positions(), "use_cache": False}


@dataclass(frozen=True, slots=True)
class SampledDialogues:
    """rows  pieces of each conversation, answers as token ids
    answers  ids of each answer, including the end token if it was generated
    """

    rows: list[list[Piece]]
    answers: list[list[list[int]]]

    def texts(self, words: LanguageVocabulary) -> list[list[str]]:
        """Return the answers of each conversation."""
        return [[words.decode(ids) for ids in one] for one in self.answers]

    def finished(self, words: LanguageVocabulary) -> list[bool]:
        """Return True for conversations whose answers all have an end token."""
        return [all(words.end_id in ids for ids in one) for one in self.answers]


@torch.no_grad()
def sample_dialogues(
    bridge: Bridge, image_BCHW: Tensor, questions: Sequence[Sequence[Sequence[Piece]]], words: LanguageVocabulary, draw: DrawTokens,
    *, max_tokens: int,
) -> SampledDialogues:  # fmt: skip
    """Sample conversations turn by turn: append the pieces of each question to the conversation, then sample an answer.

    questions  of each conversation in order; all conversations have the same number
    max_tokens of an answer
    """
    rows = [list[Piece]() for _ in questions]
    answers = [list[list[int]]() for _ in questions]
    picture_BKD = bridge.picture(image_BCHW)
    for turn in range(len(questions[0])):
        for row, asked in zip(rows, questions, strict=True):
            row += asked[turn]
        layout = lay_out(rows, words, side="left").to(image_BCHW.device)
        embed_BLD, _ = bridge.embed(picture_BKD, layout)
        for row, given, ids in zip(rows, answers, _answers(bridge, embed_BLD, layout, words, draw, max_tokens), strict=True):
            row.append(TokenPiece(tuple(ids), answer=True))
            given.append(ids)
    return SampledDialogues(rows, answers)


def _answers(
    bridge: Bridge, embed_BLD: Tensor, layout: Layout, words: LanguageVocabulary, draw: DrawTokens, max_tokens: int
) -> list[list[int]]:
    mask_BL, positions_BL = layout.mask_BL.long(), layout.positions()
    output = bridge.language.inner(inputs_embeds=embed_BLD, attention_mask=mask_BL, position_ids=positions_BL, use_cache=True)
    going_B = torch.ones(len(mask_BL), dtype=torch.bool, device=mask_BL.device)
    columns: list[Tensor] = []
    for _ in range(max_tokens):
        token_B = torch.where(going_B, draw(output.logits[:, -1]), words.pad_id)
        columns.append(torch.where(going_B, token_B, -1))
        going_B = going_B & (token_B != words.end_id)
        if not bool(going_B.any()) or len(columns) == max_tokens:
            break
        mask_BL = torch.cat([mask_BL, torch.ones_like(mask_BL[:, :1])], 1)
        output = bridge.language.inner(
            input_ids=token_B[:, None], attention_mask=mask_BL, position_ids=mask_BL.sum(1, keepdim=True) - 1,
            **cache_arguments(cache_of(output)),
        )  # fmt: skip
    return [[token for token in row if token >= 0] for row in torch.stack(columns, 1).tolist()]
