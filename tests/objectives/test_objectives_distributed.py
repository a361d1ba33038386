"""At 1, 2 and 4 gloo processes: the mean of the processes' gradients is the gradient of the global mean loss on one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from joined_processes import on_processes
from torch import Tensor, nn

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.block_metric import block_metric_pairs
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.nested import nested
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs
from diptych.objectives.pairs.target_contrast import same_id_targets, target_contrast

N, FURTHER, WIDTH = 8, 4, 6  # images, further texts, features; of all processes together


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


GROUP = torch.tensor([3, 1, 3, 2, 2, 3, 9, 1])
GROUP_FURTHER = torch.tensor([1, 5, 3, 9])
QUEUE = {
    "extra_text_KD": F.normalize(made(5, WIDTH, seed=3), dim=-1),
    "extra_image_KD": F.normalize(made(3, WIDTH, seed=4), dim=-1),
}
QUEUE_GROUPS = {"extra_text_group_K": torch.tensor([3, 5, 9, 1, 0]), "extra_image_group_K": torch.tensor([2, 2, 8])}

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask": {"group_N": GROUP},
    "positive, smoothing": {"group_N": GROUP, "same": "positive", "smoothing": 0.1},
    "weights, queues": {"weight_N": made(N, seed=5).exp(), "group_N": GROUP, **QUEUE, **QUEUE_GROUPS},
    "dense": {"keep_NM": made(N, N, seed=6) > -1, "target_NM": made(N, N, seed=7).exp()},
    "further texts": {"further": True, "group_N": GROUP, "group_M": torch.cat([GROUP, GROUP_FURTHER])},
    "smoothing, masks, queues, weights": {
        "smoothing": 0.2, "keep_NM": made(N, N, seed=6) > -0.5, "weight_N": made(N, seed=5).exp(), "group_N": GROUP, **QUEUE, **QUEUE_GROUPS
    },
    "positive, further texts": {
        "further": True, "group_N": GROUP, "group_M": torch.cat([GROUP, GROUP_FURTHER]), "same": "positive"
    },
    "soft, smoothing": {"target_NM": made(N, N, seed=7).exp(), "smoothing": 0.1, "group_N": GROUP},
    "nested, weights": {"nested": True, "weight_N": made(N, seed=5).exp(), "smoothing": 0.1, "group_N": GROUP},
    "text to image": {"directions": "text_to_image", **QUEUE},
    "image to text": {"directions": "image_to_text"},
    "apart": {"scale": 300.0},
    "nested": {"nested": True, **QUEUE},
    "sigmoid": {"sigmoid": True},
    "sigmoid, positive": {
        "sigmoid": True, "group_N": GROUP, "same": "positive", "weight_N": made(N, seed=5).exp(), "extra_text_KD": QUEUE["extra_text_KD"]
    },
    "sigmoid, masks": {"sigmoid": True, "keep_NM": made(N, N, seed=6) > -0.5, "group_N": GROUP, "weight_N": made(N, seed=5).exp()},
    "sigmoid, further texts": {"sigmoid": True, "further": True, "group_N": GROUP, "group_M": torch.cat([GROUP, GROUP_FURTHER])},
}  # fmt: skip


def results(name: str, rank: int, world: int) -> list[Tensor]:
    """loss, gradients of own images, own texts, further texts, scale and bias, then the parts in order."""
    options = dict(CASES[name])
    own, own_further = (
        slice(rank * N // world, (rank + 1) * N // world),
        slice(rank * FURTHER // world, (rank + 1) * FURTHER // world),
    )
    image, text, further = (F.normalize(made(rows, WIDTH, seed=s), dim=-1) for s, rows in enumerate((N, N, FURTHER)))
    leaves = [image[own].clone(), text[own].clone(), further[own_further].clone()]
    leaves += [torch.tensor([options.pop("scale", 9.0)], dtype=torch.float64), torch.tensor([-2.0], dtype=torch.float64)]
    image_leaf, text_leaf, further_leaf, scale, bias = [x.requires_grad_() for x in leaves]
    texts = torch.cat([text_leaf, further_leaf]) if options.pop("further", False) else text_leaf
    if "group_M" in options:
        options["group_M"] = torch.cat([GROUP[own], GROUP_FURTHER[own_further]])
    for key in ("group_N", "weight_N", "keep_NM", "target_NM"):
        if key in options:
            options[key] = options[key][own]
    objective = nested(info_nce, (2, WIDTH)) if options.pop("nested", False) else info_nce
    if options.pop("sigmoid", False):
        loss, parts = sigmoid_pairs(image_leaf, texts, scale=scale, bias=bias, tile=3, **options)
    else:
        loss, parts = objective(image_leaf, texts, scale=scale, tile=3, **options)
    gradients = torch.autograd.grad(loss, (image_leaf, text_leaf, further_leaf, scale, bias), allow_unused=True)
    zeros = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True)]
    return [loss.detach(), *zeros, torch.stack(list(parts.values()))]


class Towers(nn.Module):
    """Learnable scalars of shape [1] inside the wrapped module, returned by forward."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(5, WIDTH).double(), nn.Linear(4, WIDTH).double()
        self.log_scale, self.bias = (nn.Parameter(torch.tensor([x], dtype=torch.float64)) for x in (2.0, -3.0))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1), self.log_scale.exp(), self.bias


