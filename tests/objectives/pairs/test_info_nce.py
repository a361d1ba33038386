"""info_nce against a double loop, open_clip, transformers and finite differences. All in float64 unless precision is the subject."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.objectives.pairs.info_nce import info_nce
from diptych.objectives.pairs.nested import nested

SCALE = 7.0


def units(rows: int, width: int = 5, *, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def naive(image: Tensor, text: Tensor, scale: Tensor, **o: Any) -> tuple[Tensor, Tensor]:
    """Per-pair losses of both directions, one number at a time."""
    n, m = len(image), len(text)
    extra_text, extra_image = o.get("extra_text_KD"), o.get("extra_image_KD")
    columns = list(text) + ([] if extra_text is None else list(extra_text))
    rows = list(image) + ([] if extra_image is None else list(extra_image))
    group_rows, group_columns = _groups(o, n, m, len(rows), len(columns))

    def kept(i: int, j: int) -> bool:
        if i == j and i < n:
            return True
        if o.get("same", "mask") == "mask" and group_rows[i] is not None and group_rows[i] == group_columns[j]:
            return False
        keep = o.get("keep_NM")
        return bool(keep[i, j]) if keep is not None and i < n and j < m else True

    def target(i: int, j: int) -> float:
        if not kept(i, j):
            return 0.0
        if o.get("target_NM") is not None:
            return float(o["target_NM"][i, j]) if i < n and j < m else 0.0
        if o.get("same") == "positive" and group_rows[i] is not None and group_rows[i] == group_columns[j]:
            return 1.0
        return float(i == j)

    def one(pairs: list[tuple[int, int]]) -> Tensor:
        pairs = [p for p in pairs if kept(*p)]
        z = torch.stack([scale.reshape(()) * (rows[i] @ columns[j]) for i, j in pairs])
        q = torch.tensor([target(i, j) for i, j in pairs], dtype=z.dtype)
        eps = o.get("smoothing", 0.0)
        q = (1 - eps) * q / q.sum() + eps / len(pairs)
        return z.logsumexp(0) - (q * z).sum()

    row = torch.stack([one([(i, j) for j in range(len(columns))]) for i in range(n)])
    column = torch.stack([one([(i, j) for i in range(len(rows))]) for j in range(n)])
    return row, column


def _groups(o: dict[str, Any], n: int, m: int, rows: int, columns: int) -> tuple[list[Any], list[Any]]:
    if o.get("group_N") is None:
        return [None] * rows, [None] * columns
    images = o["group_N"].tolist()
    texts = o["group_M"].tolist() if o.get("group_M") is not None else list(images)
    assert len(images) == n
    assert len(texts) == m
    images += [None] * (rows - n) if o.get("extra_image_group_K") is None else o["extra_image_group_K"].tolist()
    texts += [None] * (columns - m) if o.get("extra_text_group_K") is None else o["extra_text_group_K"].tolist()
    return images, texts


N = 7
GROUP = torch.tensor([3, 1, 3, 2, 2, 3, 9])
GROUP_M = torch.tensor([3, 1, 3, 2, 2, 3, 9, 1, 4, 3])
KEEP = torch.rand(N, N, generator=torch.Generator().manual_seed(5)) > 0.3
TARGET = torch.rand(N, N, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
WEIGHT = torch.rand(N, generator=torch.Generator().manual_seed(7), dtype=torch.float64) + 0.2
KEYS, KEY_GROUPS = units(4, seed=8), torch.tensor([3, 5, 9, 1])
QUEUES = {"extra_text_KD": KEYS, "extra_image_KD": units(3, seed=9)}
QUEUE_GROUPS = {"extra_text_group_K": KEY_GROUPS, "extra_image_group_K": torch.tensor([2, 2, 8])}

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one tile": {"tile": 100},
    "mask groups": {"group_N": GROUP},
    "positive groups": {"group_N": GROUP, "same": "positive"},
    "negative groups": {"group_N": GROUP, "same": "negative"},
    "keep": {"keep_NM": KEEP},
    "keep and positive groups": {"keep_NM": KEEP, "group_N": GROUP, "same": "positive"},
    "soft targets": {"target_NM": TARGET},
    "soft targets with masks": {"target_NM": TARGET, "keep_NM": KEEP, "group_N": GROUP},
    "smoothing": {"smoothing": 0.1},
    "smoothing with masks": {"smoothing": 0.3, "keep_NM": KEEP, "group_N": GROUP, **QUEUES, **QUEUE_GROUPS},
    "smoothing of soft targets": {"smoothing": 0.2, "target_NM": TARGET},
    "weights": {"weight_N": WEIGHT},
    "queues": QUEUES,
    "queues with groups": {"group_N": GROUP, **QUEUES, **QUEUE_GROUPS},
    "queues with positive groups": {"group_N": GROUP, "same": "positive", **QUEUES, **QUEUE_GROUPS},
    "queue negatives only": {"group_N": torch.zeros(N, dtype=torch.long), **QUEUES},
    "image to text": {"directions": "image_to_text", "weight_N": WEIGHT, **QUEUES},
    "text to image": {"directions": "text_to_image", "smoothing": 0.1, **QUEUES},
    "more texts": {"texts": 10},
    "more texts with groups": {"texts": 10, "group_N": GROUP, "group_M": GROUP_M, "smoothing": 0.1},
    "more texts, positive groups": {"texts": 10, "group_N": GROUP, "group_M": GROUP_M, "same": "positive"},
}


@pytest.mark.parametrize("scale", [SCALE, 100.0, 400.0])
@pytest.mark.parametrize("name", OPTIONS)
def test_equals_a_double_loop_with_every_gradient(name: str, scale: float, parity: Any) -> None:
    options = {"tile": 3, **OPTIONS[name]}
    image, text = units(N, seed=0).requires_grad_(), units(options.pop("texts", N), seed=1).requires_grad_()
    scale_1 = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    loss, parts = info_nce(image, text, scale=scale_1, **options)
    row, column = naive(image, text, scale_1, **options)
    directions = options.get("directions", "both")
    each = {"both": (row + column) / 2, "image_to_text": row, "text_to_image": column}[directions]
    expected = (each * options.get("weight_N", torch.ones(N, dtype=torch.float64))).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-11)
    if directions != "text_to_image":
        torch.testing.assert_close(parts["image_to_text"], row.mean().detach())
    if directions != "image_to_text":
        torch.testing.assert_close(parts["text_to_image"], column.mean().detach())
    ours = torch.autograd.grad(loss, (image, text, scale_1))
    wanted = torch.autograd.grad(expected, (image, text, scale_1))
    for got, want in zip(ours, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    pairs = [(loss, expected), *zip(ours, wanted, strict=True)]
    parity("clip", "loss and every gradient under each option", "a double loop over pairs", pairs, tolerance=1e-9)


@pytest.mark.parametrize("name", ["plain", "smoothing with masks", "queues with positive groups", "soft targets"])
def test_gradcheck(name: str) -> None:
    options = OPTIONS[name] | {"reduction": "none", "tile": 4}
    image, text = units(N, seed=0).requires_grad_(), units(N, seed=1).requires_grad_()
    scale = torch.tensor([SCALE], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, t, s: info_nce(i, t, scale=s, **options)[0], (image, text, scale))


def test_a_plain_number_as_scale_is_as_exact_as_a_float64_tensor() -> None:
    """Differences of the loss between two plain numbers that float32 cannot tell apart."""
    image, text, scale, step = units(N, seed=0), units(N, seed=1), 1 / 0.07, 1e-7
    above, below = (info_nce(image, text, scale=scale + sign * step)[0] for sign in (1, -1))
    scale_1 = torch.tensor([scale], dtype=torch.float64, requires_grad=True)
    loss, _ = info_nce(image, text, scale=scale_1)
    assert info_nce(image, text, scale=scale)[0].item() == loss.item()
    (grad,) = torch.autograd.grad(loss, scale_1)
    assert float(above - below) / (2 * step) == pytest.approx(grad.item(), rel=1e-6)
    assert info_nce(image.float(), text.float(), scale=scale)[0].dtype == torch.float32


@pytest.mark.parametrize("name", ["plain", "smoothing with masks", "more texts, positive groups", "soft targets with masks"])
@pytest.mark.parametrize("tile", [1, 2, 6, 7])
def test_tile_size_changes_nothing(name: str, tile: int) -> None:
    options = dict(OPTIONS[name])
    image, text = units(N, seed=0), units(options.pop("texts", N), seed=1)
    got, want = (info_nce(image, text, scale=SCALE, **options, tile=size)[0] for size in (tile, 512))
    torch.testing.assert_close(got, want, rtol=1e-13, atol=0)


def test_batches_of_several_strips_equal_one_dense_matrix() -> None:
    image, text = units(700, 16, seed=0).requires_grad_(), units(700, 16, seed=1).requires_grad_()
    score = 30 * image @ text.T
    expected = (F.cross_entropy(score, torch.arange(700)) + F.cross_entropy(score.T, torch.arange(700))) / 2
    loss, _ = info_nce(image, text, scale=30.0, tile=300)
    torch.testing.assert_close(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, (image, text)), torch.autograd.grad(expected, (image, text)), strict=True):
        torch.testing.assert_close(got, want)


def test_permuting_pairs_permutes_losses_and_mispairing_does_not() -> None:
    image, text, order = units(N, seed=0), units(N, seed=1), torch.randperm(N, generator=torch.Generator().manual_seed(2))
    each, _ = info_nce(image, text, scale=SCALE, group_N=GROUP, reduction="none", tile=3)
    permuted, _ = info_nce(image[order], text[order], scale=SCALE, group_N=GROUP[order], reduction="none", tile=3)
    torch.testing.assert_close(permuted, each[order])
    assert not torch.allclose(info_nce(image[order], text, scale=SCALE)[0], info_nce(image, text, scale=SCALE)[0])


def test_open_clip_loss_and_every_gradient(parity: Any) -> None:
    from open_clip.loss import ClipLoss

    image, text = units(50, 8, seed=0).requires_grad_(), units(50, 8, seed=1).requires_grad_()
    scale = torch.tensor([20.0], dtype=torch.float64, requires_grad=True)
    ours, theirs = info_nce(image, text, scale=scale, tile=16)[0], ClipLoss()(image, text, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    wanted = torch.autograd.grad(theirs, (image, text, scale))
    found = torch.autograd.grad(ours, (image, text, scale))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    pairs = list(zip((ours, *found), (theirs, *wanted), strict=True))
    parity("clip", "loss and every gradient", "ClipLoss of open_clip", pairs, tolerance=1e-9)


def test_transformers_clip_loss_and_every_gradient(parity: Any) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text_config = small | {"vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 49}
    vision_config = small | {"image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config=text_config, vision_config=vision_config, projection_dim=12)
    torch.manual_seed(0)
    model = CLIPModel(config).double()
    twin = copy.deepcopy(model)
    inputs = {"input_ids": torch.randint(0, 50, (6, 8)), "pixel_values": torch.randn(6, 3, 16, 16, dtype=torch.float64)}
    theirs = model(**inputs, return_loss=True).loss
    out = twin(**inputs)
    ours, _ = info_nce(out.image_embeds, out.text_embeds, scale=twin.logit_scale.exp(), tile=4)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    theirs.backward()
    ours.backward()
    pairs = [(ours, theirs)]
    for (name, mine), (_, other) in zip(twin.named_parameters(), model.named_parameters(), strict=True):
        if other.grad is not None:
            assert mine.grad is not None, name
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-8, atol=1e-11, msg=name)
            pairs.append((mine.grad, other.grad))
    parity("clip", "loss and the gradient of every weight of both towers", "CLIPModel of transformers", pairs, tolerance=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_identical_rows_at_scale_100_stay_finite_and_count_as_misses(dtype: torch.dtype) -> None:
    same = F.normalize(torch.ones(9, 4), dim=-1).to(dtype).requires_grad_()
    scale = torch.tensor([100.0], requires_grad=True)
    loss, parts = info_nce(same, same.detach(), scale=scale, tile=4)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(9), abs=1e-4)
    assert torch.isfinite(same.grad).all()
    assert torch.isfinite(scale.grad).all()
    assert parts["accuracy_image_to_text"] == parts["accuracy_text_to_image"] == 0


def dense(image: Tensor, text: Tensor, scale: Tensor, directions: str, smoothing: float) -> Tensor:
    score, own = scale * image @ text.T, torch.arange(len(image))
    row, column = (F.cross_entropy(z, own, label_smoothing=smoothing) for z in (score, score.T))
    return {"both": (row + column) / 2, "image_to_text": row, "text_to_image": column}[directions]


EXACT = torch.full((1, 16), 0.25, dtype=torch.float64) * units(1, 16, seed=0).sign()
"""A unit row whose products are exact in float32, in any order of summation: what is measured is what follows."""

NEAR = EXACT + (1e-3 * 2**15 * units(9, 16, seed=1)).round() / 2**15
"""Rows a thousandth off, in steps so coarse that products with `EXACT`, and these times 100, are exact too."""

CLOSE_ROWS = {
    "identical": (EXACT.expand(9, 16), EXACT.expand(9, 16)),
    "nearly identical": (NEAR, EXACT.expand(9, 16)),
    "two far groups": (torch.cat([EXACT.expand(5, 16), -EXACT.expand(4, 16)]),) * 2,
}


@pytest.mark.parametrize("tile", [4, 512])
@pytest.mark.parametrize(
    ("directions", "smoothing"), [("both", 0.0), ("both", 0.1), ("image_to_text", 0.0), ("text_to_image", 0.0)]
)
@pytest.mark.parametrize("rows", CLOSE_ROWS)
def test_float32_at_scale_100_is_as_exact_as_one_dense_matrix(rows: str, directions: Any, smoothing: float, tile: int) -> None:
    """Log-sum-exps near 100 that are kept in float32 miss the bound: every softmax then has an error of 8e-6."""

    def errors(loss: Callable[..., Tensor]) -> list[float]:
        found = []
        for function, dtype in ((loss, torch.float32), (dense_loss, torch.float64)):
            leaves = [x.float().to(dtype, copy=True).requires_grad_() for x in (*CLOSE_ROWS[rows], torch.tensor([100.0]))]
            value = function(*leaves)
            found.append([value.detach().double(), *(g.double() for g in torch.autograd.grad(value, leaves))])
        return [float((got - want).abs().max()) for got, want in zip(*found, strict=True)]

    dense_loss = functools.partial(dense, directions=directions, smoothing=smoothing)
    options = {"directions": directions, "smoothing": smoothing, "tile": tile}
    ours = errors(lambda image, text, scale: info_nce(image, text, scale=scale, **options)[0])
    for name, got, bound in zip(("loss", "image", "text", "scale"), ours, errors(dense_loss), strict=True):
        assert got <= 10 * max(bound, 4e-8), name


def test_float32_holds_where_scores_are_200_apart() -> None:
    image = F.normalize(torch.tensor([[1.0, 0.0], [-1.0, 0.01], [0.0, 1.0]]), dim=-1)
    text = F.normalize(torch.tensor([[-1.0, 0.1], [-1.0, 0.0], [-1.0, -0.2]]), dim=-1)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = image.to(dtype).requires_grad_()
        loss, _ = info_nce(leaf, text.to(dtype), scale=100.0)
        results.append((loss.item(), torch.autograd.grad(loss, leaf)[0].double()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-3)


def test_half_precision_features_are_scored_in_float32_under_autocast_too() -> None:
    image, text = (units(20, 16, seed=s).bfloat16().requires_grad_() for s in (0, 1))
    expected, _ = info_nce(image.double(), text.double(), scale=50.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = info_nce(image, text, scale=50.0, tile=8)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    loss.backward()
    assert image.grad.dtype == text.grad.dtype == torch.bfloat16
    want = torch.autograd.grad(expected, image)[0]
    torch.testing.assert_close(image.grad, want, rtol=0.02, atol=1e-3)


def test_one_pair_costs_nothing() -> None:
    image = units(1, seed=0).requires_grad_()
    loss, parts = info_nce(image, units(1, seed=1), scale=SCALE)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert image.grad.abs().max() < 1e-12
    assert parts["accuracy_image_to_text"] == 1


def test_parts_by_hand() -> None:
    image, text = torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)[[0, 2, 1]]
    _, parts = info_nce(image, text, scale=2.0)
    assert parts["accuracy_image_to_text"].item() == pytest.approx(1 / 3)
    assert parts["positive_similarity"].item() == pytest.approx(1 / 3)
    _, parts = info_nce(image, text, scale=2.0, group_N=torch.tensor([0, 1, 1]), same="positive")
    assert parts["accuracy_text_to_image"].item() == pytest.approx(1 / 3)  # a partner at 0 only ties with the other group
    assert not any(value.requires_grad for value in parts.values())


def test_no_gradient_reaches_extra_keys_or_inputs_that_need_none() -> None:
    image, keys = units(N, seed=0).requires_grad_(), units(3, seed=1).requires_grad_()
    loss, _ = info_nce(image, units(N, seed=2), scale=SCALE, extra_text_KD=keys, extra_image_KD=keys)
    loss.backward()
    assert keys.grad is None
    assert image.grad is not None


def saved_bytes(rows: int, **options: Any) -> int:
    sizes: dict[int, int] = {}
    image, text = units(rows, 16, seed=0).requires_grad_(), units(rows, 16, seed=1).requires_grad_()

    def pack(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        info_nce(image, text, scale=torch.tensor([SCALE], requires_grad=True), tile=32, **options)
    return sum(sizes.values())


def test_saved_memory_is_linear_in_the_batch() -> None:
    small, large = saved_bytes(128), saved_bytes(512)
    assert large <= 4.05 * small
    assert large < 512 * 512 * 8 / 8


def test_nested_slices_then_normalises() -> None:
    image, text = units(N, seed=0).requires_grad_(), units(N, seed=1).requires_grad_()
    loss, parts = nested(info_nce, (2, 5))(image, text, scale=SCALE, group_N=GROUP)
    short = info_nce(*(F.normalize(x[:, :2], dim=-1) for x in (image, text)), scale=SCALE, group_N=GROUP)[0]
    full, full_parts = info_nce(image, text, scale=SCALE, group_N=GROUP)
    torch.testing.assert_close(loss, (short + full) / 2)
    torch.testing.assert_close(parts["first_2"], short.detach())
    assert parts["image_to_text"] == pytest.approx(full_parts["image_to_text"].item())
    only_short, _ = nested(info_nce, (2,))(image, text, scale=SCALE)
    assert torch.autograd.grad(only_short, image)[0][:, 2:].abs().max() == 0
    with pytest.raises(ConfigError, match="dims reach 9"):
        nested(info_nce, (9,))(image, text, scale=SCALE)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"text_MD": units(4, seed=1)}, ShapeError, "7 images and 4 texts"),
        ({"text_MD": units(7, 4, seed=1)}, ShapeError, r"\[7, 5\] and \[7, 4\]"),
        ({"group_N": torch.zeros(3)}, ShapeError, r"group_N must be \[7\]"),
        ({"group_N": GROUP, "text_MD": units(10, seed=1)}, ShapeError, "group_M must give"),
        ({"keep_NM": KEEP[:, :3]}, ShapeError, r"keep_NM must be \[7, 7\]"),
        ({"weight_N": WEIGHT[:2]}, ShapeError, "weight_N"),
        ({"scale": torch.ones(2)}, ShapeError, "one number"),
        ({"smoothing": 1.0}, ConfigError, "smoothing"),
        ({"same": "equal"}, ConfigError, "'mask', 'positive' or 'negative'"),
        ({"directions": "up"}, ConfigError, "directions"),
        ({"target_NM": TARGET * 0}, ConfigError, "above 0"),
        ({"extra_text_KD": units(2, 3, seed=0)}, ShapeError, r"extra_text_KD must be \[K, 5\]"),
        ({"tile": -1}, ConfigError, "tile"),
    ],
)
def test_errors_say_what_came(change: dict[str, Any], error: type[Exception], words: str) -> None:
    arguments = {"image_ND": units(N, seed=0), "text_MD": units(N, seed=1), "scale": SCALE} | change
    with pytest.raises(error, match=words):
        info_nce(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["plain", "smoothing with masks", "queues with positive groups"])
def test_cuda_equals_cpu(name: str) -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        options = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in OPTIONS[name].items()}
        image, text = (units(N, seed=s).to(device).requires_grad_() for s in (0, 1))
        scale = torch.tensor([SCALE], dtype=torch.float64, device=device, requires_grad=True)
        loss, _ = info_nce(image, text, scale=scale, tile=3, **options)
        gradients.append([loss.cpu(), *(g.cpu() for g in torch.autograd.grad(loss, (image, text, scale)))])
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
