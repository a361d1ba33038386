"""Prompt segment search: greedy by gradient (GSPO), random edits, a coordinate sweep, and single-token edits.

GSPO (Li et al., 2024, arXiv 2410.21411) takes the gradient of the loss over the one-hot choice of every slot, normalises it for
each question, sums over a batch of questions, tries the `top` most promising candidates of each slot as edits of the current
prompt, and keeps the edit with the lowest exact loss. All searches count their cost in forward passes of one prompt; a gradient
counts as three.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from diptych.core.errors import ConfigError
from diptych.pipelines._social.segment_objective import Choice, SegmentObjective, SegmentQuestion, Slot, Tokens

GRADIENT_COST = 3
"""Cost of a gradient in forward passes: one forward, and a backward pass that counts as two."""
Rng = np.random.Generator


@dataclass(frozen=True, slots=True)
class SearchStep:
    """forwards  spent so far, gradients included; `loss` and `choice` of the prompt that is kept"""

    forwards: int
    loss: float
    choice: dict[str, int]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Best evaluated choice, its loss, and the search history."""

    choice: dict[str, int]
    loss: float
    steps: tuple[SearchStep, ...]

    def loss_within(self, forwards: int) -> float:
        """Lowest loss reached within `forwards` forward passes."""
        return min((step.loss for step in self.steps if step.forwards <= forwards), default=float("inf"))


@dataclass(frozen=True)
class SegmentSearch:
    """Settings of GSPO.

    steps      at most
    top        candidates of each slot that are evaluated (K)
    questions  drawn for each step; 0 takes all
    expand     where gradients are taken: at the "current" candidate of the slot, or at a "random" one, as released
    unit_norm  gradients are normalised for each "question", or only their sum over the "batch", as released for one model
    incumbent  the present prompt is among the candidates; False accepts the best edit even where it is worse, as released
    budget     forwards after which it ends; 0 has no such bound
    """

    steps: int = 500
    top: int = 3
    questions: int = 8
    expand: Literal["current", "random"] = "current"
    unit_norm: Literal["question", "batch"] = "question"
    incumbent: bool = True
    budget: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.top < 1 or self.questions < 0 or self.expand not in ("current", "random"):
            raise ConfigError(
                f"steps {self.steps}, top {self.top}, questions {self.questions}, expand {self.expand!r} "
                "(expected 1 or more, 1 or more, 0 or more, current | random)"
            )

    @classmethod
    def released(cls) -> SegmentSearch:
        """Settings of the released code: gradients at random candidates, only their sum is normalised, and the best edit is
        accepted even if it is worse."""
        return cls(expand="random", unit_norm="batch", incumbent=False)

    def run(self, objective: SegmentObjective, questions: Sequence[SegmentQuestion], start: Choice, rng: Rng) -> SearchResult:
        """The best prompt of the search. Losses of a step are those over its own questions."""

        def edits(current: Choice, batch: Sequence[SegmentQuestion]) -> list[dict[str, int]]:
            scores = self.scores(objective, batch, current, rng)
            return gradient_edits(current, scores, self.top)

        return _search(objective, questions, start, rng, edits, self, ahead=GRADIENT_COST * len(objective.slots))

    def scores(
        self, objective: SegmentObjective, questions: Sequence[SegmentQuestion], current: Choice, rng: Rng
    ) -> dict[str, Tensor]:
        """For each slot the sum over questions of normalised gradients [N]; lower is more promising."""
        scores: dict[str, Tensor] = {}
        for slot, texts in objective.candidates.items():
            total_N = torch.zeros(len(texts))
            for question in questions:
                at = int(rng.integers(len(texts))) if self.expand == "random" else None
                gradient_N = objective.gradient(current, question, slot, at=at).cpu()
                total_N += unit(gradient_N) if self.unit_norm == "question" else gradient_N
            scores[slot] = total_N if self.unit_norm == "question" else unit(total_N)
        return scores


