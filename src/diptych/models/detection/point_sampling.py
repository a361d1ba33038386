"""Weighted sums of bilinear samples from a pyramid of maps: the inner loop of deformable attention (2010.04159).

    out[b, q, m] = sum over levels l and points k of  attention[b, q, m, l, k] * bilinear(map l of head m, location[b, q, m, l, k])

`sample_points` is the one call. It takes one of two ways, equal to rounding:

- `by_grid_sample`: one `grid_sample` a level. Runs on every device and exports to ONNX.
- `by_sparse_product`: on CPU. A bilinear sample is four map entries and four weights, so all of it is one product S V of a sparse
  matrix with 4 L K entries per row. Rows of V are the vectors of a head, which lie together in memory; `grid_sample` gathers, and
  in its backward scatters, one number at a time. Both gradients are sparse products too: S' g for the maps, and the products
  g V' at the entries of S for the weights. It is registered as an operator, so `torch.compile` passes it through unbroken.

Locations are (x, y) in 0..1 of each map, with 0 at the outer edge of the first pixel (`align_corners=False`); outside is zero.
At a location on a pixel's centre, where bilinear sampling has a kink, both ways take the derivative towards larger x and y.

Letters: B batch, Q queries, M heads, L levels, K points, P positions of all levels, E width of a head; J = 4 L K entries of S a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import scipy.sparse
import torch
from torch import Tensor
from torch.nn import functional as F

Shapes = Sequence[tuple[int, int]]
"""(height, width) of each level."""
SPARSE_PRODUCTS: bool = torch.backends.mkl.is_available()
"""Whether this PyTorch has MKL's."""
FEW = 10_000
"""Samples (B Q M L K) up to which `grid_sample` is at least as fast."""


def sample_points(value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: Shapes) -> Tensor:
    """[B, Q, M E] in the dtype of `value`. `shapes` gives each level's height and width; P is the sum of their products."""
    way = by_sparse_product if sparse_pays(value_BPME, attention_BQMLK.numel()) else by_grid_sample
    return way(value_BPME, location_BQMLK2, attention_BQMLK, shapes)


def sparse_pays(value: Tensor, samples: int) -> bool:
    """The rule: on CPU, where PyTorch has MKL's sparse products, from about ten thousand samples on (below, calls cost more than
    work), unless the graph is being exported for another runtime."""
    on_cpu = value.device.type == "cpu" and SPARSE_PRODUCTS
    return on_cpu and samples >= FEW and not torch.compiler.is_exporting()


def by_grid_sample(value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: Shapes) -> Tensor:
    """One `grid_sample` a level, over heads as if they were batch items."""
    batch, _, heads, _ = value_BPME.shape
    map_NEP = value_BPME.permute(0, 2, 3, 1).flatten(0, 1)
    grid_NQLK2 = (2 * location_BQMLK2 - 1).to(value_BPME.dtype).transpose(1, 2).flatten(0, 1)
    attention_NQLK = attention_BQMLK.to(value_BPME.dtype).transpose(1, 2).flatten(0, 1)
    levels = torch.split(map_NEP, [height * width for height, width in shapes], dim=2)
    sampled = []
    for level, (level_NEP, shape) in enumerate(zip(levels, shapes, strict=True)):
        sample_NEQK = F.grid_sample(level_NEP.reshape(*level_NEP.shape[:2], *shape), grid_NQLK2[:, :, level], align_corners=False)
        sampled.append((sample_NEQK * attention_NQLK[:, None, :, level]).sum(-1))
    out_NEQ = torch.stack(sampled).sum(0)
    return out_NEQ.view(batch, heads, *out_NEQ.shape[1:]).permute(0, 3, 1, 2).flatten(2)


def by_sparse_product(value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: Shapes) -> Tensor:
    """One sparse product for all levels and heads. Computes in at least float32."""
    wide = torch.promote_types(value_BPME.dtype, torch.float32)
    flat = [side for shape in shapes for side in shape]
    out_BQD: Tensor = _sparse_sample(value_BPME.to(wide), location_BQMLK2.to(wide), attention_BQMLK.to(wide), flat)
    return out_BQD.to(value_BPME.dtype)


# ---------------------------------------------------------------- the sparse operator and its gradient


@torch.library.custom_op("diptych::sparse_sample", mutates_args=(), device_types="cpu")
def _sparse_sample(value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: list[int]) -> Tensor:
    batch, queries, heads = attention_BQMLK.shape[:3]
    entries = _entries(value_BPME.shape, location_BQMLK2, attention_BQMLK, shapes)
    row_RE = _with_border(value_BPME, shapes).view(-1, value_BPME.shape[3])
    out_NE = F.embedding_bag(entries.row_NJ, row_RE, per_sample_weights=entries.weight_NJ, mode="sum")
    return out_NE.view(batch, queries, heads * value_BPME.shape[3])