def trained(rank: int, world: int) -> list[Tensor]:
    """Gradients of every parameter after a step through DistributedDataParallel (or alone)."""
    torch.manual_seed(0)
    model: nn.Module = Towers()
    own = slice(rank * N // world, (rank + 1) * N // world)
    wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
    image, text, scale, bias = wrapped(made(N, 5, seed=8)[own], made(N, 4, seed=9)[own])
    softmax, _ = info_nce(image, text, scale=scale, group_N=GROUP[own], tile=3)
    sigmoid, _ = sigmoid_pairs(image, text, scale=scale, bias=bias, group_N=GROUP[own], tile=3)
    targets = same_id_targets(GROUP[own]) * made(N, N, seed=10).abs()[own]
    ignore = (made(N, N, seed=11) > 1)[own]
    projected, _ = target_contrast(
        image * 3, text, targets, scale=scale, ignore_NC=ignore, divergence="reverse_kl", normalise="other"
    )
    blocks = block_metric_pairs(image, text, GROUP[own], scale=scale, ignore_RC=made(N, N, seed=12) > 1)
    (softmax + 0.3 * sigmoid + 0.5 * projected + 0.2 * blocks).backward()
    return [p.grad for p in model.parameters()]


def work(rank: int, world: int) -> dict[str, Any]:
    found: dict[str, Any] = {name: results(name, rank, world) for name in CASES}
    found["trained"] = trained(rank, world)
    try:
        info_nce(made(2 + rank, 3, seed=0), made(2 + rank, 3, seed=1), scale=1.0)
    except ShapeError as error:
        found["unequal"] = str(error)
    return found


@pytest.fixture(scope="module", params=[1, 2, 4])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp(f"world{request.param}")
    return on_processes(work, folder, world=request.param)


@pytest.mark.parametrize("name", CASES)
def test_mean_of_gradients_is_gradient_of_the_global_mean(name: str, processes: list[dict[str, Any]]) -> None:
    world = len(processes)
    loss, image, text, further, scale, bias, parts = results(name, 0, 1)
    per_process = [p[name] for p in processes]
    for each in per_process:
        torch.testing.assert_close(each[0], loss, rtol=1e-12, atol=0)
        torch.testing.assert_close(each[6], parts, rtol=1e-12, atol=1e-14)
    for place, want in ((1, image), (2, text), (3, further)):  # a row lives on one process: the mean divides it by their number
        got = torch.cat([each[place] for each in per_process]) / world
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    for place, want in ((4, scale), (5, bias)):
        torch.testing.assert_close(torch.stack([each[place] for each in per_process]).mean(0), want, rtol=1e-10, atol=1e-13)


def test_data_parallel_wrapper_gives_every_parameter_the_same_gradient(processes: list[dict[str, Any]]) -> None:
    for each in processes:
        for got, want in zip(each["trained"], trained(0, 1), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)


def test_unequal_batches_are_refused_on_every_process(processes: list[dict[str, Any]]) -> None:
    if len(processes) > 1:
        assert all("equal shapes" in each["unequal"] for each in processes)
