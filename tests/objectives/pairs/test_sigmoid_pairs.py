"""sigmoid_pairs against a double loop, open_clip, transformers and finite differences, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs import tiling
from diptych.objectives.pairs.sigmoid_pairs import sigmoid_pairs

N = 7
GROUP = torch.tensor([3, 1, 3, 2, 2, 3, 9])
GROUP_M = torch.tensor([3, 1, 3, 2, 2, 3, 9, 1, 4, 3])
KEEP = torch.rand(N, N, generator=torch.Generator().manual_seed(5)) > 0.3
WEIGHT = torch.rand(N, generator=torch.Generator().manual_seed(7), dtype=torch.float64) + 0.2


def units(rows: int, width: int = 5, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def number(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def naive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, **o: Any) -> Tensor:
    """Loss of each image, one pair at a time."""
    groups = o.get("group_N")
    text_groups = o.get("group_M", groups)
    key_groups = o.get("extra_text_group_K")
    columns = list(text) + list(o.get("extra_text_KD", []))
    each = []
    for i in range(len(image)):
        total = torch.zeros((), dtype=torch.float64)
        for j, column in enumerate(columns):
            equal = False
            if groups is not None and j < len(text):
                equal = bool(groups[i] == text_groups[j])
            elif key_groups is not None and j >= len(text):
                equal = bool(groups[i] == key_groups[j - len(text)])
            same = o.get("same", "mask")
            if i != j and ((equal and same == "mask") or ("keep_NM" in o and j < len(text) and not o["keep_NM"][i, j])):
                continue
            sign = 1 if i == j or (equal and same == "positive") else -1
            total = total - F.logsigmoid(sign * (scale * (image[i] @ column) + bias)).sum()
        each.append(total)
    return torch.stack(each)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "mask groups": {"group_N": GROUP},
    "positive groups": {"group_N": GROUP, "same": "positive"},
    "negative groups": {"group_N": GROUP, "same": "negative"},
    "keep and positive groups": {"keep_NM": KEEP, "group_N": GROUP, "same": "positive"},
    "keep": {"keep_NM": KEEP},
    "weights": {"weight_N": WEIGHT},
    "more texts": {"texts": 10, "group_N": GROUP, "group_M": GROUP_M, "same": "positive"},
    "queue": {"extra_text_KD": units(4, seed=8)},
    "queue with groups": {"extra_text_KD": units(3, seed=8), "extra_text_group_K": torch.tensor([3, 9, 0]), "group_N": GROUP},
}


def test_plain_numbers_as_scale_and_bias_are_as_exact_as_float64_tensors() -> None:
    """Differences of the loss between plain numbers that float32 cannot tell apart."""
    image, text, scale, bias, step = units(N, seed=0), units(N, seed=1), 1 / 0.07, -9.7, 1e-7
    leaves = number(scale), number(bias)
    loss, _ = sigmoid_pairs(image, text, scale=leaves[0], bias=leaves[1])
    assert sigmoid_pairs(image, text, scale=scale, bias=bias)[0].item() == loss.item()
    for name, grad in zip(("scale", "bias"), torch.autograd.grad(loss, leaves), strict=True):
        given = {"scale": scale, "bias": bias}
        above, below = (sigmoid_pairs(image, text, **(given | {name: given[name] + sign * step}))[0] for sign in (1, -1))
        assert float(above - below) / (2 * step) == pytest.approx(grad.item(), rel=1e-6)


@pytest.mark.parametrize("tile", [1, 3, 512])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_a_double_loop_with_every_gradient(name: str, tile: int, parity: Any) -> None:
    options = dict(OPTIONS[name])
    inputs = (
        units(N, seed=0).requires_grad_(),
        units(options.pop("texts", N), seed=1).requires_grad_(),
        number(10.0),
        number(-3.0),
    )
    image, text, scale, bias = inputs
    loss, parts = sigmoid_pairs(image, text, scale=scale, bias=bias, tile=tile, **options)
    each = naive(image, text, scale, bias, **options)
    expected = (each * options.get("weight_N", torch.ones(N, dtype=torch.float64))).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts["positives"] + parts["negatives"], each.mean().detach())
    torch.testing.assert_close(parts["positive_similarity"], (image * text[:N]).sum(1).mean().detach())
    found, wanted = torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    pairs = [(loss, expected), *zip(found, wanted, strict=True)]
    parity("siglip", "loss and every gradient under each option", "a double loop over pairs", pairs, tolerance=1e-10)


@pytest.mark.parametrize("name", ["plain", "weights", "keep and positive groups", "more texts", "queue with groups"])
def test_gradients_formed_at_once_are_those_of_backward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean forms them in forward; single losses, averaged by the caller, and weights that learn cannot."""
    monkeypatch.setattr(tiling, "_caches", lambda: (1, 1))  # strips of 16 rows, tiles of 64
    options = dict(OPTIONS[name])
    leaves = (
        units(N, seed=0).requires_grad_(),
        units(options.pop("texts", N), seed=1).requires_grad_(),
        number(10.0),
        number(-3.0),
    )
    image, text, scale, bias = leaves
    mean, _ = sigmoid_pairs(image, text, scale=scale, bias=bias, **options)
    each, _ = sigmoid_pairs(image, text, scale=scale, bias=bias, reduction="none", **options)
    found, wanted = torch.autograd.grad(3 * mean, leaves), torch.autograd.grad(3 * each.mean(), leaves)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_weights_that_learn_get_their_gradient() -> None:
    weight = WEIGHT.clone().requires_grad_()
    loss, _ = sigmoid_pairs(units(N, seed=0).requires_grad_(), units(N, seed=1), scale=10.0, bias=-3.0, weight_N=weight)
    each, _ = sigmoid_pairs(units(N, seed=0), units(N, seed=1), scale=10.0, bias=-3.0, reduction="none")
    torch.testing.assert_close(torch.autograd.grad(loss, weight)[0], each / N, rtol=1e-11, atol=0)


