"""Maps behind the last one: as torchvision's, and with right gradients in bfloat16 where a picture is a column of places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from diptych.models.detection.dense.dense_grounding import PaddedLastLevelP6P7
from diptych.models.detection.feature_pyramid import pad_single_column

SIZES = [(1, 1), (2, 1), (3, 1), (1, 3), (2, 2), (5, 4)]


def spoilt() -> None:
    """Memory that was just given back holds what no gradient should."""
    for dtype, value in ((torch.bfloat16, float("nan")), (torch.float32, 5e20)):
        kept = [torch.full((count,), value, dtype=dtype) for count in (64, 144, 256, 2304, 4096) for _ in range(20)]
        del kept


def weight_gradient(map_BCHW: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    out_BCHW = F.conv2d(pad_single_column(map_BCHW), weight, None, stride=2, padding=1)
    spoilt()
    return out_BCHW, torch.autograd.grad(out_BCHW.sum(), weight)[0]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_column_of_zeros_changes_no_answer_and_mends_the_gradient(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    map_BCHW = torch.rand(2, 16, *size).bfloat16()
    weight = torch.randn(16, 16, 3, 3).bfloat16()
    plain = weight.double().requires_grad_()
    expected = F.conv2d(map_BCHW.double(), plain, None, stride=2, padding=1)
    wanted = torch.autograd.grad(expected.sum(), plain)[0]
    for _ in range(5):
        out, found = weight_gradient(map_BCHW, weight.clone().requires_grad_())
        assert out.shape == expected.shape
        torch.testing.assert_close(out.double(), expected, atol=0.05, rtol=0.02)
        torch.testing.assert_close(found.double(), wanted, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_two_maps_behind_the_last_are_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(1)
    theirs, ours = LastLevelP6P7(4, 4).double(), PaddedLastLevelP6P7(4, 4).double()
    ours.load_state_dict(theirs.state_dict())
    maps = [torch.randn(2, 4, *size, dtype=torch.float64)]
    expected, names = theirs(list(maps), list(maps), ["last"])
    found, ours_named = ours(list(maps), list(maps), ["last"])
    assert ours_named == names
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
