"""The wide matrix of NegCLIP and the own negatives of SVLC: the released losses, naive loops, what is not there, two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from joined_processes import on_processes
from torch import Tensor

from diptych.core.errors import ShapeError
from diptych.objectives.pairs.hard_negatives import own_negatives, wide_info_nce
from diptych.objectives.pairs.info_nce import info_nce

SCALE = 20.0
RELEASED = {
    "negclip": (12.058869946493, 165.096202650489, -378.490413642235, 73.073112921743, 0.0),
    "negatives": (19.650663666897, 432.666687448894, -508.502902534563, 194.58508774263, 0.0),
    "apart": (17.929586921464, 355.869876973552, -511.677780596893, 132.687427272132, 0.0),
    "positives": (24.256526909361, 65.609800866268, -418.595204178352, 0.0, 21.608819988146),
    "symmetric": (23.940495958843, 67.607477484617, -410.168854160475, 0.0, -12.954073916901),
    "all": (50.475688921958, 986.088535821683, -813.482607932417, 459.959942286893, 21.608819988146),
}
"""Loss, and the sum of (place + 1) * gradient over images, texts, negatives and positives, that the released modules gave on `made`:
vinid/neg_clip e680f8e, src/open_clip/loss.py ("negclip"); SivanDoveh/TSVLC 90b18e7, src/open_clip/loss.py (the others)."""
HAVE = torch.tensor([True, False, True, True, False, True])


def made(*shape: int, seed: int) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=chance, dtype=torch.float64), dim=-1).requires_grad_()


def four() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, texts, negatives, positives."""
    return made(6, 5, seed=1), made(6, 5, seed=2), made(6, 5, seed=3), made(6, 5, seed=4)


def told(loss: Tensor, inputs: tuple[Tensor, ...]) -> list[float]:
    grads = torch.autograd.grad(loss, inputs, allow_unused=True)
    order = [torch.arange(1.0, x.numel() + 1, dtype=x.dtype).view_as(x) for x in inputs]
    return [loss.item(), *(0.0 if g is None else (g * o).sum().item() for g, o in zip(grads, order, strict=True))]


def met(anchor_ND: Tensor, positive_ND: Tensor, *, both: bool = False) -> Tensor:
    return info_nce(anchor_ND, positive_ND, scale=SCALE, directions="both" if both else "image_to_text")[0]


def test_the_wide_matrix_is_the_released_loss(parity: Any) -> None:
    image, text, negative, positive = four()
    loss = wide_info_nce(image, text, negative[:, None], torch.ones(6, 1, dtype=torch.bool), scale=SCALE)
    pairs = zip(told(loss, (image, text, negative, positive)), RELEASED["negclip"], strict=True)
    parity(
        "negclip", "loss and gradients of images, texts and negatives", "vinid/neg_clip e680f8e, ClipLoss", pairs, tolerance=1e-9
    )


@pytest.mark.parametrize("case", ["negatives", "apart", "positives", "symmetric", "all"])
def test_the_three_losses_of_svlc_are_the_released_ones(case: str, parity: Any) -> None:
    inputs = image, text, negative, positive = four()
    there = HAVE[:, None] if case in ("negatives", "apart", "all") else torch.zeros(6, 1, dtype=torch.bool)
    wide = there if case != "apart" else there & False
    loss = wide_info_nce(image, text, negative[:, None], wide, scale=SCALE)
    loss = loss + (3 if case == "all" else 1) * own_negatives(image, text, negative[:, None], there, scale=SCALE)
    if case in ("positives", "symmetric", "all"):
        both = case == "symmetric"
        loss = loss + (met(image, positive, both=both) + met(text, positive, both=both)) / 2
    pairs = zip(told(loss, inputs), RELEASED[case], strict=True)
    parity("svlc", f"loss and gradients ({case})", "SivanDoveh/TSVLC 90b18e7, ClipLoss", pairs, tolerance=1e-9)


def test_without_negatives_it_is_clip(parity: Any) -> None:
    inputs = image, text, negative, _ = four()
    ours = told(wide_info_nce(image, text, negative[:, None], torch.zeros(6, 1, dtype=torch.bool), scale=SCALE), inputs)
    clip = told(info_nce(image, text, scale=SCALE)[0], inputs)
    parity(
        "negclip", "loss and gradients without negatives", "info_nce, CLIP's loss", zip(ours, clip, strict=True), tolerance=1e-12
    )


def test_one_own_negative_is_softplus(parity: Any) -> None:
    image, text, negative, _ = four()
    found = own_negatives(image, text, negative[:, None], HAVE[:, None], scale=SCALE)
    rows = [i for i in range(6) if HAVE[i]]
    gaps = torch.stack([SCALE * (image[i] @ negative[i] - image[i] @ text[i]) for i in rows])
    naive = F.softplus(gaps, threshold=700).mean()  # beyond its threshold torch's is linear
    parity("svlc", "the choice between a text and its negative", "softplus, a loop", [(found, naive)], tolerance=1e-12)


