"""Grouping of patches by texts, against loops over single numbers; in float64 unless precision is the subject."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from joined_processes import on_processes
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.patch_grouping import EPS, group_patches, patch_grouping

N, K, P, D = 2, 3, 4, 5


def units(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


PATCH, TEXT = units(N, P, D, seed=0), units(N, K, D, seed=1)
MASK = torch.tensor([[True, True, True, False], [True, False, True, True]])


def naive_weights(patches: list[Tensor], text: Tensor, threshold: float) -> list[Tensor]:
    a = [text @ u for u in patches]
    low, high = min(a), max(a)
    share = [(x - low) / (high - low + EPS) for x in a]
    least = 1 / len(patches) if threshold < 0 else threshold
    share = [x if x >= least else x * 0 for x in share]
    return [x / sum(share) for x in share]


def naive(
    patch: Tensor,
    text: Tensor,
    scale: float,
    threshold: float = 0.0,
    mask: Tensor | None = None,
    ids: Any = None,
    batch: bool = False,
) -> Tensor:
    grouped = []
    for i in range(len(patch)):
        real = [patch[i, p] for p in range(patch.shape[1]) if mask is None or mask[i, p]]
        for k in range(text.shape[1]):
            weights = naive_weights(real, text[i, k], threshold)
            grouped.append(F.normalize(sum(w * u for w, u in zip(weights, real, strict=True)), dim=0))
    flat = [text[i, k] for i in range(len(text)) for k in range(text.shape[1])]
    count, total = text.shape[1], torch.zeros((), dtype=text.dtype)
    for one in range(len(flat)):
        i, k = divmod(one, count)
        rivals = [
            other
            for other in range(len(flat))
            if (batch or other // count == i)
            and (other == one or ids is None or other // count != i or ids[i][other % count] != ids[i][k])
        ]
        own = scale * grouped[one] @ flat[one]
        row = torch.stack([scale * grouped[one] @ flat[r] for r in rivals]).logsumexp(0)
        column = torch.stack([scale * grouped[r] @ flat[one] for r in rivals]).logsumexp(0)
        total = total + (row + column) / 2 - own
    return total / len(flat)


@pytest.mark.parametrize("threshold", [0.0, 0.4, -1.0])
@pytest.mark.parametrize("mask", [None, MASK])
def test_weights_against_loops_and_their_sum(threshold: float, mask: Tensor | None, parity: Any) -> None:
    grouped, weight = group_patches(PATCH, TEXT, threshold=threshold, mask_NP=mask)
    torch.testing.assert_close(weight.sum(2), torch.ones(N, K, dtype=torch.float64))
    torch.testing.assert_close(grouped.norm(dim=2), torch.ones(N, K, dtype=torch.float64))
    pairs = [(weight.sum(2), torch.ones(N, K))]
    for i in range(N):
        places = [p for p in range(P) if mask is None or mask[i, p]]
        for k in range(K):
            wanted = torch.zeros(P, dtype=torch.float64)
            wanted[places] = torch.stack(naive_weights([PATCH[i, p] for p in places], TEXT[i, k], threshold))
            torch.testing.assert_close(weight[i, k], wanted)
            pairs.append((weight[i, k], wanted))
    parity("dreamlip", "weights of patches, and their sum of one", "loops over patches", pairs, tolerance=1e-12)


@pytest.mark.parametrize("negatives", ["image", "batch"])
@pytest.mark.parametrize("ids", [None, [[0, 1, 0], [0, 1, 2]]])
@pytest.mark.parametrize(("threshold", "mask"), [(0.0, None), (-1.0, MASK)])
def test_the_loss_and_its_gradients_against_loops(
    negatives: Any, ids: Any, threshold: float, mask: Tensor | None, parity: Any
) -> None:
    patch, text = PATCH.clone().requires_grad_(), TEXT.clone().requires_grad_()
    scale = torch.tensor([6.0], dtype=torch.float64, requires_grad=True)
    options = {"threshold": threshold, "mask_NP": mask, "text_id_NK": None if ids is None else torch.tensor(ids)}
    loss, parts = patch_grouping(patch, text, scale=scale, negatives=negatives, **options)
    wanted = naive(patch, text, scale, threshold, mask, ids, negatives == "batch").squeeze()
    torch.testing.assert_close(loss, wanted)
    found, expected = (torch.autograd.grad(x, (patch, text, scale)) for x in (loss, wanted))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)
    assert 0 <= parts["accuracy"] <= 1
    pairs = [(loss, wanted), *zip(found, expected, strict=True)]
    parity("dreamlip", "grouping of patches, loss and every gradient", "loops over texts and patches", pairs, tolerance=1e-12)


def test_gradcheck_flows_through_the_weights() -> None:
    def loss(patch: Tensor, text: Tensor, scale: Tensor) -> Tensor:
        return patch_grouping(F.normalize(patch, dim=-1), F.normalize(text, dim=-1), scale=scale)[0]

    leaves = [x.clone().requires_grad_() for x in (PATCH, TEXT, torch.tensor([4.0], dtype=torch.float64))]
    assert torch.autograd.gradcheck(loss, leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_patches_that_are_all_alike_count_evenly_and_stay_finite(dtype: torch.dtype) -> None:
    patch = units(1, 1, D, seed=2).expand(N, P, D).to(dtype).clone().requires_grad_()
    text = TEXT.to(dtype).clone().requires_grad_()
    scale = torch.tensor([100.0], requires_grad=True)
    _, weight = group_patches(patch, text)
    torch.testing.assert_close(weight, torch.full_like(weight, 1 / P))
    loss, _ = patch_grouping(patch, text, scale=scale, threshold=0.5)
    loss.backward()
    assert all(torch.isfinite(x).all() for x in (loss, patch.grad, text.grad, scale.grad))


def test_alike_up_to_rounding_is_alike() -> None:
    """Differences of one unit of rounding must not become weights of 0 and 1."""
    patch = units(1, 1, 64, seed=2).expand(1, P, 64).float().clone()
    patch[0, 1, 0] = torch.nextafter(patch[0, 1, 0], torch.tensor(2.0))
    _, weight = group_patches(patch, units(1, K, 64, seed=3).float())
    torch.testing.assert_close(weight, torch.full_like(weight, 1 / P))


def test_one_text_costs_nothing_and_gives_no_gradient() -> None:
    patch = PATCH.clone().requires_grad_()
    loss, _ = patch_grouping(patch, TEXT[:, :1], scale=9.0)
    loss.backward()
    assert loss == 0
    assert patch.grad.abs().max() == 0


def test_float32_at_scale_100_is_as_exact_as_float64() -> None:
    """Texts that all say the same: every softmax is 1 / K, with an error of 8e-6 where a log-sum-exp is a float32 number."""
    found = []
    for dtype in (torch.float32, torch.float64):
        patch = torch.full((1, 4, 16), 0.25, dtype=dtype)
        text = torch.full((1, 9, 16), 0.25, dtype=dtype, requires_grad=True)
        loss, _ = patch_grouping(patch, text, scale=100.0)
        found.append(torch.autograd.grad(loss, text)[0].double())
    assert float((found[0] - found[1]).abs().max()) < 4e-6


def test_images_do_not_mix_unless_asked() -> None:
    """Other images change nothing in the form of the paper; the order of images and of texts never matters."""
    alone = torch.stack([patch_grouping(PATCH[i : i + 1], TEXT[i : i + 1], scale=5.0)[0] for i in range(N)]).mean()
    torch.testing.assert_close(patch_grouping(PATCH, TEXT, scale=5.0)[0], alone)
    assert not torch.allclose(patch_grouping(PATCH, TEXT, scale=5.0, negatives="batch")[0], alone)
    for negatives in ("image", "batch"):
        loss = patch_grouping(PATCH, TEXT, scale=5.0, negatives=negatives)[0]
        turned = patch_grouping(PATCH.flip(0, 1), TEXT.flip(0, 1), scale=5.0, negatives=negatives)[0]
        torch.testing.assert_close(turned, loss)
        mixed = patch_grouping(PATCH, TEXT.transpose(0, 1).reshape(N, K, D), scale=5.0, negatives=negatives)[0]
        assert not torch.allclose(mixed, loss), "texts of other images in an image's rows go unnoticed"


def test_texts_that_name_their_patches_cost_little() -> None:
    patch = torch.eye(P, dtype=torch.float64)[None]
    loss, parts = patch_grouping(patch, patch[:, :3], scale=100.0)
    assert loss < 1e-6
    assert parts["accuracy"] == 1
    same, missed = patch_grouping(patch, patch[:, :1].expand(1, 3, P), scale=100.0)
    assert same.item() == pytest.approx(math.log(3))
    assert missed["accuracy"] == 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"text_NKD": TEXT[:1]}, ShapeError, r"\[2, 4, 5\] and \[1, 3, 5\]"),
        ({"mask_NP": MASK[:, :2]}, ShapeError, r"mask_NP must be \[2, 4\]"),
        ({"text_id_NK": torch.zeros(3, 2)}, ShapeError, r"text_id_NK must be \[2, 3\]"),
        ({"threshold": 1.0}, ConfigError, "threshold is 1"),
        ({"negatives": "all"}, ConfigError, "'image' or 'batch'"),
    ],
)
def test_errors_say_what_came(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        patch_grouping(**({"patch_NPD": PATCH, "text_NKD": TEXT, "scale": 5.0} | change))


IDS = torch.tensor([[0, 1, 0], [0, 1, 2], [0, 0, 0], [2, 1, 0]])


def results(negatives: Any, rank: int, world: int) -> list[Tensor]:
    own = slice(rank * 4 // world, (rank + 1) * 4 // world)
    leaves = [units(4, P, D, seed=4)[own], units(4, K, D, seed=5)[own], torch.tensor([7.0], dtype=torch.float64)]
    patch, text, scale = [x.clone().requires_grad_() for x in leaves]
    loss, parts = patch_grouping(patch, text, scale=scale, text_id_NK=IDS[own], negatives=negatives)
    return [loss.detach(), *torch.autograd.grad(loss, (patch, text, scale)), parts["accuracy"]]


def work(rank: int, world: int) -> dict[str, list[Tensor]]:
    return {negatives: results(negatives, rank, world) for negatives in ("image", "batch")}


def test_two_processes_average_to_the_gradient_of_one(tmp_path: Path) -> None:
    both = on_processes(work, tmp_path)
    for negatives in ("image", "batch"):
        loss, patch, text, scale, accuracy = results(negatives, 0, 1)
        each = [found[negatives] for found in both]
        for got in each:
            torch.testing.assert_close(got[0], loss, rtol=1e-12, atol=0)
            torch.testing.assert_close(got[4], accuracy)
        for place, want in ((1, patch), (2, text)):
            torch.testing.assert_close(torch.cat([got[place] for got in each]) / 2, want, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close((each[0][3] + each[1][3]) / 2, scale, rtol=1e-10, atol=1e-13)
