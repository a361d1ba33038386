"""Cached gradients against one backward pass through all chunks, in float64, for every parameter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import WIDTH, Toy, ToyBatch, ToyModel, ToyPairs

from diptych.core.errors import ConfigError, RunError
from diptych.core.rows import Rows
from diptych.train.gradient_cache import backward, join, map_tensors, tensors


def toy_batch(rows: int = 10) -> ToyBatch:
    torch.manual_seed(5)
    image_BD, text_BD = torch.randn(2, rows, WIDTH, dtype=torch.float64)
    return ToyBatch(image_BD, text_BD, tuple(map(str, range(rows))))


def gradients(model: nn.Module, work: Callable[[], Any]) -> dict[str, Tensor | None]:
    model.zero_grad()
    torch.manual_seed(9)
    work()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def plain(recipe: Toy, model: nn.Module, batch: ToyBatch, size: int) -> None:
    """The definition: chunks one after the other with a graph, joined by hand, one backward pass."""
    parts = [recipe.features(model, batch.rows(i, min(i + size, len(batch)))) for i in range(0, len(batch), size)]
    image_ND, text_ND = (torch.cat([getattr(p, name) for p in parts]) for name in ("image_ND", "text_ND"))
    sum(recipe.losses(replace(parts[0], image_ND=image_ND, text_ND=text_ND), batch).values()).backward()


def assert_same(one: dict[str, Tensor | None], other: dict[str, Tensor | None]) -> None:
    for name, grad in one.items():
        assert (grad is None) == (other[name] is None), name
        if grad is not None:
            assert grad.abs().max() > 0, name
            torch.testing.assert_close(grad, other[name], rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.parametrize("size", [1, 3, 5, 9, 10, 64])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_every_gradient_is_exact(size: int, dropout: float) -> None:
    recipe, batch = Toy(dropout=dropout), toy_batch()
    model = recipe.model()
    expected = gradients(model, lambda: plain(recipe, model, batch, size))
    assert_same(expected, gradients(model, lambda: backward(recipe, model, batch, micro_batch=size)))
    if not dropout:
        whole = gradients(model, lambda: backward(recipe, model, batch))
        assert_same(whole, gradients(model, lambda: backward(recipe, model, batch, micro_batch=size)))


def test_the_random_state_afterwards_is_that_of_the_plain_step() -> None:
    recipe, batch = Toy(dropout=0.4), toy_batch()
    model = recipe.model()
    gradients(model, lambda: plain(recipe, model, batch, 4))
    expected = torch.rand(3)
    gradients(model, lambda: backward(recipe, model, batch, micro_batch=4))
    assert torch.equal(torch.rand(3), expected)


def test_losses_are_taken_once_and_features_twice_a_chunk() -> None:
    calls: list[str] = []

    class Counted(Toy):
        def features(self, model: nn.Module, batch: Any) -> Any:
            calls.append(f"features {len(batch)}")
            return super().features(model, batch)

        def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
            calls.append(f"losses {len(batch)} {len(features.image_ND)}")
            return super().losses(features, batch)

    recipe = Counted()
    outcome = backward(recipe, recipe.model(), toy_batch(), micro_batch=4)
    chunks = ["features 4", "features 4", "features 2"]
    assert calls == [*chunks, "losses 10 10", *reversed(chunks)]
    assert not any(t.requires_grad for t in tensors(outcome.features))


@dataclass
class Rich:
    """Every kind of field: rows, a shared table that is learned, a frozen field, ragged rows, a number, nothing."""

    pairs: ToyPairs
    label_KD: Tensor
    frozen_ND: Rows[Tensor]
    target_N: Rows[Tensor]
    words_B: Rows[tuple[Tensor, ...]]
    width: int
    nothing: Tensor | None = None


class RichModel(ToyModel):
    def __init__(self) -> None:
        super().__init__(0.3)
        self.label = nn.Parameter(torch.randn(4, WIDTH))
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.word = nn.Linear(WIDTH, WIDTH)
        self.unused = nn.Linear(2, 2)

    def forward(self, image_BD: Tensor, text_BD: Tensor) -> Any:
        pairs = super().forward(image_BD, text_BD)
        words_B = tuple(self.word(row_D)[: 3 + n % 2] for n, row_D in enumerate(text_BD))
        return Rich(pairs, self.label * 2, self.frozen(image_BD), text_BD.argmax(1) % 4, words_B, WIDTH)


class RichRecipe(Toy):
    def model(self) -> nn.Module:
        return RichModel().double()

    def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
        terms = super().losses(features.pairs, batch)
        logits_NK = features.pairs.image_ND @ features.label_KD.T
        terms["labels"] = nn.functional.cross_entropy(logits_NK, features.target_N)
        terms["words"] = torch.stack([word_L.square().sum() for word_L in features.words_B]).mean()
        terms["teacher"] = (features.pairs.text_ND * features.frozen_ND).mean()
        return terms


@pytest.mark.parametrize("size", [2, 3])
def test_shared_frozen_and_ragged_fields(size: int) -> None:
    recipe, batch = RichRecipe(), toy_batch()
    model = recipe.model()

    def by_hand() -> None:
        parts = [recipe.features(model, batch.rows(i, min(i + size, 10))) for i in range(0, 10, size)]
        pairs = replace(
            parts[0].pairs,
            image_ND=torch.cat([p.pairs.image_ND for p in parts]),
            text_ND=torch.cat([p.pairs.text_ND for p in parts]),
        )
        whole = Rich(
            pairs,
            parts[0].label_KD,
            torch.cat([p.frozen_ND for p in parts]),
            torch.cat([p.target_N for p in parts]),
            tuple(word for p in parts for word in p.words_B),
            WIDTH,
        )
        sum(recipe.losses(whole, batch).values()).backward()

    cached = gradients(model, lambda: backward(recipe, model, batch, micro_batch=size))
    assert_same(gradients(model, by_hand), cached)
    assert {name for name, grad in cached.items() if grad is None} == {
        "frozen.weight",
        "frozen.bias",
        "unused.weight",
        "unused.bias",
    }


def test_batch_norm_averages_move_once() -> None:
    class Normed(ToyModel):
        def __init__(self) -> None:
            super().__init__(0.0)
            self.norm = nn.BatchNorm1d(WIDTH)

        def forward(self, image_BD: Tensor, text_BD: Tensor) -> ToyPairs:
            return super().forward(self.norm(image_BD), text_BD)

    recipe, batch, model = Toy(), toy_batch(), Normed().double()
    twin = Normed().double()
    backward(recipe, model, batch, micro_batch=5)
    for start in (0, 5):
        twin(batch.image_BD[start : start + 5], batch.text_BD[start : start + 5])
    torch.testing.assert_close(model.norm.running_mean, twin.norm.running_mean)
    assert model.norm.num_batches_tracked == 2
    assert model.norm.track_running_stats


def test_bf16_gradients_are_those_of_the_plain_bf16_step() -> None:
    recipe, batch = Toy(double=False), toy_batch()
    batch = ToyBatch(batch.image_BD.float(), batch.text_BD.float(), batch.uid_B)
    model = recipe.model()
    kinds: set[torch.dtype] = set()

    def autocast() -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    class Watching(Toy):
        def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
            kinds.update(t.dtype for t in tensors(features))
            return super().losses(features, batch)

    watching = Watching(double=False)
    whole = gradients(model, lambda: backward(watching, model, batch, autocast=autocast))
    cached = gradients(model, lambda: backward(watching, model, batch, micro_batch=4, autocast=autocast))
    for name, grad in whole.items():
        assert grad is not None
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, cached[name], rtol=0.05, atol=2e-3, msg=name)
    assert kinds == {torch.float32}


def test_what_cannot_work_is_refused() -> None:
    class Whole(Toy):
        cacheable = False

    with pytest.raises(ConfigError, match="micro_batch is 2, but the features of Whole need the whole batch"):
        backward(Whole(), Whole().model(), toy_batch(), micro_batch=2)
    model = Toy().model().requires_grad_(False)
    with pytest.raises(RunError, match="no loss depends on a parameter that is trained"):
        backward(Toy(), model, toy_batch())

    class Vector(Toy):
        def losses(self, features: Any, batch: Any) -> dict[str, Tensor]:
            return {"rows": features.image_ND.sum(1)}

    with pytest.raises(RunError, match=r"loss 'rows' has shape \[10\]"):
        backward(Vector(), Toy().model(), toy_batch())


@dataclass
class Layers:
    """Records in a tuple and in a mapping, as a decoder of several layers returns them."""

    layers: tuple[ToyPairs, ...]
    named: dict[str, ToyPairs]
    nothing_N: Rows[Tensor] | None = None


def test_records_in_sequences_and_mappings_are_joined_by_place() -> None:
    def part(value: float, rows: int) -> Layers:
        pairs = ToyPairs(torch.full((rows, 2), value), torch.full((rows, 2), -value), torch.tensor([value]))
        return Layers((pairs, pairs), {"last": pairs})

    joined = join([part(1, 2), part(2, 1)])
    for pairs in (*joined.layers, joined.named["last"]):
        assert pairs.image_ND[:, 0].tolist() == [1, 1, 2]
        assert pairs.text_ND[:, 0].tolist() == [-1, -1, -2]
        assert pairs.scale.tolist() == [1]
    assert joined.nothing_N is None
    assert [t.sum().item() for t in tensors(map_tensors(joined, lambda t: t * 2))] == [16, -16, 2] * 3