def test_a_positive_that_is_the_text_is_clip_and_the_text_with_itself(parity: Any) -> None:
    image, text, _, _ = four()
    found = (met(image, text) + met(text, text)) / 2
    target = torch.arange(6)
    naive = (F.cross_entropy(SCALE * image @ text.T, target) + F.cross_entropy(SCALE * text @ text.T, target)) / 2
    parity("svlc", "positives that are the texts again", "torch's cross_entropy", [(found, naive)], tolerance=1e-12)


def test_negatives_cost_images_and_teach_no_text_to_find_its_image() -> None:
    """A column of a negative has no loss of its own: text to image is that of CLIP."""
    image, text, negative, _ = four()
    far = wide_info_nce(image, text, -image[:, None].detach(), torch.ones(6, 1, dtype=torch.bool), scale=200.0)
    near = wide_info_nce(image, text, image[:, None].detach(), torch.ones(6, 1, dtype=torch.bool), scale=200.0)
    assert near > far + 1
    (grad,) = torch.autograd.grad(wide_info_nce(image, text, negative[:, None], HAVE[:, None], scale=SCALE), negative)
    assert torch.equal(grad[~HAVE], torch.zeros_like(grad[~HAVE])), "a negative that is not there is pushed nowhere"
    assert bool((grad[HAVE].abs().amax(1) > 0).all())


def test_what_is_not_there_does_not_matter() -> None:
    image, text, negative, _ = four()
    there = torch.stack([HAVE, ~HAVE], 1)
    wrong = torch.stack([negative, negative.flip(0)], 1)
    other = torch.where(there[..., None], wrong, -wrong * 3)
    for loss in (wide_info_nce, own_negatives):
        assert loss(image, text, wrong, there, scale=SCALE).item() == loss(image, text, other, there, scale=SCALE).item()
    assert own_negatives(image, text, wrong, there & False, scale=SCALE).item() == 0
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    own_negatives(image, text, wrong, there, scale=scale).backward()
    assert scale.grad is not None
    assert torch.isfinite(scale.grad).all()


def test_gradients_are_those_of_finite_differences() -> None:
    image, text, negative, _ = (x[:4, :3].detach().requires_grad_() for x in four())
    there, scale = HAVE[:4, None], torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
    for loss in (wide_info_nce, own_negatives):
        assert torch.autograd.gradcheck(
            lambda v, t, n, s, loss=loss: loss(v, t, n[:, None], there, scale=s), (image, text, negative, scale)
        )


def test_groups_are_left_out_and_negatives_are_nobodys() -> None:
    image, text, negative, _ = four()
    group = torch.tensor([0, 0, 1, 2, 3, 4])
    found = wide_info_nce(image, text, negative[:, None], HAVE[:, None], scale=SCALE, group_N=group)
    rows, columns = [], []
    for i in range(6):
        others = [j for j in range(6) if j == i or group[i] != group[j]]
        wrong = [SCALE * image[i] @ negative[k] for k in range(6) if HAVE[k]]
        rows.append(torch.stack([SCALE * image[i] @ text[j] for j in others] + wrong).logsumexp(0) - SCALE * image[i] @ text[i])
        columns.append(torch.stack([SCALE * image[j] @ text[i] for j in others]).logsumexp(0) - SCALE * image[i] @ text[i])
    assert found.item() == pytest.approx((sum(rows) / 6 + sum(columns) / 6).item() / 2, abs=1e-10)


def test_shapes_are_named() -> None:
    image, text, negative, _ = four()
    with pytest.raises(ShapeError, match=r"negatives \[N, K, D\]"):
        wide_info_nce(image, text, negative[:, None], HAVE, scale=SCALE)


def _losses(rank: int, world: int) -> list[float]:
    inputs = tuple(x.detach().chunk(world)[rank].clone().requires_grad_() for x in four()[:3])
    there = HAVE.chunk(world)[rank][:, None]
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    found = []
    for loss in (wide_info_nce, own_negatives):
        value = loss(inputs[0], inputs[1], inputs[2][:, None], there, scale=scale)
        grads = torch.autograd.grad(value, (*inputs, scale))
        if world > 1:  # data-parallel training averages what the processes hold of a shared parameter
            dist.all_reduce(grads[-1])
        found += [value.item(), grads[-1].item() / world, *(x for g in grads[:3] for x in (g / world).flatten().tolist())]
    return found


def _process(rank: int, world: int) -> torch.Tensor:
    return torch.tensor(_losses(rank, world), dtype=torch.float64)


def test_two_processes_are_one(tmp_path: Path, parity: Any) -> None:
    """Also where the first has another number of negatives than the second: four of six, three of them there."""
    whole = torch.tensor(_losses(0, 1), dtype=torch.float64).view(2, -1)
    parts = [part.view(2, -1) for part in on_processes(_process, tmp_path)]
    assert not torch.allclose(parts[0][:, 2:], parts[1][:, 2:])
    pairs = [(part[:, :2], whole[:, :2]) for part in parts]
    grads = [part[:, 2:].view(2, 3, 3, 5) for part in parts]
    pairs.append((torch.cat(grads, 2), whole[:, 2:].view(2, 3, 6, 5)))
    for slug in ("negclip", "svlc"):
        parity(slug, "losses and gradients of two processes", "one process with the whole batch", pairs, tolerance=1e-9)