def unit(gradient_N: Tensor) -> Tensor:
    """A gradient at norm 1; zeros stay zeros."""
    norm = gradient_N.norm()
    unit_N: Tensor = gradient_N / norm.clamp(min=torch.finfo(gradient_N.dtype).tiny)
    return unit_N


def gradient_edits(current: Choice, scores: dict[str, Tensor], top: int) -> list[dict[str, int]]:
    """Single-segment edits: of each slot the candidates with the `top` lowest scores."""
    edits = []
    for slot, score_N in scores.items():
        for candidate in (-score_N).topk(min(top, len(score_N))).indices.tolist():
            edits.append({**current, slot: candidate})
    return edits


def random_edits(
    objective: SegmentObjective, questions: Sequence[SegmentQuestion], start: Choice, rng: Rng, settings: SegmentSearch
) -> SearchResult:
    """Random search baseline: as many single-segment edits per step as GSPO evaluates, without gradients."""

    def edits(current: Choice, batch: Sequence[SegmentQuestion]) -> list[dict[str, int]]:
        slots = [slot for slot in objective.slots for _ in range(settings.top)]
        return [{**current, slot: int(rng.integers(len(objective.candidates[slot])))} for slot in slots]

    return _search(objective, questions, start, rng, edits, settings)


def coordinate_sweep(
    objective: SegmentObjective, questions: Sequence[SegmentQuestion], start: Choice, rng: Rng, settings: SegmentSearch
) -> SearchResult:
    """Coordinate search: tries all candidates slot by slot; ends after a round without a change, or when the budget is spent."""
    turns = _turns(objective.slots)

    def edits(current: Choice, batch: Sequence[SegmentQuestion]) -> list[dict[str, int]]:
        slot = next(turns)
        return [
            {**current, slot: candidate} for candidate in range(len(objective.candidates[slot])) if candidate != current[slot]
        ]

    return _search(objective, questions, start, rng, edits, replace(settings, incumbent=True), patience=len(objective.slots))


def _turns(slots: Sequence[str]) -> Iterator[str]:
    while True:
        yield from slots


Edits = Callable[[Choice, Sequence[SegmentQuestion]], list[dict[str, int]]]


