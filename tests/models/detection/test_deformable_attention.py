"""Deformable attention against transformers' module, a naive loop, finite differences, and itself in its other form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.core.errors import ConfigError, ShapeError
from diptych.models.detection import deformable_attention, point_sampling
from diptych.models.detection.deformable_attention import DeformableAttention
from diptych.models.detection.point_sampling import by_grid_sample, by_sparse_product
from diptych.models.towers.adapters import LoRAConfig, add_adapters

SHAPES = ((5, 7), (3, 4), (1, 2))
PLACES = sum(height * width for height, width in SHAPES)


def sampled(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Maps, locations (some of them outside) and attention of 2 items, 4 queries, 3 heads, 2 points."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(2, PLACES, 3, 4, generator=generator, dtype=dtype)
    location = torch.rand(2, 4, 3, 3, 2, 2, generator=generator, dtype=dtype) * 1.6 - 0.3
    attention = torch.rand(2, 4, 3, 3, 2, generator=generator, dtype=dtype)
    return value.requires_grad_(), location.requires_grad_(), attention.requires_grad_()


def naive(value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor) -> Tensor:
    batch, queries, heads, _, points = attention_BQMLK.shape
    out = torch.zeros(batch, queries, heads, value_BPME.shape[3], dtype=value_BPME.dtype)
    start = 0
    for level, (height, width) in enumerate(SHAPES):
        for b, q, m, k in torch.cartesian_prod(*(torch.arange(n) for n in (batch, queries, heads, points))).tolist():
            x, y = (location_BQMLK2[b, q, m, level, k] * torch.tensor([width, height]) - 0.5).tolist()
            for j in (math.floor(y), math.floor(y) + 1):
                for i in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < width and 0 <= j < height:
                        weight = (1 - abs(x - i)) * (1 - abs(y - j)) * attention_BQMLK[b, q, m, level, k]
                        out[b, q, m] += weight * value_BPME[b, start + j * width + i, m]
        start += height * width
    return out.flatten(2)


@pytest.mark.parametrize("way", [by_grid_sample, by_sparse_product])
def test_both_ways_equal_the_naive_loop(way: object, parity: Any) -> None:
    inputs = sampled(0)
    parity(
        "rlipv2", "sampling of points, both ways", "a loop over pixels", [(way(*inputs, SHAPES), naive(*inputs))], tolerance=1e-12
    )  # type: ignore[operator]


def test_both_ways_have_equal_gradients() -> None:
    inputs = sampled(1)
    weight = torch.randn(2, 4, 12, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad((way(*inputs, SHAPES) * weight).sum(), inputs) for way in (by_sparse_product, by_grid_sample)
    )
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-11, rtol=0)


def test_both_ways_take_the_same_side_at_the_centre_of_a_pixel() -> None:
    value, _, attention = sampled(2)
    x, y = torch.meshgrid(torch.arange(-2, 2), torch.arange(-2, 2), indexing="ij")
    pixel = torch.stack((x, y), -1).double().flatten(0, 1) + 2
    width, height = 8, 4  # powers of two, so that the centres are exact
    location = ((pixel + 0.5) / torch.tensor([width, height])).view(2, 4, 1, 1, 2, 2)[:, :, :, :, :1].repeat(1, 1, 3, 1, 2, 1)
    value = torch.randn(2, width * height, 3, 4, dtype=torch.float64)
    attention = attention.detach()[:, :, :, :1]
    location.requires_grad_()
    ours, theirs = (
        torch.autograd.grad(way(value, location, attention, ((height, width),)).square().sum(), location)[0]
        for way in (by_sparse_product, by_grid_sample)
    )
    assert ours.abs().sum() > 0
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_gradcheck_of_the_sparse_product() -> None:
    assert torch.autograd.gradcheck(lambda *inputs: by_sparse_product(*inputs, SHAPES), sampled(3), fast_mode=True)


def theirs_and_ours(points: int) -> tuple[torch.nn.Module, DeformableAttention]:
    from transformers import DeformableDetrConfig
    from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrMultiscaleDeformableAttention

    config = DeformableDetrConfig(d_model=24, num_feature_levels=3)
    theirs, ours = (
        DeformableDetrMultiscaleDeformableAttention(config, 3, points),
        DeformableAttention(24, 3, levels=3, points=points),
    )
    names = {"offsets": "sampling_offsets", "weights": "attention_weights", "value": "value_proj", "out": "output_proj"}
    with torch.no_grad():
        for name, their_name in names.items():
            ours.get_submodule(name).load_state_dict(theirs.get_submodule(their_name).state_dict())
    return theirs, ours


@pytest.mark.parametrize(("few", "read"), [(0, 10**9), (10**9, 10**9), (0, 0)], ids=["sparse", "grid", "read_first"])
@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_transformers_and_so_do_all_gradients(
    monkeypatch: pytest.MonkeyPatch, few: int, read: int, coordinates: int, masked: bool, parity: Any
) -> None:
    monkeypatch.setattr(point_sampling, "FEW", few)
    monkeypatch.setattr(deformable_attention, "READ", read)
    torch.manual_seed(4)
    theirs, ours = theirs_and_ours(points=4)
    query = torch.randn(2, 6, 24, requires_grad=True)
    memory = torch.randn(2, PLACES, 24, requires_grad=True)
    reference = torch.rand(2, 6, 3, coordinates, requires_grad=True)
    mask = torch.rand(2, PLACES) > 0.3 if masked else None
    expected, _ = theirs(
        query,
        mask,
        memory,
        reference_points=reference,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
        level_start_index=None,
    )
    got = ours(query, reference, memory, SHAPES, mask)
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    leaves = (query, reference, memory)
    their_parameters = [
        p
        for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
        for p in theirs.get_submodule(name).parameters()
    ]
    weight = torch.randn_like(expected)
    for one, two in zip(
        torch.autograd.grad((got * weight).sum(), (*leaves, *ours.parameters())),
        torch.autograd.grad((expected * weight).sum(), (*leaves, *their_parameters)),
        strict=True,
    ):
        torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    parity(
        "rlipv2",
        "deformable attention over points and boxes",
        "DeformableDetrMultiscaleDeformableAttention of transformers",
        [(got, expected)],
        tolerance=2e-6,
    )


def test_starts_on_a_ring_and_uniform() -> None:
    module = DeformableAttention(32, 8, levels=2, points=3)
    ring_MLK2 = module.offsets.bias.view(8, 2, 3, 2)
    directions = torch.tensor([[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]])
    for k in range(3):
        for level in range(2):
            torch.testing.assert_close(ring_MLK2[:, level, k], directions * (k + 1.0), atol=1e-5, rtol=0)
    assert not module.weights.weight.any()
    assert not module.weights.bias.any()
    assert not module.offsets.weight.any()


def test_padding_is_never_read() -> None:
    torch.manual_seed(5)
    module, query, reference = DeformableAttention(8, 2, levels=3, points=2), torch.randn(1, 5, 8), torch.rand(1, 5, 3, 4)
    memory, mask = torch.randn(1, PLACES, 8), torch.rand(1, PLACES) > 0.5
    changed = torch.where(mask[..., None], memory, 1e6)
    torch.testing.assert_close(module(query, reference, memory, SHAPES, mask), module(query, reference, changed, SHAPES, mask))


@pytest.mark.parametrize("way", [by_grid_sample, by_sparse_product])
def test_moving_map_and_locations_together_changes_nothing(way: object) -> None:
    value = torch.zeros(1, 6, 8, 1, 2, dtype=torch.float64)
    value[:, 1:4, 1:5] = torch.randn(1, 3, 4, 1, 2, dtype=torch.float64)
    moved = value.roll((1, 2), (1, 2))
    location = torch.rand(1, 5, 1, 1, 3, 2, dtype=torch.float64) * torch.tensor([0.6, 0.6])
    attention = torch.rand(1, 5, 1, 1, 3, dtype=torch.float64)
    shifted = location + torch.tensor([2 / 8, 1 / 6], dtype=torch.float64)
    here = way(value.flatten(1, 2), location, attention, ((6, 8),))  # type: ignore[operator]
    there = way(moved.flatten(1, 2), shifted, attention, ((6, 8),))  # type: ignore[operator]
    torch.testing.assert_close(here, there, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("few", "read"), [(0, 10**9), (10**9, 10**9), (0, 0)], ids=["sparse", "grid", "read_first"])
def test_compiles_without_a_break(monkeypatch: pytest.MonkeyPatch, few: int, read: int) -> None:
    monkeypatch.setattr(point_sampling, "FEW", few)
    monkeypatch.setattr(deformable_attention, "READ", read)
    torch.manual_seed(6)
    module = DeformableAttention(8, 2, levels=3, points=2)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    query, reference, memory = torch.randn(1, 5, 8), torch.rand(1, 5, 3, 2), torch.randn(1, PLACES, 8)
    torch.testing.assert_close(compiled(query, reference, memory, SHAPES), module(query, reference, memory, SHAPES))
    grads = [
        torch.autograd.grad(f(query, reference, memory, SHAPES).square().sum(), list(module.parameters()))
        for f in (compiled, module)
    ]
    for one, two in zip(*grads, strict=True):
        torch.testing.assert_close(one, two)


def test_half_precision_maps_come_back_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    value, location, attention = (x.detach().float() for x in sampled(7))
    exact = by_sparse_product(value, location, attention, SHAPES)
    half = by_sparse_product(value.bfloat16(), location, attention, SHAPES)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, atol=0.1, rtol=0.05)


def test_few_queries_read_before_the_projection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which way is taken follows from sizes; an adapter on the projection has to see every place."""
    monkeypatch.setattr(point_sampling, "FEW", 0)
    shapes = ((24, 32), (12, 16))
    module = DeformableAttention(16, 2, levels=2, points=2).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    memory, reference = torch.randn(1, 960, 16, dtype=torch.float64), torch.rand(1, 960, 2, 2, dtype=torch.float64)
    query, projected = torch.randn(1, 960, 16, dtype=torch.float64), []
    module.value.register_forward_hook(lambda *_: projected.append(1))
    few, many = module(query[:, :5], reference[:, :5], memory, shapes), module(query, reference, memory, shapes)
    assert len(projected) == 1  # of the many queries alone
    torch.testing.assert_close(few, many[:, :5], atol=1e-12, rtol=0)

    add_adapters(module, LoRAConfig(2, ("value",)))
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    adapted = module(query[:, :5], reference[:, :5], memory, shapes)
    assert (adapted - few).abs().max() > 0.1


def test_wrong_shapes_and_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="width 10 cannot be cut into 3 heads"):
        DeformableAttention(10, 3)
    module = DeformableAttention(8, 2, levels=3, points=2)
    with pytest.raises(ShapeError, match="references must be"):
        module(torch.zeros(1, 5, 8), torch.zeros(1, 5, 3, 3), torch.zeros(1, PLACES, 8), SHAPES)
    with pytest.raises(ShapeError, match="3 levels expected"):
        module(torch.zeros(1, 5, 8), torch.zeros(1, 5, 3, 2), torch.zeros(1, PLACES, 8), SHAPES[:2])