@torch.library.custom_op("diptych::sparse_sample_backward", mutates_args=(), device_types="cpu")
def _sparse_sample_backward(
    grad_BQD: Tensor, value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    batch, _, heads, width = value_BPME.shape
    entries = _entries(value_BPME.shape, location_BQMLK2, attention_BQMLK, shapes)
    row_RE = _with_border(value_BPME, shapes).view(-1, width)
    grad_NE = grad_BQD.reshape(-1, width)
    shape = (len(grad_NE), len(row_RE))
    start_N = torch.arange(0, entries.row_NJ.numel() + 1, entries.row_NJ.shape[1], dtype=torch.int32)

    # S' g. SciPy reads the compressed rows of S as the compressed columns of its transpose; PyTorch would sort the entries first.
    parts = (entries.weight_NJ.flatten().numpy(), entries.row_NJ.flatten().numpy(), start_N.numpy())
    grad_row_RE = torch.from_numpy(scipy.sparse.csr_array(parts, shape=shape).T @ grad_NE.numpy())

    # g V' at the entries of S, written over the weights, which have done their work
    _silence_sparse_notice()
    pattern = torch.sparse_csr_tensor(
        start_N, entries.row_NJ.flatten(), entries.weight_NJ.flatten(), shape, check_invariants=False
    )
    torch.sparse.sampled_addmm(pattern, grad_NE, row_RE.T, beta=0.0, out=pattern)
    grad_entry_N4I = pattern.values().view(shape[0], 4, -1)
    grad_location_NI2, grad_attention_NI = _through_corners(grad_entry_N4I, entries, attention_BQMLK, shapes)
    return (
        _without_border(grad_row_RE.view(batch, -1, heads, width), shapes),
        grad_location_NI2.view(location_BQMLK2.shape),
        grad_attention_NI.view(attention_BQMLK.shape),
    )


@cache
def _silence_sparse_notice() -> None:
    """Silences PyTorch's one notice per process that sparse tensors are in beta; our tests cover the three calls made here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        torch.sparse_csr_tensor([0, 1], [0], [1.0], (1, 1), check_invariants=False)


@_sparse_sample.register_fake
def _(value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: list[int]) -> Tensor:
    batch, queries, heads = attention_BQMLK.shape[:3]
    return value_BPME.new_empty(batch, queries, heads * value_BPME.shape[3])


@_sparse_sample_backward.register_fake
def _(
    grad_BQD: Tensor, value_BPME: Tensor, location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(value_BPME), torch.empty_like(location_BQMLK2), torch.empty_like(attention_BQMLK)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.shapes = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad_BQD: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_sparse_sample_backward(grad_BQD.contiguous(), *ctx.saved_tensors, ctx.shapes), None


_sparse_sample.register_autograd(_gradients, setup_context=_keep)


# ---------------------------------------------------------------- entries of S


class _Entries(NamedTuple):
    """S by its rows. The four corners of sample i stand at columns i, I + i, 2 I + i, 3 I + i: first and second x of the first y,
    then of the second."""

    row_NJ: Tensor  # int32: which row of V
    weight_NJ: Tensor
    x_NI: Tensor  # in pixels from the edge of the border, cut to the border
    y_NI: Tensor


def _entries(shape: Sequence[int], location_BQMLK2: Tensor, attention_BQMLK: Tensor, shapes: list[int]) -> _Entries:
    """Every level has a border of zeros, one pixel before and two after, which stands for the outside: no corner needs a mask.

    Tensors are planes [N, I]: a last dimension of 2 or 4 would make each of these elementwise steps several times slower.
    """
    batch, _, heads, _ = shape
    samples = attention_BQMLK[0, 0, 0].numel()
    attention_NI = attention_BQMLK.reshape(-1, samples)
    planes = _planes(shapes, samples, attention_NI.dtype)
    half = torch.tensor(0.5, dtype=attention_NI.dtype)
    x_NI, y_NI = (
        torch.addcmul(half, plane_NI, size_I).clamp_(half * 0, size_I + 1)
        for plane_NI, size_I in zip(location_BQMLK2.reshape(-1, samples, 2).unbind(-1), planes.sizes, strict=True)
    )

    # Row of head m at place p of item b: (b P + p) M + m.
    stride_I = planes.stride_I * heads
    row_NI = (y_NI.to(torch.int32) * stride_I).add_(x_NI.to(torch.int32), alpha=heads)
    item_B = torch.arange(batch, dtype=torch.int32) * (planes.positions * heads)
    base_BMI = item_B[:, None, None] + torch.arange(heads, dtype=torch.int32)[:, None] + planes.start_I * heads
    row_NI.view(batch, -1, heads, samples).add_(base_BMI[:, None])
    row_N4I = row_NI.new_empty(len(row_NI), 4, samples)
    for corner, step_I in enumerate((torch.zeros_like(stride_I), torch.full_like(stride_I, heads), stride_I, stride_I + heads)):
        torch.add(row_NI, step_I, out=row_N4I[:, corner])

    weight_N4I = attention_NI.new_empty(len(row_NI), 4, samples)
    second_NI = attention_NI * y_NI.frac()
    x_fraction_NI = x_NI.frac()
    for corner, level_NI in ((0, attention_NI - second_NI), (2, second_NI)):
        right_NI = torch.mul(level_NI, x_fraction_NI, out=weight_N4I[:, corner + 1])
        torch.sub(level_NI, right_NI, out=weight_N4I[:, corner])
    return _Entries(row_N4I.flatten(1), weight_N4I.flatten(1), x_NI, y_NI)


def _through_corners(grad_N4I: Tensor, entries: _Entries, attention_BQMLK: Tensor, shapes: list[int]) -> tuple[Tensor, Tensor]:
    """From the gradient of the entries to that of locations (in 0..1 of the map) and attention."""
    first_left, first_right, second_left, second_right = grad_N4I.unbind(1)
    attention_NI = attention_BQMLK.reshape(first_left.shape)
    x_NI, y_NI = entries.x_NI.frac(), entries.y_NI.frac()
    first_across, second_across = first_right - first_left, second_right - second_left
    first = torch.addcmul(first_left, x_NI, first_across)
    down = torch.addcmul(second_left, x_NI, second_across).sub_(first)
    across = second_across.sub_(first_across).mul_(y_NI).add_(first_across)
    grad_attention_NI = first.addcmul_(y_NI, down)
    grad_location_NI2 = attention_NI.new_empty(*attention_NI.shape, 2)
    sizes = _planes(shapes, attention_NI.shape[1], attention_NI.dtype).sizes
    for axis, (slope, at_NI, size_I) in enumerate(zip((across, down), (entries.x_NI, entries.y_NI), sizes, strict=True)):
        # Cut coordinates do not move with their location. (At 0 itself both neighbours are zeros or count, as in grid_sample.)
        torch.mul(slope.mul_(attention_NI), size_I * ((at_NI > 0) & (at_NI < size_I + 1)), out=grad_location_NI2[..., axis])
    return grad_location_NI2, grad_attention_NI


class _Planes(NamedTuple):
    """Constants of the level of each of the I samples of a row."""

    sizes: tuple[Tensor, Tensor]  # width, height
    stride_I: Tensor  # int32: places from one line to the next, border counted
    start_I: Tensor  # int32: the level's first place
    positions: int


def _planes(shapes: list[int], samples: int, dtype: torch.dtype) -> _Planes:
    side_L2 = torch.tensor(shapes, dtype=torch.int32).view(-1, 2)
    each = samples // len(side_L2)
    height_I, width_I = side_L2.repeat_interleave(each, 0).unbind(1)
    places_L = (side_L2 + 3).prod(1)
    start_L = (places_L.cumsum(0) - places_L).to(torch.int32)
    return _Planes((width_I.to(dtype), height_I.to(dtype)), width_I + 3, start_L.repeat_interleave(each), int(places_L.sum()))


def _levels(shapes: list[int]) -> list[tuple[int, int]]:
    return list(zip(shapes[::2], shapes[1::2], strict=True))


def _with_border(value_BPME: Tensor, shapes: list[int]) -> Tensor:
    levels = torch.split(value_BPME, [height * width for height, width in _levels(shapes)], dim=1)
    maps = [level.reshape(len(level), *sides, *level.shape[2:]) for level, sides in zip(levels, _levels(shapes), strict=True)]
    return torch.cat([F.pad(map_, (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2) for map_ in maps], 1)


def _without_border(row_BPME: Tensor, shapes: list[int]) -> Tensor:
    sides = [(height + 3, width + 3) for height, width in _levels(shapes)]
    levels = torch.split(row_BPME, [height * width for height, width in sides], dim=1)
    maps = [level.reshape(len(level), *each, *level.shape[2:]) for level, each in zip(levels, sides, strict=True)]
    return torch.cat([map_[:, 1:-2, 1:-2].flatten(1, 2) for map_ in maps], 1)