def _search(
    objective: SegmentObjective,
    questions: Sequence[SegmentQuestion],
    start: Choice,
    rng: Rng,
    edits: Edits,
    settings: SegmentSearch,
    *,
    patience: int = 0,
    ahead: int = 0,
) -> SearchResult:
    """Steps of edits and exact losses.

    patience  steps without a change after which it ends; 0 has no such end
    ahead     cost per question of finding the edits of a step
    """
    whole = not settings.questions or settings.questions >= len(questions)
    meter = _Meter(objective)
    current, steps, still = dict(start), list[SearchStep](), 0
    least: float | None = None
    for _ in range(settings.steps):
        batch = (
            list(questions)
            if whole
            else [questions[row] for row in rng.choice(len(questions), settings.questions, replace=False)]
        )
        if least is None or (settings.incumbent and not whole):  # losses of different batches are not comparable
            least = float(objective.losses([current], batch))
            steps.append(SearchStep(meter.spent(), least, dict(current)))
        if settings.budget and meter.spent() + (ahead + 1) * len(batch) > settings.budget:
            break
        choices = [choice for choice in edits(current, batch) if not (settings.incumbent and choice == current)]
        if settings.budget:
            choices = choices[: max(0, (settings.budget - meter.spent()) // len(batch))]
        if not choices:
            break
        loss_P = objective.losses(choices, batch)
        best = int(loss_P.argmin())
        if not settings.incumbent or float(loss_P[best]) < least:
            still = still + 1 if choices[best] == current else 0
            current, least = choices[best], float(loss_P[best])
        else:
            still += 1
        steps.append(SearchStep(meter.spent(), least, dict(current)))
        if (settings.budget and meter.spent() >= settings.budget) or (patience and still >= patience):
            break
    tried = steps if settings.incumbent else steps[1:] or steps  # the release does not look at what it begins with
    best_step = min(tried, key=lambda step: step.loss)
    return SearchResult(best_step.choice, best_step.loss, tuple(steps))


@dataclass
class _Meter:
    """Cost of a search since it began."""

    objective: SegmentObjective
    _before: int = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._all()

    def _all(self) -> int:
        return self.objective.forwards + GRADIENT_COST * self.objective.gradients

    def spent(self) -> int:
        return self._all() - self._before


def token_search(
    objective: SegmentObjective,
    questions: Sequence[SegmentQuestion],
    start: Choice,
    rng: Rng,
    *,
    vocabulary: Sequence[int],
    edits: int = 12,
    top: int = 16,
    budget: int = 200,
) -> SearchResult:
    """Greedy coordinate gradient over single tokens of the segments (Zou et al., 2023): each step takes the gradient over one-hot tokens,
    draws `edits` exchanges among the `top` most promising tokens of a random position, and keeps the best if it is better.

    vocabulary  tokens that may stand in a segment. The choice of the result is where it began: its segments are no candidates any more.
    """
    meter, allowed = _Meter(objective), torch.tensor(list(vocabulary))
    slots = {slot: list(objective.ids(objective.candidates[slot][start[slot]])) for slot in objective.slots}
    positions = [(slot, position) for slot, tokens in slots.items() for position in range(len(tokens))]

    def prompt(segments: dict[str, list[int]], question: SegmentQuestion) -> Tokens:
        parts = [segments[part.name] if isinstance(part, Slot) else list(objective.ids(part)) for part in question.parts]
        return (*objective.start_ids, *(token for tokens in parts for token in tokens))

    def loss_of(many: Sequence[dict[str, list[int]]]) -> Tensor:
        losses = [objective.prompt_losses([prompt(segments, question) for segments in many], question) for question in questions]
        return torch.stack(losses).mean(0)

    loss = float(loss_of([slots]))
    steps = [SearchStep(meter.spent(), loss, dict(start))]
    while meter.spent() + (GRADIENT_COST + edits) * len(questions) <= budget:
        best_Vx = _token_gradient(objective, questions, slots, prompt)
        many = []
        for row in rng.integers(len(positions), size=edits).tolist():
            slot, position = positions[row]
            scores = best_Vx[slot, position][allowed]
            token = int(
                allowed[scores.topk(min(top, len(allowed)), largest=False).indices[int(rng.integers(min(top, len(allowed))))]]
            )
            changed = {name: list(tokens) for name, tokens in slots.items()}
            changed[slot][position] = token
            many.append(changed)
        loss_P = loss_of(many)
        best = int(loss_P.argmin())
        if float(loss_P[best]) < loss:
            slots, loss = many[best], float(loss_P[best])
        steps.append(SearchStep(meter.spent(), loss, dict(start)))
    return SearchResult(dict(start), loss, tuple(steps))


def _token_gradient(
    objective: SegmentObjective,
    questions: Sequence[SegmentQuestion],
    slots: dict[str, list[int]],
    prompt: Callable[[dict[str, list[int]], SegmentQuestion], Tokens],
) -> dict[tuple[str, int], Tensor]:
    """For each position of a segment the derivative of the mean loss along every token's embedding [V]."""
    table = objective.model.get_input_embeddings().weight.detach()
    totals: dict[tuple[str, int], Tensor] = {}
    for question in questions:
        target = objective.ids(question.target)
        with torch.enable_grad():
            embeds_1LD, mask_1L = objective.embedded([(*prompt(slots, question), *target)])
            embeds_1LD = embeds_1LD.detach().requires_grad_()
            (grad_1LD,) = torch.autograd.grad(objective._loss(embeds_1LD, mask_1L, target).sum(), embeds_1LD)
        objective.gradients += 1
        position = len(objective.start_ids)
        for part in question.parts:
            tokens = slots[part.name] if isinstance(part, Slot) else objective.ids(part)
            if isinstance(part, Slot):
                for number in range(len(tokens)):
                    score_V = table @ grad_1LD[0, position + number]
                    key = (part.name, number)
                    totals[key] = totals.get(key, torch.zeros_like(score_V)) + score_V
            position += len(tokens)
    return totals
