"""Loss of a language model's answer under a prompt assembled from segments, and its gradient over the candidates of each segment.

A prompt is a sequence of parts: fixed texts, and slots filled by one of several candidate texts. Every part is tokenised
separately, so exchanging a segment leaves all other tokens unchanged. Prompts of a batch are left-padded with a token that occurs
in no text.

Letters: P prompts, L tokens, N candidates of a slot, D width, T tokens of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from diptych.core.errors import ConfigError

Choice = Mapping[str, int]
"""Index of the chosen candidate by slot."""
Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SegmentQuestion:
    """Training question: the texts around the segments, and its answer.

    parts   texts in order; `Slot` where a segment goes
    target  the answer that is to follow
    """

    parts: tuple[str | Slot, ...]
    target: str


@dataclass(frozen=True, slots=True)
class Slot:
    """Slot of a prompt that a segment fills, by name."""

    name: str


@dataclass
class SegmentObjective:
    """Mean cross-entropy of the answers' tokens, over questions.

    model       a causal language model of transformers, or what is called like one: `inputs_embeds`, `attention_mask`, `position_ids`
    encode      a text's tokens, without marks
    candidates  texts of each slot, two at least
    start_ids   tokens in front of every prompt
    longest     tokens beyond which a gradient counts as nothing; 0 has no such bound
    forwards    prompts that went through the model for their loss, so far; `gradients` those whose gradient was taken
    """

    model: Any
    encode: Callable[[str], Sequence[int]]
    candidates: Mapping[str, Sequence[str]]
    start_ids: Tokens = ()
    longest: int = 0
    forwards: int = 0
    gradients: int = 0
    _tokens: dict[str, Tokens] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, texts in self.candidates.items():
            if len(texts) < 2 or len(set(texts)) < len(texts):
                raise ConfigError(
                    f"slot '{name}' has {len(set(texts))} different candidates of {len(texts)} (expected two or more)"
                )

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(self.candidates)

    # ------------------------------------------------------------ loss

    @torch.no_grad()
    def losses(self, choices: Sequence[Choice], questions: Sequence[SegmentQuestion]) -> Tensor:
        """Mean loss of each choice over the questions, [P]."""
        losses = [self.prompt_losses([self.prompt(choice, question) for choice in choices], question) for question in questions]
        return torch.stack(losses).mean(0)

    @torch.no_grad()
    def prompt_losses(self, prompts: Sequence[Tokens], question: SegmentQuestion) -> Tensor:
        """Loss of the question's answer after each prompt, [P]."""
        target = self._target(question)
        embeds_PLD, mask_PL = self.embedded([(*prompt, *target) for prompt in prompts])
        self.forwards += len(prompts)
        return self._loss(embeds_PLD, mask_PL, target)

    def _loss(self, embeds_PLD: Tensor, mask_PL: Tensor, target: Tokens) -> Tensor:
        place_PL = (mask_PL.cumsum(1) - 1).clamp(min=0)
        logits_PLV = self.model(inputs_embeds=embeds_PLD, attention_mask=mask_PL, position_ids=place_PL).logits
        logits_PTV = logits_PLV[:, -len(target) - 1 : -1]
        target_PT = torch.tensor(target, device=logits_PTV.device).expand(len(embeds_PLD), -1)
        exact_PTV = logits_PTV.to(torch.promote_types(logits_PTV.dtype, torch.float32))
        return nn.functional.cross_entropy(exact_PTV.transpose(1, 2), target_PT, reduction="none").mean(1)

    # ------------------------------------------------------------ gradient

    def gradient(self, choice: Choice, question: SegmentQuestion, slot: str, *, at: int | None = None) -> Tensor:
        """dloss/dx [N], x the one-hot choice of the slot's candidate, the other slots as in `choice`; not normalised.

        The prompts of all N candidates are padded to one length and embedded; the loss is taken at candidate `at` (by default that of
        `choice`) of x @ embeddings. Entry i is the derivative of the loss along the embedding of candidate i.
        """
        target = self._target(question)
        prompts = [(*self.prompt({**choice, slot: i}, question), *target) for i in range(len(self.candidates[slot]))]
        embeds_NLD, mask_NL = self.embedded(prompts)
        if self.longest and embeds_NLD.shape[1] > self.longest:
            return torch.zeros(len(prompts), device=embeds_NLD.device)
        chosen = choice[slot] if at is None else at
        with torch.enable_grad():
            x_N = nn.functional.one_hot(torch.tensor(chosen), len(prompts)).to(embeds_NLD).requires_grad_()
            mixed_LD = torch.einsum("n,nld->ld", x_N, embeds_NLD.detach())
            loss = self._loss(mixed_LD[None], mask_NL[chosen : chosen + 1], target).sum()
            (grad_N,) = torch.autograd.grad(loss, x_N)
        self.gradients += 1
        return grad_N.detach()

    # ------------------------------------------------------------ tokens

    def prompt(self, choice: Choice, question: SegmentQuestion) -> Tokens:
        """Tokens of a question's prompt under a choice, without the answer."""
        return (*self.start_ids, *(token for tokens in self.parts(choice, question) for token in tokens))

    def parts(self, choice: Choice, question: SegmentQuestion) -> list[Tokens]:
        """Tokens of each part of a question's prompt."""
        texts = [self.candidates[part.name][choice[part.name]] if isinstance(part, Slot) else part for part in question.parts]
        return [self.ids(text) for text in texts]

    def ids(self, text: str) -> Tokens:
        """Token ids of a text, cached."""
        if text not in self._tokens:
            self._tokens[text] = tuple(self.encode(text))
        return self._tokens[text]

    def _target(self, question: SegmentQuestion) -> Tokens:
        target = self.ids(question.target)
        if not target:
            raise ConfigError("a question has no answer (expected a target of one token or more)")
        return target

    def embedded(self, rows: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """Embeddings [P, L, D] of left-padded token rows, and their mask [P, L]."""
        table: nn.Module = self.model.get_input_embeddings()
        device = next(table.parameters()).device
        longest, taken = max(map(len, rows)), {token for row in rows for token in row}
        pad = next((token for token in range(len(table.weight)) if token not in taken), 0)  # type: ignore[arg-type]  # of an embedding
        ids_PL = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in rows], device=device)
        mask_PL = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        embeds_PLD: Tensor = table(ids_PL)
        return embeds_PLD, mask_PL