def test_gradcheck() -> None:
    inputs = units(6, seed=0).requires_grad_(), units(6, seed=1).requires_grad_(), number(10.0), number(-3.0)
    options = {"group_N": GROUP[:6], "same": "positive", "reduction": "none", "tile": 4}
    assert torch.autograd.gradcheck(lambda i, t, s, b: sigmoid_pairs(i, t, scale=s, bias=b, **options)[0], inputs)


def test_open_clip_loss_and_every_gradient(parity: Any) -> None:
    from open_clip.loss import SigLipLoss

    inputs = units(50, 8, seed=0).requires_grad_(), units(50, 8, seed=1).requires_grad_(), number(10.0), number(-10.0)
    image, text, scale, bias = inputs
    ours, theirs = sigmoid_pairs(image, text, scale=scale, bias=bias, tile=16)[0], SigLipLoss()(image, text, scale, bias)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    found, wanted = torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs)
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    pairs = list(zip((ours, *found), (theirs, *wanted), strict=True))
    parity("siglip", "loss and every gradient", "SigLipLoss of open_clip", pairs, tolerance=1e-9)


def test_transformers_siglip_loss(parity: Any) -> None:
    from transformers import SiglipConfig, SiglipModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text_config = small | {"vocab_size": 50, "max_position_embeddings": 8, "projection_size": 16}
    torch.manual_seed(0)
    model = SiglipModel(SiglipConfig(text_config=text_config, vision_config=small | {"image_size": 16, "patch_size": 8})).double()
    with torch.no_grad():
        model.logit_scale.fill_(math.log(10))
        model.logit_bias.fill_(-10)
    inputs = {"input_ids": torch.randint(0, 50, (6, 8)), "pixel_values": torch.randn(6, 3, 16, 16, dtype=torch.float64)}
    out = model(**inputs, return_loss=True)
    image, text = (F.normalize(x, dim=-1) for x in (out.image_embeds, out.text_embeds))
    ours, _ = sigmoid_pairs(image, text, scale=model.logit_scale.exp(), bias=model.logit_bias)
    parity("siglip", "loss", "SiglipModel of transformers", [(ours, out.loss)], tolerance=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identical_rows_at_scale_100_stay_finite_and_count_as_misses(dtype: torch.dtype) -> None:
    same = F.normalize(torch.ones(9, 4), dim=-1).to(dtype).requires_grad_()
    loss, parts = sigmoid_pairs(same, same.detach(), scale=100.0, bias=-10.0, tile=4)
    loss.backward()
    assert loss.item() == pytest.approx(8 * 90, rel=0.02)
    assert torch.isfinite(same.grad).all()
    assert parts["accuracy_image_to_text"] == 0


def test_one_pair_has_its_positive_only() -> None:
    image, text = units(1, seed=0), units(1, seed=1)
    loss, parts = sigmoid_pairs(image, text, scale=10.0, bias=-3.0)
    torch.testing.assert_close(loss, F.softplus(-(10 * (image * text).sum() - 3)))
    assert parts["negatives"] == 0


def test_permuting_pairs_permutes_losses() -> None:
    image, text, order = units(N, seed=0), units(N, seed=1), torch.randperm(N, generator=torch.Generator().manual_seed(2))
    each, _ = sigmoid_pairs(image, text, scale=9.0, bias=-2.0, group_N=GROUP, reduction="none", tile=3)
    permuted, _ = sigmoid_pairs(image[order], text[order], scale=9.0, bias=-2.0, group_N=GROUP[order], reduction="none", tile=3)
    torch.testing.assert_close(permuted, each[order])


def test_errors_say_what_came() -> None:
    image, text = units(N, seed=0), units(N, seed=1)
    with pytest.raises(ShapeError, match="must hold one number"):
        sigmoid_pairs(image, text, scale=torch.ones(2), bias=0.0)
    with pytest.raises(ShapeError, match="7 images and 3 texts"):
        sigmoid_pairs(image, text[:3], scale=1.0, bias=0.0)
    with pytest.raises(ConfigError, match="reduction"):
        sigmoid_pairs(image, text, scale=1.0, bias=0.0, reduction="sum")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    results = []
    for device in ("cpu", "cuda"):
        inputs = [x.detach().to(device).requires_grad_() for x in (units(N, seed=0), units(N, seed=1), number(10), number(-3))]
        loss, _ = sigmoid_pairs(*inputs[:2], scale=inputs[2], bias=inputs[3], group_N=GROUP.to(device), tile=3)
        results.append([loss.cpu(), *(g.cpu() for g in torch.autograd.grad(loss, inputs))])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
