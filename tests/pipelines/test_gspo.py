"""Search over segments of a prompt: gradients against finite differences and the released code, searches against all prompts."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from diptych.core.errors import ConfigError
from diptych.core.randomness import keyed_rng
from diptych.pipelines._social.segment_objective import SegmentObjective, SegmentQuestion, Slot
from diptych.pipelines._social.segment_search import (
    GRADIENT_COST,
    SegmentSearch,
    coordinate_sweep,
    gradient_edits,
    random_edits,
    token_search,
    unit,
)

RELEASED: dict[str, Any] = json.loads((Path(__file__).parent / "gspo_released.json").read_text(encoding="utf-8"))
AGAINST = "Mengzibin/SocialGPT bccfa82"


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny Llama whose weights are a formula: the release ran with the same."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=61, num_key_value_heads=2, max_position_embeddings=256, **sizes)
    made = LlamaForCausalLM(config).double().eval()
    for row, (_, weight) in enumerate(sorted(made.named_parameters())):
        wave = torch.sin(torch.arange(weight.numel(), dtype=torch.float64) * 0.37 + row).reshape(weight.shape)
        with torch.no_grad():
            weight.copy_(wave * 0.4 if weight.ndim > 1 else 1 + wave * 0.1)
    return made


def words(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def encode(text: str) -> list[int]:
    return [int(token) for token in text.split()]


def objective(model: Any, **changes: Any) -> SegmentObjective:
    candidates = {slot: [words(ids) for ids in texts] for slot, texts in RELEASED["segments"].items()}
    return SegmentObjective(model, encode, candidates, start_ids=(1,), **changes)


def question(row: dict[str, Any]) -> SegmentQuestion:
    return SegmentQuestion((*(Slot(slot) for slot in RELEASED["segments"]), words(row["tail"])), words(row["target"]))


QUESTIONS = [question(row) for row in (RELEASED["rows"][0], RELEASED["rows"][3])]


def test_gradients_are_those_of_the_release(model: Any, parity: Any) -> None:
    """At the very candidates that it drew. Its own sums lie in float32 at places."""
    made, pairs = objective(model), []
    for row in RELEASED["rows"]:
        for slot, at in zip(made.slots, row["at"], strict=True):
            found = made.gradient(RELEASED["current"], question(row), slot, at=at)
            pairs.append((found, torch.tensor(row["grad"][slot], dtype=torch.float64)))
    parity("socialgpt", "gradients over candidates of four segments", AGAINST, pairs, tolerance=1e-5)


def test_sums_and_edits_are_those_of_the_release(parity: Any) -> None:
    first, second = ({slot: torch.tensor(grad) for slot, grad in RELEASED["rows"][row]["grad"].items()} for row in (0, 3))
    total = {slot: unit(first[slot]) + unit(second[slot]) for slot in first}
    pairs = [(total[slot], torch.tensor(RELEASED["total"][slot])) for slot in total]
    parity("socialgpt", "sums of normalised gradients", AGAINST, pairs, tolerance=1e-6)
    edits = [[edit[slot] for slot in total] for edit in gradient_edits(RELEASED["current"], total, 2)]
    parity(
        "socialgpt",
        "single-segment edits of two a slot",
        AGAINST,
        [(torch.tensor(edits), torch.tensor(RELEASED["edits"]))],
        tolerance=0,
    )


def test_a_gradient_is_the_slope_along_a_candidates_embedding(model: Any, parity: Any) -> None:
    """g_i against the loss at x + h e_i, by central differences, written without the class."""
    made, asked, current = objective(model), QUESTIONS[0], dict(RELEASED["current"])
    pairs = []
    for slot in made.slots:
        count = len(made.candidates[slot])
        rows = [(*made.prompt({**current, slot: i}, asked), *encode(asked.target)) for i in range(count)]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows])
        table = model.get_input_embeddings()(ids)
        chosen = current[slot]
        mask = torch.tensor([[0] * (longest - len(rows[chosen])) + [1] * len(rows[chosen])])
        place = (mask.cumsum(1) - 1).clamp(min=0)

        def loss(x: Any, table: Any = table, mask: Any = mask, place: Any = place) -> float:
            mixed = torch.einsum("n,nld->ld", x, table)[None]
            with torch.no_grad():
                logits = model(inputs_embeds=mixed, attention_mask=mask, position_ids=place).logits[0]
            target = torch.tensor(encode(asked.target))
            return float(torch.nn.functional.cross_entropy(logits[-len(target) - 1 : -1], target))

        found = made.gradient(current, asked, slot)
        base, step = torch.nn.functional.one_hot(torch.tensor(chosen), count).double(), 3e-3
        slopes = []
        for i in range(count):
            along = torch.nn.functional.one_hot(torch.tensor(i), count).double() * step
            slopes.append((loss(base + along) - loss(base - along)) / (2 * step))
        pairs.append((found, torch.tensor(slopes, dtype=torch.float64)))
    parity("socialgpt", "gradients over candidates", "central differences of the loss", pairs, tolerance=1e-3)


def test_padding_changes_no_loss(model: Any) -> None:
    made = objective(model)
    choices = [dict(zip(made.slots, row, strict=True)) for row in product((0, 1), repeat=4)]
    together = made.losses(choices, QUESTIONS)
    alone = torch.cat([made.losses([choice], QUESTIONS) for choice in choices])
    assert torch.allclose(together, alone, atol=1e-6)


def all_losses(model: Any) -> dict[tuple[int, ...], float]:
    made = objective(model)
    rows = list(product(*(range(len(texts)) for texts in made.candidates.values())))
    choices = [dict(zip(made.slots, row, strict=True)) for row in rows]
    return dict(zip(rows, made.losses(choices, QUESTIONS).tolist(), strict=True))


def test_searches_end_at_prompts_that_no_single_edit_betters(model: Any) -> None:
    every, start = all_losses(model), dict.fromkeys(RELEASED["segments"], 0)
    for search in ("gspo", "sweep"):
        made = objective(model)
        settings = SegmentSearch(steps=12, top=4, questions=0)
        if search == "gspo":
            result = settings.run(made, QUESTIONS, start, keyed_rng(0))
        else:
            result = coordinate_sweep(made, QUESTIONS, start, keyed_rng(0), settings)
        here = tuple(result.choice.values())
        near = [row for row in every if sum(a != b for a, b in zip(row, here, strict=True)) == 1]
        assert result.loss == pytest.approx(every[here], abs=1e-6)
        assert every[here] <= min(every[row] for row in near) + 1e-9
        losses = [step.loss for step in result.steps]
        assert losses == sorted(losses, reverse=True), "the incumbent is kept"


def test_forwards_are_counted_and_bounded(model: Any) -> None:
    start = dict.fromkeys(RELEASED["segments"], 0)
    for budget in (20, 61):
        for search in ("gspo", "random", "sweep", "token"):
            made = objective(model)
            settings = SegmentSearch(steps=50, top=2, questions=0, budget=budget)
            if search == "gspo":
                result = settings.run(made, QUESTIONS, start, keyed_rng(1))
            elif search == "token":
                result = token_search(made, QUESTIONS, start, keyed_rng(1), vocabulary=range(2, 61), edits=4, budget=budget)
            else:
                run = random_edits if search == "random" else coordinate_sweep
                result = run(made, QUESTIONS, start, keyed_rng(1), settings)
            spent = made.forwards + GRADIENT_COST * made.gradients
            assert result.steps[-1].forwards == spent
            assert spent <= budget or len(result.steps) == 1
            assert result.loss == result.loss_within(spent) <= result.steps[0].loss


def test_the_released_search_may_leave_a_better_prompt(model: Any) -> None:
    every = all_losses(model)
    start = min(every, key=lambda row: every[row])
    best = dict(zip(RELEASED["segments"], start, strict=True))
    released = SegmentSearch(steps=1, top=1, questions=0, expand="random", incumbent=False)
    assert SegmentSearch.released().expand == released.expand
    moved = [released.run(objective(model), QUESTIONS, best, keyed_rng(seed)).steps[-1] for seed in range(6)]
    assert any(step.choice != best and step.loss > moved[0].loss - 1 for step in moved)
    kept = SegmentSearch(steps=1, top=1, questions=0).run(objective(model), QUESTIONS, best, keyed_rng(0))
    assert kept.steps[-1].choice == best


def test_tokens_are_exchanged_only_for_better(model: Any) -> None:
    result = token_search(
        objective(model), QUESTIONS, dict.fromkeys(RELEASED["segments"], 0), keyed_rng(3), vocabulary=range(2, 61), budget=300
    )
    losses = [step.loss for step in result.steps]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_bad_settings_are_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="slot 'a' has 1 different candidates"):
        SegmentObjective(model, encode, {"a": ["1 2", "1 2"]})
    with pytest.raises(ConfigError, match="top 0"):
        SegmentSearch(top=0)
    empty = SegmentQuestion((Slot("prelude"),), "")
    with pytest.raises(ConfigError, match="no answer"):
        objective(model).losses([dict.fromkeys(RELEASED["segments"], 0)], [empty])
    long = objective(model, longest=3)
    assert not np.any(long.gradient(RELEASED["current"], QUESTIONS[0], "prelude").numpy())


def test_the_released_sum_is_normalised_once(model: Any) -> None:
    """Of one model, the release adds the gradients of all questions before it normalises."""
    current, rng = dict(RELEASED["current"]), keyed_rng(0)
    scores = SegmentSearch(unit_norm="batch").scores(objective(model), QUESTIONS, current, rng)
    by_question = SegmentSearch().scores(objective(model), QUESTIONS, current, rng)
    for slot, score_N in scores.items():
        total = sum(objective(model).gradient(current, one, slot).float() for one in QUESTIONS)
        assert torch.allclose(score_N, total / torch.linalg.vector_norm(total), atol=1e-6)
        assert not torch.allclose(score_N, by_question[slot], atol=1e-3)


def test_the_released_search_returns_its_best_step(model: Any) -> None:
    """Losses of the accepted edits are compared, whatever their batches; the start is none of them and is not measured again."""
    settings = SegmentSearch(steps=4, top=2, questions=1, expand="random", unit_norm="batch", incumbent=False)
    made = objective(model)
    result = settings.run(made, QUESTIONS, dict.fromkeys(RELEASED["segments"], 0), keyed_rng(2))
    assert len(result.steps) == 5
    assert result.loss == min(step.loss for step in result.steps[1:])
    assert made.forwards == 1 + 4 * 4 * 2
