"""The dynamic head against loops over places, kernel and channels, and what its two ways of reading a coarser map have in common."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from diptych.core.errors import ConfigError
from diptych.models.detection.dense.dynamic_head import Coarser, DynamicBlock, DynamicHead, DynamicReLU, ModulatedDeformConv


def waves(module: torch.nn.Module, size: float = 0.5) -> None:
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter.copy_(size * torch.sin(torch.arange(parameter.numel()).double() * 0.9 + number).view_as(parameter))


def at(map_DHW: Tensor, y: float, x: float) -> Tensor:
    """Bilinear, 0 outside."""
    found_D = torch.zeros(len(map_DHW), dtype=map_DHW.dtype)
    y0, x0 = math.floor(y), math.floor(x)
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < map_DHW.shape[1] and 0 <= column < map_DHW.shape[2]:
                found_D += (1 - abs(y - row)) * (1 - abs(x - column)) * map_DHW[:, row, column]
    return found_D


def deformed(
    layer: ModulatedDeformConv, map_DHW: Tensor, shift: list[float], share: list[float], height: int, width: int
) -> Tensor:
    """`shift` and `share` are flat: kernel place by kernel place, row by row."""
    out_DHW = torch.zeros(len(layer.weight), height, width, dtype=map_DHW.dtype)
    area = height * width
    for y in range(height):
        for x in range(width):
            place = y * width + x
            for k in range(9):
                dy, dx = shift[2 * k * area + place], shift[(2 * k + 1) * area + place]
                read_D = at(map_DHW, y * layer.stride - 1 + k // 3 + dy, x * layer.stride - 1 + k % 3 + dx)
                out_DHW[:, y, x] += layer.weight[:, :, k // 3, k % 3] @ read_D * share[k * area + place]
            out_DHW[:, y, x] += layer.bias
    normed: Tensor = layer.norm(out_DHW[None])[0]
    return normed


def relu(layer: DynamicReLU, map_DHW: Tensor) -> Tensor:
    said = F.linear(map_DHW.mean((1, 2)), layer.squeeze.weight, layer.squeeze.bias).clamp(min=0)
    said = F.linear(said, layer.expand.weight, layer.expand.bias)
    out_DHW, width = map_DHW.clone(), len(map_DHW)
    for d in range(width):
        a1, b1, a2, b2 = (min(max(float(said[n * width + d]) + 3, 0), 6) / 6 - 0.5 for n in range(4))
        out_DHW[d] = torch.maximum((2 * a1 + 1) * map_DHW[d] + b1, 2 * a2 * map_DHW[d] + b2)
    return out_DHW


def block_by_loops(block: DynamicBlock, maps: list[Tensor], level: int) -> Tensor:
    own_DHW = maps[level]
    height, width = own_DHW.shape[1:]
    said = F.conv2d(own_DHW[None], block.places.weight, block.places.bias, padding=1)[0]
    shift, share = said[:18].flatten().tolist(), said[18:].sigmoid().flatten().tolist()
    found = [deformed(block.own, own_DHW, shift, share, height, width)]
    if level:
        found.append(deformed(block.from_finer, maps[level - 1], shift, share, height, width))
    if level + 1 < len(maps):
        coarse = maps[level + 1].shape[1:]
        if block.coarser == "resized":
            shift, share = (
                F.interpolate(x[None], size=coarse, mode="bilinear", align_corners=True)[0].flatten().tolist()
                for x in (said[:18], said[18:].sigmoid())
            )
        small = deformed(block.from_coarser, maps[level + 1], shift, share, *coarse)
        found.append(F.interpolate(small[None], size=(height, width), mode="bilinear", align_corners=True)[0])
    total = torch.zeros_like(own_DHW)
    for x_DHW in found:
        answer = max(float((block.level.weight[0, :, 0, 0] * x_DHW.mean((1, 2))).sum() + block.level.bias), 0)
        total += x_DHW * min(answer + 3, 6) / 6
    return relu(block.channels, total / len(found))


@torch.no_grad()
@pytest.mark.parametrize("coarser", ["released", "resized"])
def test_a_round_is_that_of_loops(coarser: Coarser, parity: Any) -> None:
    block = DynamicBlock(4, groups=2, coarser=coarser).double()
    waves(block)
    maps = [
        torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(n)).double()
        for n, size in enumerate(((4, 6), (2, 3), (1, 2)))
    ]
    found = block(maps)
    naive = [block_by_loops(block, [each[0] for each in maps], level) for level in range(3)]
    parity("fiber", f"a round of the dynamic head ({coarser})", "loops over places and kernel", [
        (a[0], b) for a, b in zip(found, naive, strict=True)
    ], tolerance=1e-12)  # fmt: skip


@torch.no_grad()
def test_ways_of_reading_the_coarser_map_differ_where_shifts_vary_alone() -> None:
    released, resized = (DynamicHead(4, 2, groups=2, coarser=way) for way in ("released", "resized"))
    waves(released)
    resized.load_state_dict(released.state_dict())
    maps = [torch.randn(2, 4, size, size) for size in (4, 2, 1)]
    assert not torch.allclose(released(maps)[0], resized(maps)[0])
    for head in (released, resized):
        for block in head.blocks:
            assert isinstance(block, DynamicBlock)
            block.places.weight.zero_()
            block.places.bias.zero_()
    for a, b in zip(released(maps), resized(maps), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(ConfigError, match="coarser is 'both'"):
        DynamicBlock(4, groups=2, coarser="both")  # type: ignore[arg-type]


def test_every_part_learns() -> None:
    torch.manual_seed(0)
    head = DynamicHead(16, 2, groups=2)
    sum(found.square().sum() for found in head([torch.randn(1, 16, size, size) for size in (8, 4, 2)])).backward()
    assert not [name for name, parameter in head.named_parameters() if parameter.grad is None or not parameter.grad.any()]
